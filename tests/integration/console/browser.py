"""A real headless Chromium, driven by its own protocol (CDP) over a websocket."""

from __future__ import annotations

import base64
import json
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-port=0", "--remote-allow-origins=*", "--no-proxy-server"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_SECONDS = 30


class Tab:
    """One page. `said` is what scripts and the policy complained of, `asked` what was fetched."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._last = 0
        self._events: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.asked: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def go(self, url: str) -> None:
        """Open an address, and wait until it is loaded."""
        self._loaded(lambda: self._call("Page.navigate", url=url))

    def click(self, selector: str) -> None:
        """Click what leads to another page, and wait for that."""
        self._loaded(lambda: self.run(f"{_found(selector)}.click()"))

    def press(self, selector: str) -> None:
        """Click what leads nowhere else."""
        self.run(f"{_found(selector)}.click()")

    def fill(self, selector: str, value: str) -> None:
        """Write into a field."""
        self.run(f"{_found(selector)}.value = {json.dumps(value)}")

    def run(self, expression: str) -> Any:
        """Return an expression's value, awaited if it is a promise."""
        found = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def until(self, expression: str) -> None:
        """Wait until an expression is true."""
        self.run(
            "new Promise((done) => { const look = () => "
            f"({expression}) ? done(true) : requestAnimationFrame(look); look(); }})"
        )

    def text(self) -> str:
        """Return what a person reads."""
        return str(self.run("document.body.innerText"))

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Show pages in a window of this size, light or dark."""
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def without_script(self) -> None:
        """Run no script of pages from now on."""
        self._call("Emulation.setScriptExecutionDisabled", value=True)

    def picture(self) -> bytes:
        """Return what the window shows, a PNG."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _loaded(self, act: Callable[[], object]) -> None:
        self._events.clear()
        act()
        while not any(one["method"] == "Page.loadEventFired" for one in self._events):
            self._hear()

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._last += 1
        number = self._last
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while (answer := self._hear()).get("id") != number:
            pass
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return dict(answer["result"])

    def _hear(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._socket.recv(_SECONDS))
        match message.get("method"):
            case "Log.entryAdded":
                self.said.append(str(message["params"]["entry"]))
            case "Runtime.exceptionThrown":
                self.said.append(str(message["params"]["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
        if "method" in message:
            self._events.append(message)
        return message


def _found(selector: str) -> str:
    return f"document.querySelector({json.dumps(selector)})"


@contextmanager
def browser(program: str, folder: Path) -> Iterator[Tab]:
    """Start a browser with a profile in `folder`, and yield its tab."""
    with subprocess.Popen(
        [program, *_FLAGS, f"--user-data-dir={folder}", "about:blank"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = next(one for one in process.stderr if "DevTools listening on" in one)
            address = line.rpartition("ws://")[2].partition("/")[0]
            with urllib.request.urlopen(f"http://{address}/json/list", timeout=_SECONDS) as listed:
                pages = [one for one in json.load(listed) if one["type"] == "page"]
            url = pages[0]["webSocketDebuggerUrl"]
            with connect(url, max_size=2**26, proxy=None, compression=None) as socket:
                yield Tab(socket)
        finally:
            process.terminate()
