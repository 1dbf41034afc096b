"""OpenAI's HTTP, for serving: JSON to the request that gRPC would bring, and its answer to JSON.

The same callers, limits, checks and errors; docs/openai.md says what is taken.
"""
