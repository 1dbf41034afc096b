"""One request of ours inside the engine, which may be several of the engine's."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any, Protocol

from vllm.v1.engine.parallel_sampling import ParentRequest

from serving_svc.engine.collectors import ChunkCollector


class Inside(Protocol):
    """What a request needs of the engine it is in."""

    def forget(self, ids: Sequence[str]) -> None:
        """Expect no more of these requests."""

    def abort(self, ids: Sequence[str]) -> None:
        """End these requests, which know of their end already."""


class Request:
    """One request inside the engine, of one or several completions. See generation.model.Handle."""

    def __init__(self, engine: Inside) -> None:
        self._engine = engine
        self.ids: list[str] = []
        self.requests: list[Any] = []
        self.parent_id = ""
        self.collector: ChunkCollector | None = None
        self._ended = False

    def ended(self) -> None:
        """Hear that it ended by itself."""
        self._ended = True
        self._engine.forget(self.ids)

    def abort(self) -> None:
        """See generation.model.Handle."""
        if self._ended:
            return
        if self.collector is not None:
            self.collector.close()
        self.ended()
        # The parent last: vLLM drops it when no child is left.
        self._engine.abort([*self.ids, self.parent_id] if self.parent_id else self.ids)


def fanned_out(request: Any) -> list[tuple[Any, ParentRequest | None, int]]:
    """Return the engine's requests for one of ours: one for each completion."""
    count = request.sampling_params.n
    if count == 1:
        return [(request, None, 0)]
    parent = ParentRequest(request)
    children = []
    for index in range(count):
        child = copy(request)
        child.request_id, child.sampling_params = parent.get_child_info(index)
        children.append((child, parent, index))
    return children
