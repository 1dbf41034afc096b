"""`tailorbird up` with stand-ins for the services: started, shown, stopped, never left behind."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tailorbird.cli.preload import preload_environment
from tests.certificates import Authority

SERVICE = """
import http.server, os, pathlib, signal, socket, ssl, sys, threading

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

name = pathlib.Path(sys.argv[0]).stem
if os.environ.get("FAILS") == name:
    sys.exit("cannot read the base model")
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["TAILORBIRD_METRICS_PORT"])), Ready)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
here = pathlib.Path(os.environ["TAILORBIRD_DATA_DIR"])
here.mkdir(parents=True)
(here / "pid").write_text(str(os.getpid()))
if certificate := os.environ.get("TAILORBIRD_TLS_CERTIFICATE_FILE"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, os.environ["TAILORBIRD_TLS_KEY_FILE"])
    listening = socket.create_server(("127.0.0.1", int(os.environ["TAILORBIRD_PORT"])))

    def shake_hands():
        while True:
            plain, _ = listening.accept()
            try:
                context.wrap_socket(plain, server_side=True).close()
            except OSError:
                plain.close()

    threading.Thread(target=shake_hands, daemon=True).start()
(here / "store").write_text(os.environ["TAILORBIRD_OBJECT_STORE"])
(here / "environment").write_text("\\n".join(f"{k}={v}" for k, v in os.environ.items()))
server.serve_forever()
print("stopped in order")
"""


class Up:
    """A running `tailorbird up` in a folder where stand-ins are found before the services."""

    def __init__(self, folder: Path, *options_given: str, **environment: str) -> None:
        for name in ("trainer_svc", "serving_svc"):
            (folder / f"{name}.py").write_text(SERVICE)
        self.data = folder / "data"
        self.ports: dict[str, int] = {}
        arguments = ["up", "--base-model", "none", "--data-dir", str(self.data)]
        options = ("trainer-port", "serving-port", "trainer-metrics-port", "serving-metrics-port")
        for option, port in zip(options, _free_ports(4), strict=True):
            arguments += [f"--{option}", str(port)]
            self.ports[option] = port
        arguments += options_given
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tailorbird.cli.app", *arguments],
            cwd=folder,
            env={**os.environ, "COLUMNS": "300", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until_shown(self) -> list[str]:
        """Wait for what `up` prints when both are ready; return its lines."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        return lines

    def ended(self) -> tuple[int, str]:
        _, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stderr

    def pid(self, service: str) -> int:
        return int((self.data / service / "pid").read_text())

    def environment(self, service: str) -> dict[str, str]:
        lines = (self.data / service / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def log(self, service: str) -> str:
        return (self.data / "logs" / f"{service}.log").read_text()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def up(*options: str, **environment: str) -> Up:
        started.append(Up(tmp_path, *options, **environment))
        return started[-1]

    yield up
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


def test_up_shows_where_everything_is_and_stops_both(start: Callable[..., Up]) -> None:
    up = start()
    shown = "".join(up.until_shown())
    assert "/metrics" in shown
    assert f"{(up.data / 'store').resolve().as_uri()}" in shown
    for service in ("trainer", "serving"):
        assert (up.data / service / "store").read_text() == (up.data / "store").resolve().as_uri()
    up.process.send_signal(signal.SIGINT)
    status, stderr = up.ended()
    assert status == 0, stderr
    assert up.log("trainer") == up.log("serving") == "stopped in order\n"


@pytest.mark.parametrize("within", ["file", "file/beneath", "data-with-file"])
def test_a_folder_that_cannot_be_used_is_told_with_its_option(
    start: Callable[..., Up], tmp_path: Path, within: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data-with-file").mkdir()
    (tmp_path / "data-with-file" / "logs").touch()
    folder = tmp_path / within
    status, stderr = start("--data-dir", str(folder)).ended()
    assert status == 2
    assert f"--data-dir: the folder {folder} cannot be used: " in stderr
    assert "Errno" not in stderr


def test_a_folder_that_takes_no_file_is_told_with_its_option(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    # Whoever runs the tests: there nobody makes a file.
    (folder / "logs").symlink_to("/proc/self")
    status, stderr = start("--data-dir", str(folder)).ended()
    assert status == 2
    assert f"--data-dir: the folder {folder} cannot be used: " in stderr


def test_serving_preloads_what_makes_it_faster_on_a_cpu(
    start: Callable[..., Up], tmp_path: Path
) -> None:
    mine = tmp_path / "libmalloc_of_mine.so"
    up = start(LD_PRELOAD=str(mine))
    shown = "".join(up.until_shown())
    preloaded = up.environment("serving")["LD_PRELOAD"]
    assert preloaded == preload_environment({"LD_PRELOAD": str(mine)}).get("LD_PRELOAD", str(mine))
    assert up.environment("trainer")["LD_PRELOAD"] == str(mine)
    assert (f"preloaded     {preloaded} (serving)" in shown) == (preloaded != str(mine))


def test_one_gpu_is_shared_and_up_says_how(start: Callable[..., Up], tmp_path: Path) -> None:
    # vLLM's build for GPUs, as far as `up` looks.
    (tmp_path / "vllm-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm-0.32.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.32.0\n")
    up = start(CUDA_VISIBLE_DEVICES="0")
    shown = "".join(up.until_shown())
    assert up.environment("serving")["TAILORBIRD_GPU_MEMORY_UTILIZATION"] == "0.6"
    assert up.environment("trainer")["TAILORBIRD_GPU_MEMORY_SHARE"] == "0.35"
    assert "devices       GPU 0 for both: serving takes 60%" in shown
    assert "preloaded" not in shown
    assert "LD_PRELOAD" not in up.environment("serving")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("localhost", "127.0.0.1"), ("127.0.0.1:{port}", "callers need --root-certificates {ca}")),
        (("localhost",), ("localhost:{port}", "callers need --root-certificates {ca}")),
        (("elsewhere",), ("127.0.0.1:{port}", "will refuse 127.0.0.1:{port}: Hostname mismatch")),
        ((), ("127.0.0.1:{port}", "callers need the authority's file")),
    ],
)
def test_with_tls_what_up_prints_can_be_called(
    start: Callable[..., Up], tmp_path: Path, names: tuple[str, ...], told: tuple[str, str]
) -> None:
    authority, ca = Authority(), tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    certificate, key = authority.pair(names=names or ("localhost",)).write(tmp_path / "tls")
    options = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    up = start(*options, *(["--root-certificates", str(ca)] if names else []))
    shown = "".join(up.until_shown())
    for text in told:
        assert text.format(port=up.ports["trainer-port"], ca=ca) in shown
    for service in ("trainer", "serving"):
        assert up.environment(service)["TAILORBIRD_TLS_CERTIFICATE_FILE"] == str(certificate)


