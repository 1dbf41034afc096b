"""Answers and likelihoods of many prompts at once, over the bank's base and its adapters."""
