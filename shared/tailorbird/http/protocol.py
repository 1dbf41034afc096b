"""uvicorn's protocol with bounds on a request's head, which it leaves to a proxy in front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tailorbird.http.exchange import ABORT

_MAX_HEAD_BYTES = 64 * 1024
_HEAD_SECONDS = 30.0


class BoundedHeads(HttpToolsProtocol):
    """Ends a connection whose head is larger than 64 KiB, or does not come within 30 seconds.

    `lost` is called when the connection is gone.
    """

    def __init__(self, config: Config, state: ServerState, lost: Callable[[], None]) -> None:
        super().__init__(config, state, {})
        self._lost = lost

    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes: int | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._await_head()

    def on_message_begin(self) -> None:
        """See httptools."""
        super().on_message_begin()
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]
        self._await_head()
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """See httptools."""
        self._head_bytes = None
        self._end_timer()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES:
                self.send_400_response(f"The head has more than {_MAX_HEAD_BYTES} bytes.")
                return
        super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._end_timer()
        super().connection_lost(exc)
        self._lost()

    def _await_head(self) -> None:
        self._end_timer()
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self.transport.close)

    def _end_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