def test_tls_needs_a_key(start: Callable[..., Up], tmp_path: Path) -> None:
    certificate, _ = Authority().pair().write(tmp_path / "tls")
    status, stderr = start("--tls-certificate", str(certificate)).ended()
    assert status == 2
    assert "give --tls-certificate and --tls-key, or neither" in stderr


def test_when_one_dies_the_other_is_stopped(start: Callable[..., Up]) -> None:
    up = start()
    up.until_shown()
    os.kill(up.pid("serving"), signal.SIGKILL)
    status, stderr = up.ended()
    assert status == 1
    assert "serving was killed by signal 9" in stderr
    assert up.log("trainer") == "stopped in order\n"


def test_a_service_that_cannot_start_ends_up_with_its_log(start: Callable[..., Up]) -> None:
    status, stderr = start(FAILS="serving_svc").ended()
    assert status == 1
    assert "cannot read the base model" in stderr
    assert "Traceback" not in stderr


def test_nothing_is_left_when_up_is_killed(start: Callable[..., Up]) -> None:
    up = start()
    up.until_shown()
    with ExitStack() as stack:
        watched = [os.pidfd_open(up.pid(service)) for service in ("trainer", "serving")]
        for handle in watched:
            stack.callback(os.close, handle)
        up.process.kill()
        for handle in watched:
            _until_ended(handle)
    assert up.log("trainer") == up.log("serving") == "stopped in order\n"


def _until_ended(handle: int) -> None:
    ended, _, _ = select.select([handle], [], [], 20)
    assert ended, "the process lives on"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
