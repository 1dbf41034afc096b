"""A real `python -m serving_svc` in a child process, and typed calls to it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from tailorbird.adapters.v1 import adapter_service_pb2_grpc as adapters_grpc
from tailorbird.rpc.status import reason_of
from tailorbird.serving.v1 import inference_service_pb2 as pb
from tailorbird.serving.v1 import inference_service_pb2_grpc as inference_grpc

START_SECONDS = 240.0


class ServingProcess:
    """Serving in a process of its own, with JSON logs in a file."""

    def __init__(
        self,
        environment: dict[str, str],
        log: Path,
        command: Sequence[str] = ("-m", "serving_svc"),
    ) -> None:
        self.log = log
        self._serving: dict[str, Any] = {}
        self._seen = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, *command],
            env=os.environ
            | {
                "TAILORBIRD_PORT": "0",
                "TAILORBIRD_METRICS_PORT": "0",
                "TAILORBIRD_LOG_FORMAT": "json",
                # So small a model is fastest on one thread, and on a busy machine by far.
                "OMP_NUM_THREADS": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            }
            | environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def target(self) -> str:
        return str(self._serving["grpc"])

    @property
    def openai_url(self) -> str:
        """What OpenAI's clients call the base URL."""
        return f"http://{self._serving['http']}/v1"

    def wait_until_serving(self) -> None:
        if not self._seen.wait(START_SECONDS) or not self._serving:
            raise RuntimeError(f"serving did not start:\n{self.log.read_text()[-4000:]}")

    def http(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{self._serving['metrics']}{path}") as answer:
            return str(answer.read().decode())

    def metric(self, line: str) -> float:
        """Return the value of the sample that begins with `line`, or 0."""
        for sample in self.http("/metrics").splitlines():
            if sample.startswith(line + " "):
                return float(sample.rpartition(" ")[2])
        return 0.0

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 60) -> int:
        code = self.process.wait(seconds)
        self._reader.join(seconds)
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.log.open("w") as log:
            for line in self.process.stderr:
                log.write(line)
                log.flush()
                if '"event": "serving"' in line:
                    self._serving = json.loads(line)
                    self._seen.set()
        self._seen.set()


def free_port() -> int:
    """Return a port of this machine that was free just now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Client:
    """Both services' stubs on one channel, with one caller's token."""

    def __init__(self, target: str, token: str) -> None:
        self.channel = grpc.aio.insecure_channel(target)
        self.metadata = (("authorization", f"Bearer {token}"),)
        self.adapters: adapters_grpc.AdapterServiceAsyncStub = adapters_grpc.AdapterServiceStub(
            self.channel
        )
        self.inference: inference_grpc.InferenceServiceAsyncStub = (
            inference_grpc.InferenceServiceStub(self.channel)
        )

    async def generate(self, request: pb.GenerateRequest) -> pb.GenerateResponse:
        return await self.inference.Generate(request, metadata=self.metadata, timeout=120)

    def stream(self, request: pb.GenerateRequest) -> Any:
        return self.inference.StreamGenerate(
            pb.StreamGenerateRequest(request=request), metadata=self.metadata, timeout=120
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close()


async def refusal(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Return code, reason and text of the error that `call` ends with."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code(), reason_of(error), error.details() or ""
    raise AssertionError("the call went through")
