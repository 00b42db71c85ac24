"""uvicorn's HTTP protocol, without its endless patience: a request has to come whole within some seconds.

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
        _patience: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
            else:
                self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state in {h11.IDLE, h11.SEND_BODY}:
                self._wait()
            else:
                self._calm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._calm()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._patience is None:
                self._patience = self.loop.call_later(REQUEST_BOUND, self._give_up)

        def _calm(self) -> None:
            if self._patience:
                self._patience.cancel()
                self._patience = None

        def _give_up(self) -> None:
            # After an upgrade the socket belongs to another protocol.
            self._patience = None
            if self.transport.get_protocol() is self and self.conn.their_state in {h11.IDLE, h11.SEND_BODY}:
                self.transport.close()

    return BoundedProtocol
