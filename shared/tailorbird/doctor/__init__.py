"""What is looked at where something is wrong: checks that change nothing, and what they find."""
