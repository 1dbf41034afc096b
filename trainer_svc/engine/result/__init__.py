"""What is kept of a run, judged, proven and published."""
