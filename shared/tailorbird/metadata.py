"""Names in the gRPC metadata that callers and services give each other beside their messages."""

ADAPTER = "x-tailorbird-adapter"
"""The adapter that a request is for: proxies hash it, and a request may name it here alone."""

MODEL_REWRITE = "x-llm-d-model-name-rewrite"
"""The model a request is for, as llm-d's router reads it and says which one it chose."""

WATCHING = "x-tailorbird-watching"
"""In the answer of a service that has begun a watch, however long its first event takes."""
