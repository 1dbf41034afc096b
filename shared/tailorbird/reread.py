"""Files that are read again when they change: tokens, certificates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge

from tailorbird.errors import InvalidArgument, TailorbirdError

_log = structlog.get_logger(__name__)

# What changes is taken once two looks have seen the same.
_SECONDS = 0.5
_MAX_BYTES = 16 * 2**20

Contents = tuple[bytes | None, ...]


class RereadMetrics:
    """What an operator sees of files that change while a service runs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reads = Counter(
            "tailorbird_file_changes",
            "Changes of files that are read again, by file (tokens, tls) and result (taken, "
            "refused).",
            ["file", "result"],
            registry=registry,
        )
        self.refused = Gauge(
            "tailorbird_file_refused",
            "1 while what lies on disk is refused, and what lay there before is in use.",
            ["file"],
            registry=registry,
        )


class RereadFiles:
    """Has `paths` taken now, and again whenever they have changed.

    `take` reads them, and raises TailorbirdError for what cannot be used: the first time it goes to
    the caller, later it is told in one line, and what was taken before stays in use. A thread of
    its own looks, so that a slow disk keeps nobody waiting; it compares contents, not times, for
    Kubernetes replaces a Secret's files by moving a link.
    """

    def __init__(
        self,
        name: str,
        paths: Sequence[Path],
        take: Callable[[], None],
        metrics: RereadMetrics,
    ) -> None:
        self._name = name
        self._paths = paths
        self._take = take
        self._metrics = metrics
        self._metrics.refused.labels(name).set(0)
        self._seen = self._judged = self._contents()
        take()
        self._stop = Event()
        self._thread = Thread(target=self._watch, name=f"reread {name}", daemon=True)

    def start(self) -> None:
        """Look at the files from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more; a read that hangs is left behind."""
        self._stop.set()

    def look(self) -> None:
        """Take what has changed, if it is the same as at the look before.

        What is half written, or one file of a pair ahead of the other, is different at the next.
        """
        before, self._seen = self._seen, self._contents()
        if self._seen == self._judged or self._seen != before:
            return
        self._judged = self._seen
        try:
            self._take()
        except Exception as error:
            # Whatever it is: this thread has to see the next change.
            known = isinstance(error, TailorbirdError)
            self._metrics.reads.labels(self._name, "refused").inc()
            self._metrics.refused.labels(self._name).set(1)
            _log.error(
                "changed file refused",
                file=self._name,
                error=str(error) if known else type(error).__name__,
            )
            return
        self._metrics.reads.labels(self._name, "taken").inc()
        self._metrics.refused.labels(self._name).set(0)
        _log.info("changed file taken", file=self._name)

    def _contents(self) -> Contents:
        return tuple(_read(path) for path in self._paths)

    def _watch(self) -> None:
        while not self._stop.wait(_SECONDS):
            self.look()


def read_file(setting: str, path: Path) -> bytes:
    """Return what is in `path`, which `setting` names.

    Raises InvalidArgument if it cannot be read, or is so large that a change could go unseen.
    """
    try:
        data = _head(path)
    except OSError as error:
        raise InvalidArgument(setting, f"{path}: {error.strerror}") from error
    if len(data) > _MAX_BYTES:
        raise InvalidArgument(setting, f"{path} has more than {_MAX_BYTES} bytes")
    return data


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_MAX_BYTES + 1)


def _read(path: Path) -> bytes | None:
    try:
        return _head(path)
    except OSError:
        return None
