"""A sweep's trials: many runs of one job, of which the better go on from rung to rung."""
