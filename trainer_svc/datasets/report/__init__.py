"""What a dataset is like, found in one pass while it is uploaded."""
