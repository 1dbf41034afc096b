"""Answers that callers choose to keep, on their way to the object store."""
