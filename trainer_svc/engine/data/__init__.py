"""Records become token ids, and token ids become steps."""
