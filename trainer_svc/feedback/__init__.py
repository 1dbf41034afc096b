"""Feedback that serving recorded: read, deleted, and made into datasets."""
