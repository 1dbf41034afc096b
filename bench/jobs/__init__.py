"""The queue of many tenants, and jobs under trainers that are killed."""
