"""Uploaded datasets: checked record by record, kept in the object store."""
