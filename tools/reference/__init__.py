"""Writes docs/reference from what the code says of itself, and tells whether it still says so."""
