"""Tests of vLLM itself under our changes."""
