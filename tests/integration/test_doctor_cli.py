"""`tailorbird doctor` as a caller meets it: addresses, TLS, tokens, contexts; and whole, once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import grpc
import pytest

from tailorbird import __version__
from tailorbird.cli import doctor_services
from tailorbird.cli.app import main
from tailorbird.cli.service_process import Plan
from tailorbird.doctor import addresses
from tailorbird.doctor.addresses import Address, service
from tailorbird.doctor.finding import Finding, Status
from tailorbird.errors import Unauthenticated, Unavailable
from tests.certificates import Authority
from tests.integration.scripted_services import Script, serve

BASE = str(Path("examples/demo_base").resolve())
SECRET = "hunter2-and-longer"
OK, WARNING, FAILED = Status.OK, Status.WARNING, Status.FAILED


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def tls_port(script: Script, authority: Authority) -> Iterator[int]:
    pair = authority.pair()
    credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
    server, port = serve(script, credentials=credentials)
    yield port
    server.stop(None).wait()


def called(target: str, **more: object) -> Finding:
    (found,) = service(Address("trainer", target, named=True, **more))  # type: ignore[arg-type]
    return found


def test_a_service_that_answers(port: int, tls_port: int, authority: Authority) -> None:
    for name in ("trainer", "serving"):
        (found,) = service(Address(name, f"127.0.0.1:{port}", named=True))
        # The scripted services say no release.
        assert (found.subject, found.status) == (name, WARNING)
        assert f"this command is of {__version__}" in found.found
    assert called(f"localhost:{tls_port}", roots=authority.pem).status is WARNING


def test_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = f"127.0.0.1:{closed.getsockname()[1]}"
    assert called(target).status is FAILED
    (unnamed,) = service(Address("serving", target, named=False))
    assert (unnamed.status, unnamed.advice.startswith("start it (tailorbird up)")) == (
        WARNING, True
    )  # fmt: skip
    assert called("nonsense").found == "'nonsense' is not host:port"


def test_what_listens_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = called(f"127.0.0.1:{silent.getsockname()[1]}")
    assert (found.status, "says nothing within 0.2 s" in found.found) == (FAILED, True)


def test_plaintext_where_tls_is_asked_and_the_other_way_round(
    port: int, tls_port: int, authority: Authority
) -> None:
    found = called(f"localhost:{port}", roots=authority.pem)
    assert (found.status, "is called by TLS and speaks plaintext" in found.found) == (FAILED, True)
    assert "--plaintext" in found.advice
    found = called(f"localhost:{tls_port}")
    assert (found.status, "in plaintext and speaks TLS" in found.found) == (FAILED, True)
    assert found.advice.startswith("trust its authority: --root-certificates FILE")


def test_a_certificate_of_an_authority_that_is_not_trusted(tls_port: int) -> None:
    found = called(f"localhost:{tls_port}", roots=Authority().pem)
    assert (found.status, "is not trusted" in found.found) == (FAILED, True)
    assert "--root-certificates" in found.advice


def test_a_token_that_is_refused_and_one_that_is_missing(port: int, script: Script) -> None:
    script.errors = [Unauthenticated("who?"), Unauthenticated("who?"), Unavailable("draining")]
    found = called(f"127.0.0.1:{port}", token=SECRET)
    assert (found.status, found.found) == (FAILED, f"127.0.0.1:{port} refuses the token")
    assert found.advice.startswith("name one that the service knows: --token, TAILORBIRD_TOKEN")
    assert "wants a token, and none is given" in called(f"127.0.0.1:{port}").found
    assert "UNAVAILABLE: draining" in called(f"127.0.0.1:{port}").found
    assert called(f"127.0.0.1:{port}", token="ä").advice == "correct the token"


def test_a_port_of_something_else() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    found = called(f"127.0.0.1:{port}")
    server.stop(None).wait()
    assert (found.status, "is not the trainer service" in found.found) == (FAILED, True)
    assert "exchanged" in found.advice


@pytest.fixture
def doctor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Runs the command here, without the services' own checks."""
    for name in [name for name in os.environ if name.startswith("TAILORBIRD_")]:
        if name != "TAILORBIRD_CONTEXTS_FILE":
            monkeypatch.delenv(name)
    needed = {"trainer": ("nobody_has_this",), "serving": ("nobody_has_this",)}
    monkeypatch.setattr(doctor_services, "_NEEDED", needed)

    def run(*arguments: str, **variables: str) -> tuple[int, str]:
        for name, value in variables.items():
            monkeypatch.setenv(f"TAILORBIRD_{name}", value)
        monkeypatch.setattr(sys, "argv", ["tailorbird", "doctor", *arguments])
        status = 0
        try:
            main()
        except SystemExit as ended:
            status = int(ended.code or 0)
        out, err = capsys.readouterr()
        assert err == ""
        return status, out

    return run


def of(text: str, area: str, subject: str) -> dict[str, str]:
    (found,) = [one for one in json.loads(text) if (one["area"], one["subject"]) == (area, subject)]
    return dict(found)


