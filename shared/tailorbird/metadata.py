"""Names in the metadata, or HTTP headers, that are sent beside messages."""

ADAPTER = "x-tailorbird-adapter"
"""The adapter that a request is for: proxies hash it, and a request may name it here alone."""

MODEL_REWRITE = "x-llm-d-model-name-rewrite"
"""The model a request is for, as llm-d's router reads it and says which one it chose."""

WATCHING = "x-tailorbird-watching"
"""In the answer of a service that has begun a watch, however long its first event takes."""

TENANT = "x-tailorbird-tenant"
"""Over HTTP: whose names a request gives short, and who uses the base model."""

VERSION = "x-tailorbird-version"
"""In an answer over HTTP: the version that gave it."""

ROUTE_GENERATION = "x-tailorbird-route-generation"
"""In an answer over HTTP: generation of the route that chose the version."""
