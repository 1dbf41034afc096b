"""Many runs through one bank: fair shares, group steps, evaluation in pieces."""
