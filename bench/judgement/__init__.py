"""What judging a version, and finding its settings, costs and finds."""
