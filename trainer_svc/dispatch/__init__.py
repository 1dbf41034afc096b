"""From the queue to a worker, and from what it uploads to a version."""
