"""One service as a child process of this one."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.address import authority, reachable
from tailorbird.cli.log_end import readable, told_reasons
from tailorbird.errors import TailorbirdError

_LAUNCH = (sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")))
LOOPBACK = "127.0.0.1"
_TAIL_BYTES = 16 * 1024
_TAIL_LINES = 12
_MAX_EVENT = 100


class ServiceDied(TailorbirdError):
    """A service ended by itself, or was not ready in time."""

    default_reason = "SERVICE_DIED"


@dataclass(frozen=True, slots=True)
class Part:
    """A process that `up` starts: what Python is to run, and where that listens."""

    name: str
    command: tuple[str, ...]
    host: str
    port: int
    """What it is there for: gRPC, or the console's pages."""
    probes_port: int
    """Plain HTTP, which answers /readyz."""
    http_port: int = 0
    """OpenAI's API; 0: none."""
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def ports(self) -> Iterator[tuple[str, int]]:
        """The ports that it listens on, each by the option of `up` that chooses it."""
        yield f"--{self.name}-port", self.port
        if self.probes_port != self.port:
            yield f"--{self.name}-metrics-port", self.probes_port
        if self.http_port:
            yield f"--{self.name}-http-port", self.http_port


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the services keep things and listen. Every service has a folder of its own."""

    data_dir: Path
    base_model: str
    tokens_file: Path | None = None
    tls: tuple[Path, Path] | None = None
    """Certificate and key; None: no TLS."""
    host: str = "127.0.0.1"
    trainer_port: int = 50051
    trainer_metrics_port: int = 9091
    serving_port: int = 50052
    serving_metrics_port: int = 9092
    trainer_http_port: int = 0
    serving_http_port: int = 0
    console_port: int = 0
    """The web console's, on loopback; 0: none."""
    root_certificates: Path | None = None
    """What the console trusts the services' certificate by."""
    workers: int = 1
    extra: Mapping[str, str] = field(default_factory=dict)
    """More variables, for both."""
    own: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """More variables of each service, by its name: trainer, serving."""

    @property
    def store_url(self) -> str:
        """The object store that both share."""
        return (self.data_dir.resolve() / "store").as_uri()

    def log(self, name: str) -> Path:
        """The file a service's output goes to."""
        return self.data_dir.resolve() / "logs" / f"{name}.log"

    @property
    def services(self) -> tuple[Part, Part]:
        """The trainer and serving."""
        return (
            self._service(
                "trainer", self.trainer_port, self.trainer_metrics_port, self.trainer_http_port
            ),
            self._service(
                "serving", self.serving_port, self.serving_metrics_port, self.serving_http_port
            ),
        )

    def console(self, host: str = "") -> Part:
        """The web console, which calls the services by `host`, the name they are trusted by."""
        called = host or reachable(self.host)
        trust: tuple[str, ...] = ()
        if self.tls is not None and self.root_certificates is not None:
            trust = ("--root-certificates", str(self.root_certificates.absolute()))
        return Part(
            "console",
            (
                *("-m", "tailorbird.cli", "console", "--port", str(self.console_port)),
                *("--trainer", authority(called, self.trainer_port)),
                *("--serving", authority(called, self.serving_port)),
                *trust,
            ),
            LOOPBACK,
            self.console_port,
            self.console_port,
            # It calls these services, whatever the contexts of whoever started them say.
            variables={
                "TAILORBIRD_CONTEXTS_FILE": os.devnull,
                "TAILORBIRD_CONTEXT": "",
                "TAILORBIRD_ROOT_CERTIFICATES": "",
            },
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """All that is to be started."""
        return (*self.services, *([self.console()] if self.console_port else []))

    def folder(self, name: str) -> Path:
        """The folder of one part. It also tells the part's processes from others'."""
        return self.data_dir.resolve() / name

    def environment(self, part: Part) -> dict[str, str]:
        """Return the variables of one part."""
        folder = {"TAILORBIRD_DATA_DIR": str(self.folder(part.name))}
        more = {**self.extra, **self.own.get(part.name, {})}
        return {**os.environ, **folder, **part.variables, **more}

    def _service(self, name: str, port: int, metrics_port: int, http_port: int) -> Part:
        variables = {
            "TAILORBIRD_OBJECT_STORE": self.store_url,
            "TAILORBIRD_BASE_MODEL": self.base_model,
            "TAILORBIRD_HOST": self.host,
            "TAILORBIRD_PORT": str(port),
            "TAILORBIRD_METRICS_PORT": str(metrics_port),
            "TAILORBIRD_HTTP_PORT": str(http_port),
            "TAILORBIRD_WORKERS": str(self.workers),
        }
        if self.tokens_file is not None:
            variables["TAILORBIRD_TOKENS_FILE"] = str(self.tokens_file.absolute())
        if self.tls is not None:
            # Not resolved: a link is moved when the pair changes.
            variables["TAILORBIRD_TLS_CERTIFICATE_FILE"] = str(self.tls[0].absolute())
            variables["TAILORBIRD_TLS_KEY_FILE"] = str(self.tls[1].absolute())
        return Part(
            name, ("-m", f"{name}_svc"), self.host, port, metrics_port, http_port, variables
        )


class Service:
    """One service's process. It gets SIGTERM when this process dies, in whatever way.

    To be made in the main thread: it is that thread's end which counts as this process's. `ended`
    hears of its end, from another thread; nothing that it has started is left then.
    """

    def __init__(self, part: Part, plan: Plan, ended: Callable[[], None] = lambda: None) -> None:
        self.name = part.name
        self.log = plan.log(part.name)
        self.host, self.port, self.http_port = reachable(part.host), part.port, part.http_port
        self._probes_port = part.probes_port
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own keeps a terminal's Ctrl-C away: services are stopped in order.
            self._process = subprocess.Popen(
                [*_LAUNCH, str(os.getpid()), sys.executable, *part.command],
                env=plan.environment(part),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._ended = threading.Event()
        threading.Thread(target=self._watch, args=(ended,), daemon=True).start()

    @property
    def pid(self) -> int:
        """The process's number, which is that of its session too."""
        return self._process.pid

    @property
    def address(self) -> str:
        """Where it is called."""
        return authority(self.host, self.port)

    @property
    def metrics_url(self) -> str:
        """Where to scrape."""
        return f"http://{authority(self.host, self._probes_port)}/metrics"

    @property
    def exit_status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.returncode if self._ended.is_set() else None

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and body of the plain HTTP port's answer; (0, "") without one."""
        connection = http.client.HTTPConnection(self.host, self._probes_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def terminate(self) -> None:
        """Ask it to stop."""
        self._signal(signal.SIGTERM)

    def finish(self, deadline: float) -> None:
        """Wait for its end until `deadline` (monotonic), then kill it."""
        if not self._ended.wait(max(0.0, deadline - time.monotonic())):
            self.kill()
            self._ended.wait()

    def kill(self) -> None:
        """Kill it; what it has started goes with it."""
        self._signal(signal.SIGKILL)

    def death(self) -> ServiceDied:
        """Say that it has died, and why: its last words, or the end of what it logged."""
        status = self.exit_status
        how = f"was killed by signal {-status}" if status and status < 0 else f"exited: {status}"
        return ServiceDied(f"{self.name} {how}{self.last_words()}")

    def last_words(self) -> str:
        """Return what its log says of its end, to stand behind what became of it."""
        lines = self._tail()
        if reasons := told_reasons(lines):
            return "\n".join(["", *reasons, f"(all of it: {self.log})"])
        said = readable(lines)[-_TAIL_LINES:]
        return "\n".join([f"; the end of {self.log}:", *said])

    def last_event(self) -> str:
        """Return what it has logged last, in a few words; "" before it has logged anything."""
        return ["", *readable(self._tail())][-1][:_MAX_EVENT]

    def _tail(self) -> list[str]:
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()

    def _signal(self, number: int) -> None:
        # Not by Popen, which reaps what has ended.
        if not self._ended.is_set():
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    def _watch(self, ended: Callable[[], None]) -> None:
        # Not reaped yet: its number, and its children's session, are still its own.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._ended.set()
        ended()
