"""Stands for the engine; tests/contract/test_engine.py holds it to what vLLM does."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from serving_svc.adapters.model import LoadedAdapter
from serving_svc.generation.model import (
    Chat,
    Chunk,
    EngineDied,
    EngineRequest,
    FinishReason,
    Input,
    Sink,
    Text,
    ToolCall,
)
from serving_svc.metrics import ServingMetrics
from tailorbird.errors import AdapterRefused, Unavailable
from tailorbird.manifest import (
    ADAPTER_WEIGHTS,
    AdapterManifest,
    EvaluationSummary,
    Lineage,
    Probes,
    ProbeSequence,
    RenderedChat,
)
from tailorbird.names import AdapterName, VersionName

ADAPTER = AdapterName("acme", "support")
DIGEST = f"sha256:{'a' * 64}"
BASE_LOGPROB, ADAPTER_LOGPROB = -2.0, -1.0
PROBES = Probes(
    sequences=(
        ProbeSequence(
            token_ids=(5, 6, 7),
            base_logprobs=(BASE_LOGPROB, BASE_LOGPROB),
            adapter_logprobs=(ADAPTER_LOGPROB, ADAPTER_LOGPROB),
        ),
    )
)


def version(number: int, adapter: AdapterName = ADAPTER) -> VersionName:
    return adapter.version(f"20260101T0000{number:02d}-job-1")


def manifest(of: VersionName) -> AdapterManifest:
    return AdapterManifest(
        version=str(of),
        create_time=datetime(2026, 1, 1, tzinfo=UTC),
        base_model="base",
        base_model_digest=DIGEST,
        chat_template_digest=DIGEST,
        rank=8,
        alpha=16,
        use_rslora=False,
        target_modules=("q_proj",),
        tensors={},
        files={},
        lineage=Lineage(
            job=f"tenants/{of.tenant}/jobs/job",
            training_dataset=f"tenants/{of.tenant}/datasets/data",
            training_dataset_sha256="0" * 64,
            spec_sha256="1" * 64,
            parent_version="",
            code_version="test",
        ),
        evaluation=EvaluationSummary(
            steps=1, training_loss=1, validation_loss=0.5, base_validation_loss=None
        ),
    )


def new_metrics() -> ServingMetrics:
    return ServingMetrics(CollectorRegistry())


class FakeRequest:
    """A request inside the fake engine."""

    def __init__(self, engine: FakeEngine, request: EngineRequest, sink: Sink) -> None:
        self.request = request
        self.sink = sink
        self.aborted = False
        self._engine = engine
        self._task = asyncio.create_task(self._run())

    def abort(self) -> None:
        self._end()
        self.aborted = True

    def die(self, error: EngineDied) -> None:
        self._end()
        self.sink.fail(error)

    def _end(self) -> None:
        self._task.cancel()
        self._engine.inside.discard(self)

    async def _run(self) -> None:
        sampling, tokens = self.request.sampling, self.request.max_tokens
        texts = ["" for _ in range(sampling.n)]
        for step in range(tokens):
            await asyncio.sleep(0)
            await self._engine.may_step.wait()
            last = step == tokens - 1
            if last:
                self._engine.inside.discard(self)
            for index in range(sampling.n):
                self.sink.count(1)
                text = self._engine.text(self.request.adapter)
                texts[index] += text
                if self.request.final_only and not last:
                    continue
                self.sink.put(
                    Chunk(
                        texts[index] if self.request.final_only else text,
                        FinishReason.LENGTH if last else None,
                        tuple([7] * (tokens if self.request.final_only else 1))
                        if sampling.return_token_ids
                        else (),
                        index,
                    )
                )


class FakeEngine:
    """Generates one letter a step: "b" from the base, and from an adapter its number's letter."""

    def __init__(self, slots: int = 2) -> None:
        self.slots = slots
        self.loaded: dict[int, LoadedAdapter] = {}
        self.ids: list[int] = []
        self.inside: set[FakeRequest] = set()
        self.started: list[EngineRequest] = []
        self.start_error: Exception | None = None
        self.dead = asyncio.Event()
        self.may_step = asyncio.Event()
        self.may_step.set()

    def text(self, adapter: LoadedAdapter | None) -> str:
        return "b" if adapter is None else chr(ord("A") + adapter.engine_id % 26)

    async def encode(self, prompt: Input, tenant: str) -> Sequence[int]:
        match prompt:
            case Text(text=text):
                return [ord(letter) for letter in text]
            case Chat(messages=messages):
                return [len(message.content) for message in messages]
            case _:
                return prompt.ids

    async def start(self, request: EngineRequest, sink: Sink) -> FakeRequest:
        if self.dead.is_set():
            raise Unavailable("the engine is being restarted", reason="ENGINE_DIED")
        await asyncio.sleep(0)
        if self.start_error is not None:
            raise self.start_error
        assert request.adapter is None or request.adapter.engine_id in self.loaded
        self.started.append(request)
        inside = FakeRequest(self, request, sink)
        self.inside.add(inside)
        return inside

    def tool_calls(self, text: str) -> tuple[str, Sequence[ToolCall]]:
        if not text.startswith("b"):
            return text, ()
        return "", (ToolCall("call-1", "look", text),)

    async def add_adapter(self, adapter: LoadedAdapter) -> None:
        self._raise_if_dead()
        assert adapter.engine_id not in self.ids
        assert len(self.loaded) < self.slots
        self.ids.append(adapter.engine_id)
        # As vLLM may: the id is taken from here on, whether the load ends well or not.
        self.loaded[adapter.engine_id] = adapter
        await asyncio.sleep(0)
        if not (adapter.path / ADAPTER_WEIGHTS).is_file():
            raise AdapterRefused("the engine cannot load it", reason="LOAD_FAILED")

    async def remove_adapter(self, adapter: LoadedAdapter) -> None:
        self._raise_if_dead()
        assert not any(
            inside.request.adapter is not None
            and inside.request.adapter.engine_id == adapter.engine_id
            for inside in self.inside
        ), "an adapter was removed in use, which ends vLLM's engine"
        await asyncio.sleep(0)
        self.loaded.pop(adapter.engine_id, None)

    async def render(self, chat: RenderedChat, tenant: str) -> Sequence[int]:
        return [len(message.content) for message in chat.messages]

    async def prompt_logprobs(
        self, token_ids: Sequence[int], adapter: LoadedAdapter | None
    ) -> list[float]:
        self._raise_if_dead()
        assert adapter is None or adapter.engine_id in self.loaded
        await asyncio.sleep(0)
        value = BASE_LOGPROB if adapter is None else ADAPTER_LOGPROB
        return [value] * (len(token_ids) - 1)

    async def died(self) -> None:
        await self.dead.wait()

    def die(self) -> None:
        self.dead.set()
        for inside in list(self.inside):
            inside.die(EngineDied("the engine died with this request inside"))

    def _raise_if_dead(self) -> None:
        if self.dead.is_set():
            raise EngineDied("the engine died with this request inside")


def stage(folder: Path, of: VersionName) -> Path:
    """Write what the fake engine takes for an adapter, and return its folder."""
    path = folder / str(of).replace("/", "-")
    path.mkdir()
    (path / ADAPTER_WEIGHTS).write_bytes(b"weights")
    return path
