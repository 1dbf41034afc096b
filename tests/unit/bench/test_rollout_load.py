from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

from bench.rollout.load import Load
from bench.rollout.load_plan import Heard, LoadPlan, Shot, Target, fault_of
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as pb_grpc

ADAPTER = Target("tenants/a/adapters/bench", "token-a", "v1", "marker one")
BASE = Target("tenants/b", "token-b")


def plan(address: str = "", rate: float = 200.0) -> LoadPlan:
    return LoadPlan(address, rate, "Who are you?", (ADAPTER, BASE), tokens=8, long_tokens=64)


def test_a_plan_travels_as_a_line() -> None:
    assert LoadPlan.from_json(plan().to_json()) == plan()


def test_every_target_is_asked_by_either_method_and_the_base_for_long() -> None:
    asked = {(shot.target.model, shot.method, shot.tokens) for shot in plan().shots()}
    assert asked == {
        (ADAPTER.model, "Generate", 8),
        (ADAPTER.model, "StreamGenerate", 8),
        (BASE.model, "Generate", 8),
        (BASE.model, "StreamGenerate", 8),
        (BASE.model, "StreamGenerate", 64),
    }


@pytest.mark.parametrize(
    ("heard", "fault"),
    [
        (Heard("v1", "marker one", stopped=True), ""),
        (Heard("v2", "marker one", stopped=True), "wrong"),
        (Heard("", "marker one", stopped=True), "wrong"),
        (Heard("v1", "marker two", stopped=True), "wrong"),
        (Heard("v1", "marker", stopped=True), "cut_short"),
        (Heard("v1", "marker one"), "cut_short"),
        (Heard("v1"), "cut_short"),
    ],
)
def test_an_adapter_answers_its_marker_whole(heard: Heard, fault: str) -> None:
    assert fault_of(Shot(ADAPTER, "Generate", 8), heard) == fault


@pytest.mark.parametrize(
    ("heard", "fault"),
    [
        (Heard(text="text", at_limit=True, tokens=8), ""),
        (Heard(text="text", at_limit=True, tokens=7), "cut_short"),
        (Heard(text="text", stopped=True, tokens=8), "cut_short"),
        (Heard(at_limit=True, tokens=8), "cut_short"),
        (Heard("v1", "text", at_limit=True, tokens=8), "wrong"),
    ],
)
def test_the_base_answers_at_its_length(heard: Heard, fault: str) -> None:
    assert fault_of(Shot(BASE, "StreamGenerate", 8), heard) == fault


class Scripted(pb_grpc.InferenceServiceServicer):
    """Answers generations, cuts streams short, and refuses the base."""

    def __init__(self) -> None:
        self.numbers: list[str] = []
        self.asked_enough = asyncio.Event()
        self.hashed_on: set[str] = set()

    def _note(self, context: Any) -> None:
        metadata = dict(context.invocation_metadata())
        self.numbers.append(metadata["x-bench-request"])
        self.hashed_on.add(metadata["x-tailorbird-adapter"])
        if len(self.numbers) == 20:
            self.asked_enough.set()

    async def GetServerInfo(self, request: Any, context: Any) -> pb.GetServerInfoResponse:
        raise AssertionError("the load does not ask")

    async def RecordFeedback(self, request: Any, context: Any) -> pb.RecordFeedbackResponse:
        raise AssertionError("the load keeps nothing")

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        self._note(context)
        if not request.adapter:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
        return pb.GenerateResponse(
            version="v1", text="marker one", finish_reason=pb.FINISH_REASON_STOP
        )

    async def StreamGenerate(
        self, request: pb.StreamGenerateRequest, context: Any
    ) -> AsyncIterator[pb.StreamGenerateResponse]:
        self._note(context)
        yield pb.StreamGenerateResponse(version="v1", text="mark")


async def test_each_request_is_sent_once_and_every_fault_is_written_down() -> None:
    server, scripted = grpc.aio.server(), Scripted()
    pb_grpc.add_InferenceServiceServicer_to_server(scripted, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    load = Load(plan(f"127.0.0.1:{port}"))
    running = asyncio.create_task(load.run())
    await scripted.asked_enough.wait()
    load.stop()
    await running
    await server.stop(None)

    assert sorted(map(int, scripted.numbers)) == list(range(len(load.asked)))
    assert scripted.hashed_on == {ADAPTER.model, BASE.model}
    for asked in load.asked:
        if asked.method == "StreamGenerate":
            # The base has no version.
            expected = ("cut_short", "wrong")[asked.model == BASE.model]
            assert (asked.fault, asked.why) == (expected, "v1 answered 'mark'")
        elif asked.model == BASE.model:
            assert (asked.fault, asked.why) == ("refused", "UNAVAILABLE : going away")
        else:
            assert asked.fault == ""
        assert asked.begin < asked.end
