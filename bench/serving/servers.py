"""The servers that are compared: ours as shipped, and vLLM's own OpenAI server."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from bench.serving.client_peer import BASE_NAME
from bench.serving.environment import common_environment
from bench.serving.processes import BenchFailed, Process, free_port
from tailorbird.cli.tokens import add_token

HOST = "127.0.0.1"
MAX_NUM_SEQS = 128
"""Requests in one step of the engine: vLLM's default on a CPU, for its server and for ours."""

_START_SECONDS = 300.0
_POLL_SECONDS = 0.2
_HTTP_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Folders:
    """Where a run keeps its things, and the base model it serves."""

    work: Path
    base: Path

    @property
    def adapters(self) -> Path:
        """PEFT folders by tenant."""
        return self.work / "adapters"

    @property
    def store_url(self) -> str:
        """The object store of all our servers."""
        return (self.work / "store").as_uri()

    @property
    def logs(self) -> Path:
        """What the processes printed; kept when the bench fails."""
        return self.work / "logs"

    def log(self, name: str) -> Path:
        """The file a process's output goes to."""
        self.logs.mkdir(exist_ok=True)
        return self.logs / f"{name}.log"


class Ours:
    """`python -m serving_svc`, with identity on, and every other setting as shipped.

    `settings` are changes to that, by the name of the setting's environment variable.
    """

    def __init__(
        self,
        folders: Folders,
        name: str,
        slots: int,
        max_lora_rank: int | None = None,
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.slots = slots
        data = folders.work / name
        data.mkdir()
        self.token = add_token(data / "tokens.json", "bench", None)
        self.address = f"{HOST}:{free_port()}"
        self._health_port = free_port()
        told = {
            "TAILORBIRD_DATA_DIR": str(data),
            "TAILORBIRD_OBJECT_STORE": folders.store_url,
            "TAILORBIRD_BASE_MODEL": str(folders.base),
            "TAILORBIRD_TOKENS_FILE": str(data / "tokens.json"),
            "TAILORBIRD_HOST": HOST,
            "TAILORBIRD_PORT": self.address.rpartition(":")[2],
            "TAILORBIRD_METRICS_PORT": str(self._health_port),
            "TAILORBIRD_ADAPTER_SLOTS": str(slots),
        }
        if max_lora_rank is not None:
            told["TAILORBIRD_MAX_LORA_RANK"] = str(max_lora_rank)
        environment = common_environment() | told | dict(settings)
        self.process = Process(name, ["-m", "serving_svc"], environment, folders.log(name))

    def wait_until_ready(self) -> None:
        """Return when it takes requests; BenchFailed."""
        _wait_until_ready(self.process, self._health_port, "/readyz")


class Peer:
    """vLLM's OpenAI server with runtime LoRA loading."""

    def __init__(
        self,
        folders: Folders,
        name: str,
        slots: int,
        tenants: Sequence[str],
        max_lora_rank: int | None = None,
    ) -> None:
        self.port = free_port()
        self._tenants = tenants
        self._adapters = folders.adapters
        rank = [] if max_lora_rank is None else ["--max-lora-rank", str(max_lora_rank)]
        self.process = Process(
            name,
            [
                *("-m", "vllm.entrypoints.openai.api_server"),
                *("--model", str(folders.base), "--served-model-name", BASE_NAME),
                *("--host", HOST, "--port", str(self.port)),
                *("--enable-lora", "--max-loras", str(slots)),
                *("--max-cpu-loras", str(max(slots, len(tenants)))),
                *rank,
                *("--max-num-seqs", str(MAX_NUM_SEQS), "--enforce-eager"),
                *("--disable-uvicorn-access-log", "--disable-log-stats"),
            ],
            common_environment() | {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True"},
            folders.log(name),
        )

    def wait_until_ready(self) -> None:
        """Return when it takes requests for every adapter; BenchFailed."""
        _wait_until_ready(self.process, self.port, "/health")
        for tenant in self._tenants:
            self._load(tenant)

    def _load(self, tenant: str) -> None:
        """Load a tenant's adapter under the tenant's name."""
        body = {"lora_name": tenant, "lora_path": str(self._adapters / tenant)}
        status, text = _http(self.port, "POST", "/v1/load_lora_adapter", body)
        if status != 200:
            raise BenchFailed(f"{self.process.name} cannot load {tenant}: HTTP {status}: {text}")


def _wait_until_ready(process: Process, port: int, path: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while _http(port, "GET", path)[0] != 200:
        process.check()
        if time.monotonic() > deadline:
            raise BenchFailed(
                f"{process.name} was not ready in {_START_SECONDS:.0f} s; {process.tail()}"
            )
        time.sleep(_POLL_SECONDS)


def _http(port: int, method: str, path: str, body: Any = None) -> tuple[int, str]:
    """Return the status and text of an answer; 0 where there is none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=_HTTP_SECONDS)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, response.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    finally:
        connection.close()
