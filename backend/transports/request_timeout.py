"""uvicorn's HTTP protocol with a timeout: a request has to arrive completely within some seconds.

Some attributes of that protocol are private to uvicorn: its version is pinned, and a test sends half a request.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_BOUND = 10.0  # seconds for the header and the body of a request


def bounded_protocol(most: int) -> type[H11Protocol]:
    """The protocol class for a server that keeps at most `most` connections open."""

    class BoundedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
            else:
                self._set_deadline()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state in {h11.IDLE, h11.SEND_BODY}:
                self._set_deadline()
            else:
                self._clear_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self._clear_deadline()
            super().connection_lost(exc)

        def _set_deadline(self) -> None:
            if self._deadline is None:
                self._deadline = self.loop.call_later(REQUEST_BOUND, self._close_slow)

        def _clear_deadline(self) -> None:
            if self._deadline:
                self._deadline.cancel()
                self._deadline = None

        def _close_slow(self) -> None:
            # After an upgrade the socket belongs to another protocol.
            self._deadline = None
            if self.transport.get_protocol() is self and self.conn.their_state in {h11.IDLE, h11.SEND_BODY}:
                self.transport.close()

    return BoundedProtocol
