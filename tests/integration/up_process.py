"""`tailorbird up` as a process, with stand-ins for the services."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

SERVICE = """
import http.server, os, pathlib, signal, socket, ssl, sys, threading

class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass

name = pathlib.Path(sys.argv[0]).stem
here = pathlib.Path(os.environ["TAILORBIRD_DATA_DIR"])
if os.environ.get("FAILS") == name or (here / "fails").exists():
    sys.exit(os.environ.get("SAYS", "cannot read the base model"))
server = http.server.HTTPServer(("127.0.0.1", int(os.environ["TAILORBIRD_METRICS_PORT"])), Ready)
signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
if (here.parent / "stays").exists():
    # As a service does whose calls in flight do not end.
    signal.signal(signal.SIGTERM, lambda *_: (here / "told").touch())
here.mkdir(parents=True, exist_ok=True)
if os.environ.get("CHILD"):
    import subprocess
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    (here / "child").write_text(str(child.pid))
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
        write_stand_ins(folder)
        self.data = folder / "data"
        self.base = folder / "base"
        self.base.mkdir(exist_ok=True)
        for file in ("config.json", "model.safetensors"):
            (self.base / file).touch()
        self._stdout = ""
        self.ports: dict[str, int] = {}
        arguments = ["up", "--base-model", str(self.base), "--data-dir", str(self.data)]
        options = [
            f"{name}-{kind}"
            for name in ("trainer", "serving")
            for kind in ("port", "metrics-port", "http-port")
        ]
        for option, port in zip(options, free_ports(6), strict=True):
            arguments += [f"--{option}", str(port)]
            self.ports[option] = port
        if "--console-port" not in options_given:
            arguments += ["--console-port", "0"]
        arguments += options_given
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tailorbird.cli.app", *arguments],
            cwd=folder,
            env={**os.environ, "COLUMNS": "300", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until_said(self, text: str) -> list[str]:
        """Wait until standard error has a line with `text`; return what came until then."""
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if text in line:
                return lines
        raise AssertionError("".join(lines))

    def until_shown(self) -> list[str]:
        """Wait for what `up` prints when both are ready; return its lines."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if line.startswith("Ctrl-C"):
                break
        return lines

    def shown(self) -> str:
        """What it printed, after `ended`."""
        return self._stdout

    def ended(self) -> tuple[int, str]:
        self._stdout, stderr = self.process.communicate(timeout=30)
        return self.process.returncode, stderr

    def pid(self, service: str) -> int:
        return int((self.data / service / "pid").read_text())

    def environment(self, service: str) -> dict[str, str]:
        lines = (self.data / service / "environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def log(self, service: str) -> str:
        return (self.data / "logs" / f"{service}.log").read_text()


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def write_stand_ins(folder: Path) -> None:
    """Write modules of the services' names, to be found before them."""
    for name in ("trainer_svc", "serving_svc"):
        (folder / f"{name}.py").write_text(SERVICE)
