"""uvicorn's HTTP protocol with bounds: a request has to arrive within some seconds, an address has few connections.

Some attributes of that protocol are private to uvicorn: its version is pinned, and a test sends half a request.
"""

import asyncio
from collections import Counter
from dataclasses import field
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from backend.core.client_address import client_address
from backend.core.dataclasses import dataclass

REQUEST_BOUND = 10.0  # seconds for the header and the body of a request


CROWDED = (
    b'{"rule":"limits.connections","message":"Too many connections from this address. Close one. [limits.connections]"}'
)
REFUSAL = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    % len(CROWDED)
) + CROWDED


@dataclass(slots=True)
class ConnectionBounds:
    """How many connections are open at most: all, and of an address; None where that is not known."""

    most: int
    of_an_address: int | None
    opened: Counter[str] = field(default_factory=Counter)

    def enter(self, address: str) -> bool:
        """Count a connection; False if the address has too many."""
        if self.of_an_address is not None and self.opened[address] >= self.of_an_address:
            return False
        self.opened[address] += 1
        return True

    def leave(self, address: str) -> None:
        """Count a connection that has ended."""
        self.opened[address] -= 1
        if not self.opened[address]:
            del self.opened[address]


class BoundedProtocol(H11Protocol):
    """One connection. One that becomes a terminal is counted for its address elsewhere."""

    bounds: ConnectionBounds
    _deadline: asyncio.TimerHandle | None = None
    _counted: str | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        address = client_address(self.client[0] if self.client else "", (), 0)
        if len(self.connections) > self.bounds.most:
            transport.abort()
        elif self.bounds.enter(address):
            self._counted = address
            self._set_deadline()
        else:
            transport.write(REFUSAL)
            transport.close()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        super().handle_websocket_upgrade(event)
        self._discount()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._awaits_request():
            self._set_deadline()
        else:
            self._clear_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._clear_deadline()
        self._discount()
        super().connection_lost(exc)

    def _discount(self) -> None:
        if self._counted is not None:
            self.bounds.leave(self._counted)
            self._counted = None

    def _set_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_BOUND, self._close_slow)

    def _clear_deadline(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _close_slow(self) -> None:
        self._deadline = None
        if self._awaits_request():
            self.transport.close()

    def _awaits_request(self) -> bool:
        """After an upgrade the socket belongs to another protocol; a deadline would keep this one, with all it has parsed."""
        return self.transport.get_protocol() is self and self.conn.their_state in {h11.IDLE, h11.SEND_BODY}


def bounded_protocol(most: int, of_an_address: int | None) -> type[H11Protocol]:
    """The protocol class for a server that keeps at most `most` connections open, and as many `of_an_address`."""

    class Protocol(BoundedProtocol):
        bounds = ConnectionBounds(most, of_an_address)

    return Protocol
