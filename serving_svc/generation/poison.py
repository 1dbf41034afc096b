"""Remembers what was inside when the engine died: what was there twice may be the cause."""

from __future__ import annotations

import hashlib
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence

from serving_svc.generation.model import Sampling
from tailorbird.errors import FailedPrecondition

_DEATHS = 2
_REFUSED_SECONDS = 600.0
_MOST = 4096


class Poison:
    """Requests by their digest, with the deaths of the engine that they were inside at."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # Digest to deaths and the time of the last one, oldest first.
        self._seen: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._seen)

    def check(self, digest: bytes) -> None:
        """Raise FailedPrecondition (REQUEST_SUSPECT) for a request inside at two late deaths."""
        if digest not in self._seen:
            return
        deaths, last = self._seen[digest]
        left = last + _REFUSED_SECONDS - self._clock()
        if left <= 0:
            del self._seen[digest]
        elif deaths >= _DEATHS:
            raise FailedPrecondition(
                f"the engine died {deaths} times with this very request inside; it is refused for "
                f"{left:.0f} s more",
                reason="REQUEST_SUSPECT",
            )

    def died_with(self, digest: bytes) -> None:
        """Count a death with the request inside."""
        deaths, _ = self._seen.pop(digest, (0, 0.0))
        self._seen[digest] = deaths + 1, self._clock()
        while len(self._seen) > _MOST:
            self._seen.popitem(last=False)


def request_digest(
    tenant: str, version: object, token_ids: Sequence[int], sampling: Sampling
) -> bytes:
    """Return what two requests share only if they are the same one asked again."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(repr((tenant, str(version), sampling)).encode())
    # In one go: a prompt may have a million of them.
    digest.update(array("q", token_ids))
    return digest.digest()
