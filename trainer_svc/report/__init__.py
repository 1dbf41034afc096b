"""What is told of a version: its report, the page people read, and its model card. Pure."""
