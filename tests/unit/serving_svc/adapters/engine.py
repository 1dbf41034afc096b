"""Stands for the engine: adapters by id, with what FACTS.md says of their loading."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from serving_svc.adapters.model import LoadedAdapter
from tailorbird.errors import Aborted
from tailorbird.manifest import RenderedChat
from tests.unit.serving_svc.adapters.published import SEQUENCES

TOLD = {probe.token_ids: probe for probe in SEQUENCES}


class FakeEngine:
    """An engine whose adapters do what their probes say, moved by `error` nats a token."""

    def __init__(self) -> None:
        self.loaded: dict[int, LoadedAdapter] = {}
        self.added: list[LoadedAdapter] = []
        self.probed: list[tuple[tuple[int, ...], int | None]] = []
        self.rendered: list[RenderedChat] = []
        self.running: Counter[int] = Counter()
        self.error = 0.0
        self.quiet_after: int | None = None
        """After so many probes there is no more error."""
        self.add_error: Exception | None = None
        self.remove_error: Exception | None = None
        self.probe_errors: dict[tuple[int, ...], Exception] = {}
        self.may_add = asyncio.Event()
        self.may_add.set()
        self.may_probe = asyncio.Event()
        self.may_probe.set()
        self.may_remove = asyncio.Event()
        self.may_remove.set()
        self.adding = asyncio.Event()
        self.removing = asyncio.Event()

    def die(self) -> None:
        died = Aborted("the engine died", reason="ENGINE_DIED")
        self.loaded.clear()
        self.add_error = self.remove_error = died
        self.probe_errors = dict.fromkeys(TOLD, died)

    async def add_adapter(self, adapter: LoadedAdapter) -> None:
        assert adapter.engine_id not in {before.engine_id for before in self.added}
        assert adapter.name not in {before.name for before in self.added}
        assert adapter.path.is_dir()
        self.added.append(adapter)
        # As vLLM may: the id is taken from here on, whether the load ends well or not, and a
        # caller that is cancelled does not stop it.
        self.loaded[adapter.engine_id] = adapter
        self.adding.set()
        await asyncio.sleep(0)
        await self.may_add.wait()
        if self.add_error is not None:
            raise self.add_error

    async def remove_adapter(self, adapter: LoadedAdapter) -> None:
        assert not self.running[adapter.engine_id], "removed while probed"
        self.removing.set()
        await asyncio.sleep(0)
        await self.may_remove.wait()
        if self.remove_error is not None:
            raise self.remove_error
        del self.loaded[adapter.engine_id]

    async def render(self, chat: RenderedChat, tenant: str) -> Sequence[int]:
        self.rendered.append(chat)
        return [len(message.content) for message in chat.messages]

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        engine_id = 0 if adapter is None else adapter.engine_id
        assert adapter is None or engine_id in self.loaded
        self.probed.append((tuple(token_ids), None if adapter is None else engine_id))
        self.running[engine_id] += 1
        try:
            await asyncio.sleep(0)
            if tuple(token_ids) in self.probe_errors:
                raise self.probe_errors[tuple(token_ids)]
            await self.may_probe.wait()
        finally:
            self.running[engine_id] -= 1
        if self.quiet_after is not None and len(self.probed) > self.quiet_after:
            self.error = 0.0
        return self.answer(tuple(token_ids), adapter)

    def answer(self, token_ids: tuple[int, ...], adapter: LoadedAdapter | None) -> list[float]:
        told = TOLD[token_ids]
        if adapter is None:
            return list(told.base_logprobs)
        return [value + self.error for value in told.adapter_logprobs]
