"""A rolling restart of serving under load, and of the trainer while a job runs."""
