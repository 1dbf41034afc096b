"""What the lines of a dataset may be: read and checked as an upload is. Pure."""
