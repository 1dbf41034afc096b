"""Whether a tuned adapter is better than what there was: figures, their intervals, a decision. Pure."""
