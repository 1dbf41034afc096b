"""Whether a tuned adapter is better than what there was: figures, intervals, a decision. Pure."""
