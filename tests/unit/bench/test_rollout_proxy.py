"""The proxy is a real nginx; the replicas are small gRPC servers."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, cast

import grpc
import pytest

from bench.rollout.endpoints import Endpoints
from bench.rollout.pods import Pod
from bench.rollout.proxy import Proxy
from bench.serving.processes import BenchFailed, free_port
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as pb_grpc

ADAPTERS = [f"tenants/t-{number}/adapters/bench" for number in range(8)]


class Named(pb_grpc.InferenceServiceServicer):
    def __init__(self, name: str) -> None:
        self._name = name

    def Generate(self, request: pb.GenerateRequest, context: Any) -> pb.GenerateResponse:
        return pb.GenerateResponse(text=self._name)

    def StreamGenerate(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "this test calls Generate alone")

    def RecordFeedback(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "this test calls Generate alone")

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "this test calls Generate alone")


@contextmanager
def replica(name: str) -> Iterator[str]:
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool)
        pb_grpc.add_InferenceServiceServicer_to_server(Named(name), server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def proxy(tmp_path: Path) -> Proxy:
    try:
        return Proxy(tmp_path / "nginx", tmp_path / "nginx.log")
    except BenchFailed as error:
        pytest.skip(str(error))


class Caller:
    """Asks through the proxy, once each time, on a connection that outlives reloads."""

    def __init__(self, proxy: Proxy, stack: ExitStack) -> None:
        channel = stack.enter_context(grpc.insecure_channel(proxy.address))
        grpc.channel_ready_future(channel).result(60)
        self._stub = pb_grpc.InferenceServiceStub(channel)
        self._numbers = iter(range(10**6))

    def ask(self, adapter: str) -> str:
        number = str(next(self._numbers))
        metadata = (("x-tailorbird-adapter", adapter), ("x-bench-request", number))
        return self._stub.Generate(pb.GenerateRequest(), metadata=metadata, timeout=60).text


def test_an_adapter_stays_with_its_replica_and_moves_when_that_goes(
    proxy: Proxy, stack: ExitStack
) -> None:
    addresses = {name: stack.enter_context(replica(name)) for name in ("a", "b")}
    proxy.route_to(addresses.values())
    stack.callback(proxy.start().stop)
    caller = Caller(proxy, stack)

    homes = {adapter: caller.ask(adapter) for adapter in ADAPTERS}
    assert {adapter: caller.ask(adapter) for adapter in ADAPTERS} == homes

    proxy.route_to([addresses["b"]])
    # nginx takes the list soon after it was told.
    while {caller.ask(adapter) for adapter in ADAPTERS} != {"b"}:
        pass
    sent = list(proxy.attempts().values())
    assert all(len(attempts) == 1 for attempts in sent)
    assert sent[0] == [addresses[homes[ADAPTERS[0]]]]


def test_a_request_to_a_replica_that_does_not_listen_is_sent_nowhere_else(
    proxy: Proxy, stack: ExitStack
) -> None:
    alive, dead = stack.enter_context(replica("a")), f"127.0.0.1:{free_port()}"
    proxy.route_to([alive, dead])
    stack.callback(proxy.start().stop)
    caller = Caller(proxy, stack)
    outcomes: set[object] = set()
    for number in range(64):
        try:
            outcomes.add(caller.ask(f"tenants/t-{number}"))
        except grpc.RpcError as error:
            outcomes.add(error.code())
    assert outcomes == {"a", grpc.StatusCode.UNAVAILABLE}
    assert {len(attempts) for attempts in proxy.attempts().values()} == {1}


def test_a_reload_finds_an_nginx_that_was_started_just_now(proxy: Proxy, stack: ExitStack) -> None:
    address = stack.enter_context(replica("a"))
    proxy.route_to(["127.0.0.1:1"])
    stack.callback(proxy.start().stop)
    proxy.route_to([address])
    caller = Caller(proxy, stack)
    answer = ""
    # nginx takes the list soon after it was told; nobody listens where it sent requests before.
    while not answer:
        with suppress(grpc.RpcError):
            answer = caller.ask(ADAPTERS[0])
    assert answer == "a"


def test_an_nginx_that_cannot_start_ends_the_bench(proxy: Proxy) -> None:
    proxy.route_to(["127.0.0.1:none"])
    with pytest.raises(BenchFailed, match="nginx ended"):
        proxy.start()


def test_a_list_that_nginx_does_not_take_ends_the_bench(proxy: Proxy, stack: ExitStack) -> None:
    proxy.route_to(["127.0.0.1:1"])
    process = proxy.start()
    stack.callback(process.stop)
    Caller(proxy, stack)
    with pytest.raises(BenchFailed, match="nginx does not take its replicas"):
        proxy.route_to(["127.0.0.1:none"])


class ScriptedPod:
    """A pod whose readiness the test says."""

    def __init__(self, address: str) -> None:
        self.name = self.address = address
        self.ready = True
        self.process = self

    def is_ready(self) -> bool:
        return self.ready

    def check(self) -> None:
        """It never ends."""

    def tail(self) -> str:
        return "its log"


class Listed:
    """What the proxy was told, one list after the other."""

    def __init__(self) -> None:
        self.lists: list[list[str]] = []
        self._changed = threading.Condition()

    def route_to(self, addresses: Iterable[str]) -> None:
        with self._changed:
            self.lists.append(list(addresses))
            self._changed.notify_all()

    def until(self, *addresses: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.lists[-1:] == [list(addresses)], 60)


def test_only_who_is_ready_is_listed(stack: ExitStack) -> None:
    first, second, listed = ScriptedPod("first"), ScriptedPod("second"), Listed()
    endpoints = Endpoints(listed.route_to, period=0.01)
    endpoints.add(cast("Pod", first))
    endpoints.add(cast("Pod", second))
    endpoints.start()
    stack.callback(endpoints.stop)
    endpoints.wait_until_listed(cast("Pod", first), 60)
    first.ready = False
    listed.until("second")
    endpoints.remove(cast("Pod", first))
    # Nobody is no list.
    second.ready = False
    third = ScriptedPod("third")
    endpoints.add(cast("Pod", third))
    endpoints.wait_until_listed(cast("Pod", third), 60)
    assert listed.lists == [["first", "second"], ["second"], ["third"]]


def test_a_pod_that_is_never_ready_ends_the_bench(stack: ExitStack) -> None:
    pod = ScriptedPod("slow")
    pod.ready = False
    endpoints = Endpoints(Listed().route_to, period=0.01)
    endpoints.add(cast("Pod", pod))
    endpoints.start()
    stack.callback(endpoints.stop)
    with pytest.raises(BenchFailed, match="slow was not ready in 0 s; its log"):
        endpoints.wait_until_listed(cast("Pod", pod), 0.1)


def test_a_proxy_that_fails_ends_the_bench(stack: ExitStack) -> None:
    def refuse(_: Iterable[str]) -> None:
        raise BenchFailed("nginx does not take its replicas")

    pod, endpoints = cast("Pod", ScriptedPod("a")), Endpoints(refuse, period=0.01)
    endpoints.add(pod)
    endpoints.start()
    stack.callback(endpoints.stop)
    with pytest.raises(BenchFailed, match="the endpoints: nginx does not take"):
        endpoints.wait_until_listed(pod, 60)