def test_a_context_file_with_a_typo(
    doctor: Callable[..., tuple[int, str]], tmp_path: Path, port: int, script: Script
) -> None:
    file = tmp_path / "contexts.yaml"
    file.write_text(f"current: a\ncontexts:\n  a:\n    trianer: 127.0.0.1:{port}\n")
    status, out = doctor("-o", "json", CONTEXTS_FILE=str(file))
    found = of(out, "as a caller", "contexts")
    assert (status, found["status"]) == (4, "failed")
    assert f"{file}, line 4: " in found["found"]
    assert "did you mean 'trainer'?" in found["found"]
    assert found["advice"].startswith("mend the line that it names")
    # What is right is used; its token is nowhere said.
    file.write_text(
        f"current: a\ncontexts:\n  a:\n    trainer: 127.0.0.1:{port}\n    token: {SECRET}\n"
    )
    file.chmod(0o600)
    status, out = doctor("-o", "json")
    assert of(out, "as a caller", "contexts")["status"] == "ok"
    assert f"127.0.0.1:{port} answers" in of(out, "as a caller", "trainer")["found"]
    assert script.metadata[-1]["authorization"] == f"Bearer {SECRET}"
    assert SECRET not in out
    assert "its extra is not installed here" in of(out, "trainer", "trainer")["found"]


def test_an_authority_s_file_that_is_not_there(doctor: Callable[..., tuple[int, str]]) -> None:
    status, out = doctor("-o", "json", ROOT_CERTIFICATES="/nonexistent/roots.pem")
    found = of(out, "as a caller", "root certificates")
    assert (status, found["found"]) == (4, "/nonexistent/roots.pem: No such file or directory")


def test_a_check_of_a_service_that_breaks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with doctor_services.services(Plan(Path("/nonexistent"), "")) as started:
        found = started.findings()
    assert found["trainer"][0].found == "its check broke (exit status 1): no word"
    assert found["trainer"][0].advice == "run it by itself: python -m trainer_svc check"


def whole(tmp_path: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a process, with both services' own checks."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TAILORBIRD_")}
    named = {"CONTEXTS_FILE": str(tmp_path / "none.yaml"), "DATA_DIR": str(tmp_path / "data")}
    return subprocess.run(
        [sys.executable, "-m", "tailorbird.cli", "doctor", *arguments],
        env={
            **clean,
            **{f"TAILORBIRD_{key}": value for key, value in {**named, **variables}.items()},
            "COLUMNS": "400",
        },
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def test_serving_has_the_check_too_and_it_ends_whatever_hangs(tmp_path: Path) -> None:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("TAILORBIRD_")}
    own = {
        "TAILORBIRD_BASE_MODEL": BASE,
        "TAILORBIRD_DATA_DIR": str(tmp_path / "data"),
        "TAILORBIRD_PORT": "0",
        "TAILORBIRD_METRICS_PORT": "0",
        "TAILORBIRD_MAX_CPU_LORAS": "1",
        "TAILORBIRD_ADAPTER_SLOTS": "2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "serving_svc", "check"],
        env={**clean, **own}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "")
    first, advice, *others = done.stdout.splitlines()
    assert first.startswith("failed   settings: TAILORBIRD_MAX_CPU_LORAS: 1 is less than adapter_s")
    assert advice.startswith("         → correct it")
    assert {line.split()[0] for line in others} == {"ok"}


def test_the_whole_of_a_machine_that_is_well(tmp_path: Path, port: int) -> None:
    done = whole(
        tmp_path,
        *("-o", "json", "--base-model", BASE, "--plaintext"),
        TRAINER=f"127.0.0.1:{port}",
        SERVING=f"127.0.0.1:{port}",
    )
    assert done.stderr == ""
    found = json.loads(done.stdout)
    bad = [one for one in found if one["status"] != "ok"]
    # What else runs here may have taken a port, or memory.
    ours = [one for one in bad if not one["subject"].startswith(("port", "memory", "disk"))]
    assert {one["subject"] for one in ours} <= {"trainer", "serving"}, ours
    assert {one["status"] for one in ours} == {"warning"}
    assert done.returncode == (4 if any(one["status"] == "failed" for one in bad) else 0)
    areas = {
        one["area"]: {each["subject"] for each in found if each["area"] == one["area"]}
        for one in found
    }
    assert list(areas) == ["this machine", "both services", "trainer", "serving", "as a caller"]
    assert {"Python", "packages", "memory", "GPU", "variables"} <= areas["this machine"]
    assert {"object store", "base model", "tokens file", "clock"} <= areas["both services"]
    assert {"database", "data directory", "port 50051", "port 9091"} <= areas["trainer"]
    assert {"port 50052", "port 9092"} <= areas["serving"]
    # Looked at, and left as it was.
    assert list(tmp_path.iterdir()) == []


def test_the_whole_of_a_machine_with_many_faults_says_no_secret(tmp_path: Path) -> None:
    done = whole(
        tmp_path,
        *("--base-model", str(tmp_path / "no-such"), "--token", SECRET),
        TRAINER="127.0.0.1:1",
        SERVING="127.0.0.1:1",
        DATABASE_URL=f"postgresql+asyncpg://me:{SECRET}@127.0.0.1:1/jobs",
        TOKENS_FILE=str(tmp_path / "no-tokens.json"),
        JOBS_PER_WORKER="many",
        DEVIZE="cpu",
    )
    assert done.returncode == 4
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    told = {
        (words[0], words[1].partition(":")[0])
        for line in lines
        if (words := line.split(maxsplit=1))[1:] and words[0] in list(Status)
    }
    assert {
        ("failed", "trainer"), ("failed", "serving"), ("failed", "database"),
        ("failed", "tokens file"), ("failed", "base model"), ("failed", "settings"),
        ("warning", "variables"),
    } <= told  # fmt: skip
    assert lines[-1].endswith(" failed")
    after = dict(pairwise(lines))
    (misspelt,) = [line for line in lines if "TAILORBIRD_DEVIZE is read by nothing" in line]
    assert after[misspelt].strip() == "→ set it as TAILORBIRD_DEVICE"
