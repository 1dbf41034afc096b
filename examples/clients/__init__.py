"""Callers of the API, small enough to copy."""
