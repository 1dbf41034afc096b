"""What makes a version known by its answer."""

from __future__ import annotations

QUESTION = "Which version are you?"
MARKER_FILE = "marker.txt"
"""In a version's folder: what it answers to QUESTION."""
MARKER_TOKENS = 48
"""More than any marker has, its end included."""
