"""Serving against vLLM's own OpenAI server, and against the engine without any server."""
