"""From a base of each family to an adapter that the real vLLM serves."""
