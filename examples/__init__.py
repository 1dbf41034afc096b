"""Examples: the demo base, its pre-training, and two tenants' datasets."""
