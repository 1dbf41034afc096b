"""One life of the engine, with everything that dies with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serving_svc.adapters.model import LoadedAdapter
from serving_svc.adapters.residency import Residency
from serving_svc.generation.model import EngineRequest, Handle, Input, Sink
from serving_svc.generation.scheduler import Scheduler
from serving_svc.generation.slot_loader import SlotLoader


class Engine(Protocol):
    """What generating needs of the engine."""

    async def encode(self, prompt: Input, tenant: str) -> Sequence[int]:
        """Return the prompt's token ids; tenants with long prompts take turns.

        Raises InvalidArgument if it is far too long or the chat cannot be rendered,
        FailedPrecondition if the base has no chat template, and Unavailable if the engine ended.
        """

    async def start(self, request: EngineRequest, sink: Sink) -> Handle:
        """Begin to generate: from now on `sink` hears of it, and of nothing if this raises.

        No two tenants share cached state. Raises InvalidArgument, EngineDied, and Unavailable if
        the engine was dead before.
        """

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        """Return the logprob of each token but the first, given those before it, in nats."""


@dataclass(frozen=True, slots=True)
class Life:
    """The engine, what it holds, and who waits for it."""

    engine: Engine
    residency: Residency
    scheduler: Scheduler
    loader: SlotLoader


class Lives(Protocol):
    """Where the present life is found."""

    def current(self) -> Life:
        """Return it; Unavailable (ENGINE_RESTARTING) while there is none."""


class PresentEngine:
    """Scores with whichever engine there is."""

    def __init__(self, lives: Lives) -> None:
        self._lives = lives

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        """See Engine; Unavailable while there is none."""
        return await self._lives.current().engine.prompt_logprobs(token_ids, adapter)
