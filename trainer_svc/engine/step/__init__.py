"""Low-rank updates over one frozen base, and the steps they take."""
