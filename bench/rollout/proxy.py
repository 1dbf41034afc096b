"""nginx in front of the replicas, as docs and chart have it: gRPC, hashed on the adapter's name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.serving.processes import BenchFailed, Process, free_port
from bench.serving.servers import HOST

_START_SECONDS = _RELOAD_SECONDS = 30.0
_CONFIG = """\
{user}pid {folder}/nginx.pid;
error_log stderr notice;
daemon off;
worker_processes 1;
events {{ worker_connections 1024; }}
http {{
    log_format attempts '$http_x_bench_request $upstream_addr';
    access_log {folder}/attempts.log attempts;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream replicas {{
        hash $http_x_tailorbird_adapter consistent;
        include {folder}/replicas.conf;
        keepalive 32;
    }}
    server {{
        listen {address} http2;
        # A connection lives as long as its caller wants.
        keepalive_requests 1000000;
        location / {{
            grpc_pass grpc://replicas;
            # A request goes to one replica, once. nginx's own choice ("error timeout") would send a
            # POST again only where the connection could not be made at all; that too is left out
            # here, so that a replica which is still listed and no longer listens is seen.
            grpc_next_upstream off;
            grpc_read_timeout 120s;
            grpc_send_timeout 120s;
        }}
    }}
}}
"""


class Proxy:
    """One nginx. `route_to` says which replicas it has, before `start` and later."""

    def __init__(self, folder: Path, log: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._log = log
        self._program = _program()
        self.address = f"{HOST}:{free_port()}"
        # Its workers are nobody's otherwise, who cannot enter the bench's folder.
        user = "user root;\n" if os.geteuid() == 0 else ""
        self._config = folder / "nginx.conf"
        self._config.write_text(_CONFIG.format(user=user, folder=folder, address=self.address))
        self.process: Process | None = None

    def start(self) -> Process:
        """Listen; BenchFailed if nginx ends, or has not said in time which process it is."""
        process = Process("nginx", self._arguments(), os.environ, self._log, program=self._program)
        pid, give_up_at = self._folder / "nginx.pid", time.monotonic() + _START_SECONDS
        try:
            # Before that a reload finds nobody.
            while not (pid.is_file() and pid.read_text().strip()):
                process.check()
                if time.monotonic() > give_up_at:
                    raise BenchFailed(f"nginx has not started in {_START_SECONDS:.0f} s")
                time.sleep(0.02)
        except BaseException:
            process.stop()
            raise
        self.process = process
        return process

    def route_to(self, addresses: Iterable[str]) -> None:
        """Make `addresses` the list of replicas: `nginx -s reload`, as an ingress controller does.

        Requests under way go on where they are; BenchFailed if nginx does not take the list.
        """
        # Who is ready is told by the readiness probes alone, not by nginx's counting of failures.
        lines = [f"server {address} max_fails=0;\n" for address in addresses]
        scratch = self._folder / "replicas.new"
        scratch.write_text("".join(lines))
        scratch.replace(self._folder / "replicas.conf")
        if self.process is None:
            return
        done = subprocess.run(
            [self._program, *self._arguments(), "-s", "reload"],
            capture_output=True,
            text=True,
            timeout=_RELOAD_SECONDS,
        )
        if done.returncode:
            raise BenchFailed(f"nginx does not take its replicas: {done.stderr.strip()}")

    def attempts(self) -> dict[int, list[str]]:
        """Return the replicas that each request was sent to, by its number."""
        return read_attempts((self._folder / "attempts.log").read_text().splitlines())

    def _arguments(self) -> Sequence[str]:
        return ("-p", str(self._folder), "-c", str(self._config))


def read_attempts(lines: Iterable[str]) -> dict[int, list[str]]:
    """Read lines of a number and addresses, which nginx separates by commas; "-" is none."""
    attempts: dict[int, list[str]] = {}
    for line in lines:
        number, _, addresses = line.partition(" ")
        found = [address.strip() for address in addresses.split(",")]
        sent = attempts.setdefault(int(number), [])
        sent += [address for address in found if address != "-"]
    return attempts


def _program() -> str:
    places = [str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"]
    found = shutil.which("nginx", path=os.pathsep.join(places))
    if found is None:
        raise BenchFailed("nginx is not found: `make setup` puts it into .venv/bin, on Debian")
    return found
