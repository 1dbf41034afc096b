"""The two services as child processes of this one: started, waited for, stopped together."""

from __future__ import annotations

import http.client
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tailorbird.address import authority, reachable
from tailorbird.errors import TailorbirdError

_LAUNCH = (sys.executable, "-I", "-S", str(Path(__file__).with_name("child.py")))
_TAIL_BYTES = 16 * 1024
_TAIL_LINES = 25


class ServiceDied(TailorbirdError):
    """A service ended by itself, or was not ready in time."""

    default_reason = "SERVICE_DIED"


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

    def environment(self, name: str, port: int, metrics_port: int) -> dict[str, str]:
        """Return the variables of one service."""
        variables = {
            "TAILORBIRD_DATA_DIR": str(self.data_dir.resolve() / name),
            "TAILORBIRD_OBJECT_STORE": self.store_url,
            "TAILORBIRD_BASE_MODEL": self.base_model,
            "TAILORBIRD_HOST": self.host,
            "TAILORBIRD_PORT": str(port),
            "TAILORBIRD_METRICS_PORT": str(metrics_port),
            "TAILORBIRD_WORKERS": str(self.workers),
        }
        if self.tokens_file is not None:
            variables["TAILORBIRD_TOKENS_FILE"] = str(self.tokens_file.absolute())
        if self.tls is not None:
            # Not resolved: a link is moved when the pair changes.
            variables["TAILORBIRD_TLS_CERTIFICATE_FILE"] = str(self.tls[0].absolute())
            variables["TAILORBIRD_TLS_KEY_FILE"] = str(self.tls[1].absolute())
        return {**os.environ, **variables, **self.extra, **self.own.get(name, {})}


class Service:
    """One service's process. It gets SIGTERM when this process dies, in whatever way."""

    def __init__(self, name: str, module: str, plan: Plan, port: int, metrics_port: int) -> None:
        self.name = name
        self.log = plan.log(name)
        self.host, self.port, self.metrics_port = reachable(plan.host), port, metrics_port
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            # A session of its own keeps a terminal's Ctrl-C away: services are stopped in order.
            self._process = subprocess.Popen(
                [*_LAUNCH, str(os.getpid()), sys.executable, "-m", module],
                env=plan.environment(name, port, metrics_port),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def address(self) -> str:
        """Where it is called."""
        return authority(self.host, self.port)

    @property
    def metrics_url(self) -> str:
        """Where to scrape."""
        return f"http://{authority(self.host, self.metrics_port)}/metrics"

    @property
    def exit_status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and body of the plain HTTP port's answer; (0, "") without one."""
        connection = http.client.HTTPConnection(self.host, self.metrics_port, timeout=5)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, ""
        finally:
            connection.close()

    def wait(self) -> None:
        """Block until the process has ended."""
        self._process.wait()

    def terminate(self) -> None:
        """Ask it to stop."""
        self._process.terminate()

    def finish(self, deadline: float) -> None:
        """Wait for its end until `deadline` (monotonic), then kill it; leave no child of its."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        self.kill()
        self._process.wait()

    def kill(self) -> None:
        """Kill it and every process it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def death(self) -> ServiceDied:
        """Say that it has died, with the end of what it logged."""
        status = self.exit_status
        how = f"was killed by signal {-status}" if status and status < 0 else f"exited: {status}"
        return ServiceDied(f"{self.name} {how}; the end of {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines it has logged since it was started."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - _TAIL_BYTES))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])


class Services:
    """Both services, stopped in order when the block ends. Use from the main thread."""

    def __init__(self, plan: Plan, grace: float = 35.0) -> None:
        self._plan = plan
        self._grace = grace
        self._ended: queue.SimpleQueue[Service | None] = queue.SimpleQueue()
        self._stopping = False

    def __enter__(self) -> Services:
        plan = self._plan
        self.trainer = Service(
            "trainer", "trainer_svc", plan, plan.trainer_port, plan.trainer_metrics_port
        )
        try:
            self.serving = Service(
                "serving", "serving_svc", plan, plan.serving_port, plan.serving_metrics_port
            )
        except BaseException:
            self.trainer.kill()
            raise
        for service in self.both:
            threading.Thread(target=self._report_end, args=(service,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for service in self.both:
            service.terminate()
        deadline = time.monotonic() + self._grace
        for service in self.both:
            service.finish(deadline)

    @property
    def both(self) -> tuple[Service, Service]:
        """The trainer and serving."""
        return self.trainer, self.serving

    def stop(self) -> None:
        """Make `until_ready` and `wait` return; a second time, kill. Safe in a signal handler."""
        if self._stopping:
            for service in self.both:
                service.kill()
        self._stopping = True
        self._ended.put(None)

    def until_ready(
        self,
        *services: Service,
        timeout: float = 600.0,
        ready: Callable[[Service, float], None] = lambda *_: None,
    ) -> bool:
        """Wait until the services take requests; False if `stop` was called first.

        `ready` hears of each one, with the seconds it took. Raises ServiceDied if either service
        ends, or if one is not ready in `timeout` seconds.
        """
        start = time.monotonic()
        waiting = list(services or self.both)
        while waiting and not self._stopping:
            for service in self.both:
                if service.exit_status is not None:
                    raise service.death()
            for service in [one for one in waiting if one.get("/readyz")[0] == 200]:
                waiting.remove(service)
                ready(service, time.monotonic() - start)
            if waiting and time.monotonic() - start > timeout:
                late = waiting[0]
                raise ServiceDied(
                    f"{late.name} was not ready within {timeout:.0f} s; the end of {late.log}:\n"
                    f"{late.tail()}"
                )
            time.sleep(0.1)
        return not self._stopping

    def wait(self) -> None:
        """Block until `stop` is called; ServiceDied if a service ends by itself."""
        ended = self._ended.get()
        if ended is not None and not self._stopping:
            raise ended.death()

    def _report_end(self, service: Service) -> None:
        service.wait()
        self._ended.put(service)
