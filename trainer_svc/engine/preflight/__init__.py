"""A job's data prepared as its worker would, by a process without a model and without torch."""
