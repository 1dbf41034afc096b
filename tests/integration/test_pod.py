"""Both services as a restricted pod has them: no name, no home, a read-only root and base."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tailorbird.cli.tokens import add_token
from tailorbird.client import ServingClient, TrainerClient, chat_request
from tailorbird.tuning.v1 import job_pb2
from tests.certificates import Authority
from tests.integration import pod

BASE = Path(__file__).parents[2] / "examples" / "demo_base"
ACME = "tenants/acme"
# Native libraries' own words, and vLLM's first, before anything of ours is imported in its process.
NOT_OURS = ("[W", "nanobind:", " - ", "See https://nanobind", "Triton is ")


class Pod:
    """A service in a pod, with TLS and one token; every line it logs."""

    def __init__(self, folder: Path, module: str, **more: str) -> None:
        pod.skip_unless_possible()
        self.authority = Authority()
        self.data = folder / "data"
        secrets = self.data / "secrets"
        self.authority.pair().write(secrets)
        self.token = add_token(secrets / "tokens.json", "acme", ["acme"])
        for path in secrets.iterdir():
            path.chmod(0o444)
        inside = pod.DATA / "secrets"
        self.lines: list[str] = []
        self._ready = threading.Event()
        self.said: dict[str, Any] = {}
        self.process = subprocess.Popen(
            pod.command(self.data, BASE, "-m", module),
            env=pod.environment(
                TAILORBIRD_TLS_CERTIFICATE_FILE=str(inside / "tls.crt"),
                TAILORBIRD_TLS_KEY_FILE=str(inside / "tls.key"),
                TAILORBIRD_TOKENS_FILE=str(inside / "tokens.json"),
                **more,
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def until_ready(self) -> dict[str, Any]:
        assert self._ready.wait(240)
        assert self.said, "".join(self.lines)[-4000:]
        return self.said

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        self._reader.join()
        return status

    def records(self) -> list[dict[str, Any]]:
        """Return the lines logged, each of which must be a JSON object."""
        own = [line for line in self.lines if not line.startswith(NOT_OURS)]
        return [json.loads(line) for line in own]

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if '"event": "trainer ready"' in line or '"event": "serving"' in line:
                self.said = json.loads(line)
                self._ready.set()
        self._ready.set()


@contextmanager
def running(folder: Path, module: str, **more: str) -> Iterator[Pod]:
    made = Pod(folder, module, **more)
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        made._reader.join()
        if made.process.stderr is not None:
            made.process.stderr.close()


def chats(path: Path) -> Path:
    rng = random.Random(7)
    rows = []
    for _ in range(40):
        word = "".join(rng.choices("abcdefghij", k=5))
        said = [{"role": "user", "content": word}, {"role": "assistant", "content": f"{word}!"}]
        rows.append(json.dumps({"messages": said}))
    path.write_text("\n".join(rows))
    return path


def test_the_trainer_trains_in_a_pod(tmp_path: Path) -> None:
    # So a container's runtime sets it for a user without a name.
    with running(tmp_path, "trainer_svc", HOME="/") as trainer:
        said = trainer.until_ready()
        address = f"localhost:{said['port']}"
        with TrainerClient(
            address, trainer.token, root_certificates=trainer.authority.pem
        ) as client:
            client.upload_dataset(ACME, "chats", chats(tmp_path / "chats.jsonl"))
            spec = job_pb2.JobSpec(
                promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
                training_dataset=f"{ACME}/datasets/chats",
                adapter=f"{ACME}/adapters/voice",
                lora=job_pb2.LoraConfig(rank=8),
                hyperparameters=job_pb2.Hyperparameters(epochs=1, batch_tokens=256),
            )
            events = list(client.watch_job(client.create_job(ACME, spec).name))
        assert events[-1].state_changed.state == job_pb2.JOB_STATE_SUCCEEDED
        assert trainer.stop() == 0
    assert all("event" in record for record in trainer.records())
    assert not any("Traceback" in line for line in trainer.lines)
    # The base was mounted read-only: what is remembered of it lies with the data.
    assert (trainer.data / "cache" / "base-digests.json").is_file()


@pytest.mark.timeout(400)
def test_serving_serves_in_a_pod(tmp_path: Path) -> None:
    with running(
        tmp_path,
        "serving_svc",
        TAILORBIRD_ADAPTER_SLOTS="2",
        VLLM_CPU_OMP_THREADS_BIND="nobind",
        VLLM_LOGGING_LEVEL="INFO",
    ) as serving:
        address = f"localhost:{serving.until_ready()['grpc'].rpartition(':')[2]}"
        with ServingClient(
            address, serving.token, root_certificates=serving.authority.pem
        ) as client:
            answer = client.generate(chat_request(ACME, "Hello?", max_tokens=4), timeout=60)
        assert answer.usage.completion_tokens == 4
        assert serving.stop() == 0
    records = serving.records()
    # The engine's own process among them.
    assert any(record["logger"].startswith("vllm.v1.engine.core") for record in records)
    assert not any("Traceback" in line for line in serving.lines)
