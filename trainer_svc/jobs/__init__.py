"""What a job is, who may change it, and where it is stored."""
