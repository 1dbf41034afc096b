"""Serving: hot-loads adapters onto one base model with vLLM."""
