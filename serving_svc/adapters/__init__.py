"""Which versions there are, which answers, and what this replica holds of them."""
