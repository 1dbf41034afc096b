"""The clients for asyncio, from which tools/twins.py makes the synchronous ones.

`tailorbird.client` has both.
"""
