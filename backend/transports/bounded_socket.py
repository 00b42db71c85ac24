"""uvicorn's WebSocket protocol with bounds on what a client makes it do before a frame reaches the application.

Some attributes of that protocol are private to uvicorn: its version is pinned, and tests break each of the bounds.
"""

import asyncio
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame, Opcode

from backend.core.limits import Pace

READ_SIZE = 256  # bytes of one read: all its frames, 40 at most, are taken apart in one turn of the loop
CLOSE_BOUND = 15.0  # seconds after the end of a session, longer than the close handshake, for what is still unsent
UNREADABLE = (
    b'{"rule":"request.invalid","message":"The handshake cannot be read: it has a body, more than 128 headers, or one of more '
    b'than 8 KiB. Send fewer and shorter headers, cookies too. [request.invalid]"}'
)
REFUSAL = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
    % len(UNREADABLE)
) + UNREADABLE
MESSAGES = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE})


class BoundedSocket(WebSocketsSansIOProtocol):
    """Reads little at once, so that the application sets the pace; cuts off floods of what does not reach it."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        transport.max_size = READ_SIZE
        self._pings = Pace(20.0, 100)
        self._fragments = Pace(200.0, 400)
        self._heard = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self._heard = self.loop.time()
        super().data_received(data)

    def handle_events(self) -> None:
        """A client that is over a pace here gets no answer: a pong is written whether it is read or not."""
        if self.conn.handshake_exc is not None:
            self._refuse_handshake()
            return
        now = self.loop.time()
        for event in self.conn.events:
            if isinstance(event, Frame) and event.opcode not in MESSAGES:
                pace = self._fragments if event.opcode is Opcode.CONT else self._pings
                if pace.wait(now):
                    self.transport.abort()
                    return
        super().handle_events()

    def _refuse_handshake(self) -> None:
        """The library cannot read it and waits for its end; uvicorn would keep the connection, which nothing counts."""
        if not self.transport.is_closing():
            self.handshake_complete = self.close_sent = True
            self.transport.write(REFUSAL)
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        """Close the connection for text that is not UTF-8; uvicorn would log a traceback."""
        if self.curr_msg_data_type == "text" and not _is_utf8(b"".join(self.frames)):
            self.conn.fail(CloseCode.INVALID_DATA, "The text is not UTF-8.")
            self.handle_parser_exception()
        else:
            super().send_receive_event_to_app()

    def keepalive_timeout(self) -> None:
        """A client that is silent does not read either: what is unsent would be kept for it without end.

        One that sends may have answered: the answer is behind what it sent before, which is read at a pace.
        """
        if self.ping_timeout and self._heard > self.loop.time() - self.ping_timeout:
            self.pong_timer = self.loop.call_later(self.ping_timeout, self.keepalive_timeout)
            return
        super().keepalive_timeout()
        self.transport.abort()

    def on_task_complete(self, task: asyncio.Task[None]) -> None:
        super().on_task_complete(task)
        self.loop.call_later(CLOSE_BOUND, self.transport.abort)


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
