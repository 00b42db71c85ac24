"""Stored lines written to a WebSocket, a block at a time.

Sending each line through ASGI costs ten microseconds, nearly all of it per message. Where the server is uvicorn's own
WebSocket protocol, the frames of a whole block are built here and written at once; elsewhere each goes its ordinary
way. The attributes used of that protocol are private to uvicorn: its version is pinned, and a test reads frames
written this way with another client.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from backend.core.recording import Batch, read_batch

AsgiSend = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TEXT_FRAME = 0x81  # FIN and opcode 1
NUMBERS = [b'%03d}' % number for number in range(1000)]


class BlockWriter(Protocol):
    """Sends a block of stored lines as text messages; returns when the socket takes more. False once it is closed."""

    async def write(self, block: bytes) -> bool: ...


def frame_head(length: int) -> bytes:
    """The head of an unmasked text frame with a payload of `length` bytes (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((TEXT_FRAME, length))
    if length < 65536:
        return bytes((TEXT_FRAME, 126)) + length.to_bytes(2, "big")
    return bytes((TEXT_FRAME, 127)) + length.to_bytes(8, "big")


def payload_frames(block: bytes) -> bytes:
    """Each stored line as one frame."""
    return b"".join(frame_head(len(line)) + line for line in block.splitlines())


def line_frames(block: bytes) -> bytes:
    """Each stored line as one frame, except that output becomes a frame a line."""
    frames = []
    for line in block.splitlines():
        batch = read_batch(line)
        frames.append(_batch_frames(batch) if batch else frame_head(len(line)) + line)
    return b"".join(frames)


class _Heads(dict[int, bytes]):
    """The frame head and the fixed start of the message, by the length of the line in it."""

    def __init__(self, start: bytes, rest: int) -> None:
        self.start, self.rest = start, rest

    def __missing__(self, length: int) -> bytes:
        head = self[length] = frame_head(length + self.rest) + self.start
        return head


def _batch_frames(batch: Batch) -> bytes:
    """A frame for each line of a batch: thousands at once, so that each costs a tenth of a microsecond.

    Lines whose numbers share all but the last three digits share everything except the line, its length and those
    digits; such a run is put together by slices and one join.
    """
    runs, at = [], 0
    while at < len(batch.lines):
        thousands, first = divmod(batch.seq + at, 1000)
        lines = batch.lines[at : at + 1000 - first]
        runs.append(_run_frames(batch.head, lines, thousands, first))
        at += len(lines)
    return b"".join(runs)


def _run_frames(head: bytes, lines: list[bytes], thousands: int, first: int) -> bytes:
    if not thousands:
        messages = (b'%b%b","seq":%d}' % (head, line, seq) for seq, line in enumerate(lines, first))
        return b"".join(frame_head(len(message)) + message for message in messages)
    middle = b'","seq":%d' % thousands
    heads = _Heads(head, len(head) + len(middle) + len(NUMBERS[0]))
    pieces = [middle] * (4 * len(lines))
    pieces[0::4] = map(heads.__getitem__, map(len, lines))
    pieces[1::4] = lines
    pieces[3::4] = NUMBERS[first : first + len(lines)]
    return b"".join(pieces)


class DirectWriter:
    """Writes frames straight to the transport of uvicorn's WebSocket protocol."""

    def __init__(self, protocol: Any, encode: Callable[[bytes], bytes]) -> None:
        self._protocol = protocol
        self._encode = encode

    async def write(self, block: bytes) -> bool:
        """Write a block and wait until the transport is below its high-water mark."""
        protocol = self._protocol
        if protocol.close_sent or protocol.disconnected or protocol.transport.is_closing():
            return False
        protocol.transport.write(self._encode(block))
        await protocol.writable.wait()
        return not protocol.disconnected


class MessageWriter:
    """Sends message by message through ASGI."""

    def __init__(self, send: AsgiSend, *, batches: bool) -> None:
        self._send = send
        self._batches = batches

    async def write(self, block: bytes) -> bool:
        """Send a block; OSError is how ASGI says that the client has gone."""
        try:
            for line in block.splitlines():
                batch = None if self._batches else read_batch(line)
                for message in batch.messages() if batch else (line,):
                    await self._send({"type": "websocket.send", "text": message.decode()})
        except OSError:
            return False
        return True


def block_writer(send: AsgiSend, *, batches: bool) -> BlockWriter:
    """The fastest writer for a connection, found by what its ASGI `send` belongs to."""
    protocol = getattr(send, "__self__", None)
    needed = ("transport", "writable", "close_sent", "disconnected", "conn")
    if type(protocol).__name__ == "WebSocketsSansIOProtocol" and all(hasattr(protocol, name) for name in needed):
        return DirectWriter(protocol, payload_frames if batches else line_frames)
    return MessageWriter(send, batches=batches)
