"""What keeps a service from starting: one line, with the setting and its key in values.yaml."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tailorbird.cli.tokens import add_token
from tests.certificates import Authority

BASE = Path(__file__).parents[2] / "examples" / "demo_base"
S3 = {
    "AWS_ACCESS_KEY_ID": "x",
    "AWS_SECRET_ACCESS_KEY": "x",
    "AWS_REGION": "us-east-1",
    "AWS_ALLOW_HTTP": "true",
    "TAILORBIRD_OBJECT_STORE": "s3://adapters",
}

Environment = dict[str, str]


def store_away(folder: Path) -> Environment:
    return S3 | {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}


def store_not_writable(folder: Path) -> Environment:
    return {"TAILORBIRD_OBJECT_STORE": "file:///proc/1/store"}


def no_tokens(folder: Path) -> Environment:
    return {"TAILORBIRD_TOKENS_FILE": str(folder / "none.json")}


def broken_tokens(folder: Path) -> Environment:
    (folder / "tokens.json").write_text("{\n\n")
    return {"TAILORBIRD_TOKENS_FILE": str(folder / "tokens.json")}


def no_certificate(folder: Path) -> Environment:
    return tls(folder, folder / "none.crt", Authority().pair().write(folder)[1])


def another_key(folder: Path) -> Environment:
    certificate, _ = Authority().pair().write(folder / "one")
    return tls(folder, certificate, Authority().pair().write(folder / "other")[1])


def certificate_alone(folder: Path) -> Environment:
    return {"TAILORBIRD_TLS_CERTIFICATE_FILE": str(Authority().pair().write(folder)[0])}


def tls(_: Path, certificate: Path, key: Path) -> Environment:
    return {
        "TAILORBIRD_TLS_CERTIFICATE_FILE": str(certificate),
        "TAILORBIRD_TLS_KEY_FILE": str(key),
    }


def no_base(folder: Path) -> Environment:
    return {"TAILORBIRD_BASE_MODEL": str(folder / "none")}


def other_base(folder: Path) -> Environment:
    return {"TAILORBIRD_BASE_MODEL_DIGEST": f"sha256:{'0' * 64}"}


def no_further_base(folder: Path) -> Environment:
    return {"TAILORBIRD_MORE_BASE_MODELS": json.dumps([{"model": str(folder / "none")}])}


def the_same_base_again(folder: Path) -> Environment:
    return {"TAILORBIRD_MORE_BASE_MODELS": json.dumps([{"model": str(BASE), "name": "again"}])}


def no_list_of_bases(folder: Path) -> Environment:
    return {"TAILORBIRD_MORE_BASE_MODELS": str(BASE)}


def too_little_memory(folder: Path) -> Environment:
    return {"TAILORBIRD_BASE_MEMORY_GIB": "0.0001"}


def no_digest(folder: Path) -> Environment:
    return {"TAILORBIRD_BASE_MODEL_DIGEST": "sha256:0"}


def no_data_dir(folder: Path) -> Environment:
    return {"TAILORBIRD_DATA_DIR": "/proc/1/data"}


def nonsense_rank(folder: Path) -> Environment:
    return {"TAILORBIRD_MAX_LORA_RANK": "7"}


def open_address(folder: Path) -> Environment:
    return {"TAILORBIRD_HOST": "0.0.0.0"}


def address_of_another_machine(folder: Path) -> Environment:
    add_token(folder / "tokens.json", "billing", ["acme"])
    return {
        "TAILORBIRD_HOST": "192.0.2.1",
        "TAILORBIRD_TOKENS_FILE": str(folder / "tokens.json"),
    }


def database_away(folder: Path) -> Environment:
    return {"TAILORBIRD_DATABASE_URL": "postgresql+asyncpg://me:secret@127.0.0.1:1/jobs"}


def database_without_driver(folder: Path) -> Environment:
    return {"TAILORBIRD_DATABASE_URL": "mysql://me:secret@127.0.0.1:1/jobs"}


def no_general_data(folder: Path) -> Environment:
    return {"TAILORBIRD_GENERAL_DATA": str(folder / "none.jsonl")}


def broken_general_data(folder: Path) -> Environment:
    (folder / "general.jsonl").write_text('{"text": "a"}\n[]\n')
    return {"TAILORBIRD_GENERAL_DATA": str(folder / "general.jsonl")}


def no_safety_lists(folder: Path) -> Environment:
    return {"TAILORBIRD_SAFETY_LISTS": str(folder / "none.json")}


def broken_safety_lists(folder: Path) -> Environment:
    (folder / "safety.json").write_text('{"violence": {"patterns": ["("]}}')
    return {"TAILORBIRD_SAFETY_LISTS": str(folder / "safety.json")}


BOTH: list[tuple[Callable[[Path], Environment], str]] = [
    (store_away, "OBJECT_STORE"),
    (no_tokens, "TOKENS_FILE"),
    (no_certificate, "TLS_CERTIFICATE_FILE"),
    (other_base, "BASE_MODEL_DIGEST"),
    (nonsense_rank, "MAX_LORA_RANK"),
]
# What happens in both alike is tried with the one that starts faster.
TRAINERS: list[tuple[Callable[[Path], Environment], str]] = [
    (store_not_writable, "OBJECT_STORE"),
    (broken_tokens, "TOKENS_FILE"),
    (another_key, "TLS_KEY_FILE"),
    (certificate_alone, "TLS_KEY_FILE"),
    (no_base, "BASE_MODEL"),
    (no_further_base, "MORE_BASE_MODELS"),
    (the_same_base_again, "MORE_BASE_MODELS"),
    (no_list_of_bases, "MORE_BASE_MODELS"),
    (too_little_memory, "BASE_MEMORY_GIB"),
    (no_digest, "BASE_MODEL_DIGEST"),
    (no_data_dir, "DATA_DIR"),
    (open_address, "HOST"),
    (address_of_another_machine, "HOST"),
    (database_away, "DATABASE_URL"),
    (database_without_driver, "DATABASE_URL"),
    (no_general_data, "GENERAL_DATA"),
    (broken_general_data, "GENERAL_DATA"),
    (no_safety_lists, "SAFETY_LISTS"),
    (broken_safety_lists, "SAFETY_LISTS"),
]
CASES = [
    *(("trainer_svc", *case) for case in [*BOTH, *TRAINERS]),
    *(("serving_svc", *case) for case in BOTH),
]


def start(module: str, folder: Path, more: Environment) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit status, and what was logged of what is wrong."""
    environment = {
        **os.environ,
        "TAILORBIRD_DATA_DIR": str(folder / "data"),
        "TAILORBIRD_BASE_MODEL": str(BASE),
        "TAILORBIRD_PORT": "0",
        "TAILORBIRD_METRICS_PORT": "0",
        "TAILORBIRD_LOG_FORMAT": "json",
        "HF_HUB_OFFLINE": "1",
        **more,
    }
    done = subprocess.run(
        [sys.executable, "-m", module],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert "secret" not in done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    return done.returncode, [line for line in lines if line["level"] != "info"]


@pytest.mark.parametrize(("module", "spoil", "setting"), CASES)
def test_the_line_names_the_setting_and_its_key(
    tmp_path: Path, module: str, spoil: Callable[[Path], Environment], setting: str
) -> None:
    keys = {"TAILORBIRD_VALUES_KEYS": f"PROFILE=profile,{setting}=the.key"}
    status, lines = start(module, tmp_path, spoil(tmp_path) | keys)
    assert status in {1, 2}
    (line,) = lines
    assert line["level"] == "critical"
    assert line["error"].startswith(f"TAILORBIRD_{setting} (the.key in values.yaml): ")
    assert (line["setting"], line["values_key"]) == (f"TAILORBIRD_{setting}", "the.key")
    assert "exception" not in line
    assert len(line["error"]) < 900


@pytest.fixture
def hanging() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield int(listening.getsockname()[1])


def test_a_store_that_hangs_is_not_waited_for_for_ever(tmp_path: Path, hanging: int) -> None:
    more = S3 | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{hanging}"}
    status, (line,) = start("trainer_svc", tmp_path, more)
    assert status == 1
    assert line["error"].startswith("TAILORBIRD_OBJECT_STORE: ")


@pytest.mark.parametrize("command", ["", "migrate", "collect"])
def test_a_database_s_driver_is_told_as_a_wrong_setting(tmp_path: Path, command: str) -> None:
    environment = {
        **os.environ,
        "TAILORBIRD_DATA_DIR": str(tmp_path),
        "TAILORBIRD_BASE_MODEL": "none",
        "TAILORBIRD_DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/jobs",
    }
    done = subprocess.run(
        [sys.executable, "-m", "trainer_svc", *command.split()],
        env=environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "secret" not in done.stderr
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["reason"] == "WRONG_SETTING"
    assert line["error"].startswith(
        "TAILORBIRD_DATABASE_URL: postgresql:// cannot be used: postgresql+asyncpg://"
    )


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for setting in ("PORT", "METRICS_PORT"):
            status, (line,) = start("trainer_svc", tmp_path, {f"TAILORBIRD_{setting}": port})
            assert status == 1
            assert line["error"].startswith(f"TAILORBIRD_{setting}: cannot listen on")
