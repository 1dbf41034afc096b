"""A scanner that is held, and the test that holds it: in two processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import psutil

from serving_svc.feedback.redaction import Redactor
from tailorbird.errors import InvalidArgument
from tailorbird.personal_data.findings import Finding
from tailorbird.personal_data.modes import Mode


class HeldScanner:
    """Says to `address` whose text it reads, and waits for the answer."""

    def __init__(self, address: str) -> None:
        self._test = Client(address)

    def search(self, text: str, label: str = "") -> Generator[None, None, list[Finding]]:
        yield
        if text.startswith("from "):
            self._test.send((os.getpid(), text.removeprefix("from ")))
            self._test.recv()
        return []


class EndlessScanner(HeldScanner):
    """To which a text of acme's has no end, piece by piece; says when nobody waits for it."""

    def search(self, text: str, label: str = "") -> Generator[None, None, list[Finding]]:
        if text != "from acme":
            return (yield from super().search(text, label))
        try:
            while True:
                yield
        finally:
            self._test.send((os.getpid(), "given up"))
            self._test.recv()


def never(address: str) -> HeldScanner:
    """Make no scanner, for ever."""
    with Client(address) as test:
        test.send((os.getpid(), ""))
        signal.pause()
    raise AssertionError


class Silent:
    """Finds nothing; cannot be made without `file`, nor read what is from somebody."""

    def __init__(self, file: Path) -> None:
        if not file.exists():
            raise InvalidArgument("spacy_model", "is gone")

    def search(self, text: str, label: str = "") -> Generator[None, None, list[Finding]]:
        yield
        if text.startswith("from "):
            raise KeyError(text)
        return []


class Holder:
    """The other end of every HeldScanner at `address`."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "held")
        self.began = threading.Event()
        """A text is being read, by `process`."""
        self.go_on = threading.Event()
        self.read: list[str] = []
        self.process = psutil.Process()
        self._ended = False
        self._listener = Listener(self.address)
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        """Let every scanner go on, whose process is about to end."""
        self._ended = True
        self.go_on.set()
        Client(self.address).close()
        for thread in self._threads:
            thread.join(30)
        self._listener.close()

    def _accept(self) -> None:
        while not self._ended:
            thread = threading.Thread(target=self._hold, args=(self._listener.accept(),))
            self._threads.append(thread)
            thread.start()

    def _hold(self, scanner: Connection) -> None:
        with scanner, suppress(EOFError, OSError):
            while True:
                pid, whose = scanner.recv()
                self.process = psutil.Process(pid)
                self.began.set()
                self.go_on.wait(30)
                self.read.append(whose)
                scanner.send(None)


@contextmanager
def held(
    folder: Path, scanner: type[HeldScanner] = HeldScanner
) -> Iterator[tuple[Redactor, Holder]]:
    """Give a redactor whose process is held at each text that is from somebody."""
    holder = Holder(folder)
    # Anything that has `search` is a scanner.
    redactor = Redactor(partial(scanner, holder.address), Mode.REDACT)  # type: ignore[arg-type]
    try:
        yield redactor, holder
    finally:
        redactor.close()
        holder.close()
