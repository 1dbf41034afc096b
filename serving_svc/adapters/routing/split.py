"""Which of a route's versions answers a request: by weight, and by key always the same one."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence

from tailorbird.names import AdapterName
from tailorbird.routes import RoutedVersion

_BITS = 52
"""As many as leave room in a float for the half that keeps a draw off 0 and 1."""


def choose(adapter: AdapterName, versions: Sequence[RoutedVersion], routing_key: str) -> str:
    """Return the id of the version that answers; without a key one is drawn by weight.

    With a key it is weighted rendezvous hashing (Schindelhauer and Schomaker, 2005): every version
    draws once from adapter, key and its own id, the same on every replica, and the largest of
    weight / -ln(draw) answers. When a weight changes, only keys that go to or come from that
    version move.
    """
    if len(versions) == 1:
        return versions[0].version
    if not routing_key:
        (drawn,) = random.choices(versions, [routed.weight for routed in versions])  # noqa: S311
        return drawn.version
    return max(versions, key=lambda routed: _score(adapter, routed, routing_key)).version


def _score(adapter: AdapterName, routed: RoutedVersion, routing_key: str) -> tuple[float, str]:
    # A version's name has no line break: the key cannot pass for a part of it.
    text = f"{adapter.version(routed.version)}\n{routing_key}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    draw = ((int.from_bytes(digest, "big") >> (64 - _BITS)) + 0.5) / 2**_BITS
    return routed.weight / -math.log(draw), routed.version
