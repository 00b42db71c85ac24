"""Stored lines written to a WebSocket, a block at a time.

Sending each line through ASGI costs ten microseconds, nearly all of it per message. Where the server is uvicorn's own
WebSocket protocol, the frames of a block are built here, in pieces, and written straight to the transport; elsewhere each goes its ordinary
way. The attributes used of that protocol are private to uvicorn: its version is pinned, and a test reads frames
written this way with another client.
"""

import asyncio
import select
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from functools import partial
from itertools import islice
from typing import Any, Protocol

from backend.core.execution.low_priority import low_priority
from backend.core.recording.batches import Batch, line_spans, read_batch, read_head, stored_lines
from backend.core.recording.native import OutputModule, output

AsgiSend = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Encode = Callable[[bytes], Iterator[bytes]]
Key = tuple[Encode, int, bytes, bytes]  # the size of a block and its ends; the hash of all of it would take longer

TEXT_FRAME = 0x81  # FIN and opcode 1
PIECE = 64 * 1024  # bytes written at once, at least; of a client that does not read, one is kept
TURN = 128 * 1024  # bytes after which others go first
SHARED = 4 << 20  # bytes of frames that are kept for other viewers of the same recording
ALONE = 1024  # bytes of a block whose frames are made as fast as they are found
ENDS = 64  # bytes of a block by which it is looked up, at either end
NUMBERS = [b"%03d}" % number for number in range(1000)]


class BlockWriter(Protocol):
    """Sends a block of stored lines as text messages; returns when the socket accepts more. False once it is closed."""

    async def write(self, block: bytes) -> bool: ...


def frame_head(length: int) -> bytes:
    """The head of an unmasked text frame with a payload of `length` bytes (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((TEXT_FRAME, length))
    if length < 65536:
        return bytes((TEXT_FRAME, 126)) + length.to_bytes(2, "big")
    return bytes((TEXT_FRAME, 127)) + length.to_bytes(8, "big")


def payload_frames(block: bytes) -> Iterator[bytes]:
    """Each stored line as one frame."""
    lines = memoryview(block)  # copied once, into the frame
    return (b"".join((frame_head(end - at), lines[at:end])) for at, end in line_spans(block))


def line_frames(block: bytes) -> Iterator[bytes]:
    """Each stored line as one frame, except that output becomes a frame a line; many frames come together."""
    for at, end in line_spans(block):
        yield from _frames_of_lines(block, at, end) or (frame_head(end - at) + block[at:end],)


def frames_in_python(block: bytes, at: int, end: int) -> Iterator[bytes] | None:
    """The frames of a stored line of output; None for another message."""
    batch = read_batch(block[at:end])
    return _batch_frames(batch) if batch else None


def frames_in_c(module: OutputModule, block: bytes, at: int, end: int) -> Iterator[bytes] | None:
    """The same, as they are needed, each time about as many as a piece holds."""
    found = read_head(block, at)
    return _made_in_c(module, block, *found, end) if found else None


def _made_in_c(module: OutputModule, block: bytes, batch: Batch, at: int, end: int) -> Iterator[bytes]:
    head, seq = batch.head, batch.seq
    while at < end - 1:
        frames, at, seq = module.line_frames(block, at, seq, head, PIECE)
        yield frames


_frames_of_lines = partial(frames_in_c, output) if output else frames_in_python


def pieces(frames: Iterator[bytes]) -> Iterator[bytes]:
    """The frames joined into pieces of at least PIECE bytes, and a rest."""
    waiting, size = [], 0
    for frame in frames:
        waiting.append(frame)
        size += len(frame)
        if size >= PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


class _Heads(dict[int, bytes]):
    """The frame head and the fixed start of the message, by the length of the line in it."""

    def __init__(self, start: bytes, rest: int) -> None:
        self.start, self.rest = start, rest

    def __missing__(self, length: int) -> bytes:
        head = self[length] = frame_head(length + self.rest) + self.start
        return head


def _batch_frames(batch: Batch) -> Iterator[bytes]:
    """A frame for each line of a batch: thousands at once, so that each costs a tenth of a microsecond.

    Lines whose numbers share all but the last three digits share everything except the line, its length and those
    digits; such a run is put together by slices and one join.
    """
    at = 0
    while at < len(batch.lines):
        thousands, first = divmod(batch.seq + at, 1000)
        lines = batch.lines[at : at + 1000 - first]
        yield _run_frames(batch.head, lines, thousands, first)
        at += len(lines)


def _run_frames(head: bytes, lines: list[bytes], thousands: int, first: int) -> bytes:
    if not thousands:
        messages = (b'%b%b","seq":%d}' % (head, line, seq) for seq, line in enumerate(lines, first))
        return b"".join(frame_head(len(message)) + message for message in messages)
    middle = b'","seq":%d' % thousands
    heads = _Heads(head, len(head) + len(middle) + len(NUMBERS[0]))
    parts = [middle] * (4 * len(lines))
    parts[0::4] = map(heads.__getitem__, map(len, lines))
    parts[1::4] = lines
    parts[3::4] = NUMBERS[first : first + len(lines)]
    return b"".join(parts)


class _Made:
    """The pieces of a block that some viewer has needed so far, until they are `dropped`."""

    def __init__(self, block: bytes, rest: Iterator[bytes]) -> None:
        self.block = block
        self.pieces: list[bytes] = []
        self.rest = rest
        self.size = 0
        self.dropped = False

    def drop(self) -> None:
        self.pieces, self.rest, self.dropped = [], iter(()), True


class SharedFrames:
    """Frames that are made once for all viewers which are sent the same block; of the newest blocks, `limit` bytes at most."""

    def __init__(self, limit: int = SHARED) -> None:
        self._limit = limit
        self._size = 0
        self._made: OrderedDict[Key, _Made] = OrderedDict()

    def pieces(self, encode: Encode, block: bytes) -> Iterator[bytes]:
        """The frames of a block in pieces, made as they are needed: a client that does not read costs one."""
        if len(block) < ALONE:
            yield from pieces(encode(block))
            return
        made = self._of(encode, block)
        number = 0
        while not made.dropped:
            piece = self._piece(made, number)
            if piece is None:
                return
            yield piece
            number += 1
        yield from islice(pieces(encode(block)), number, None)  # this viewer is behind all others, or the block is long

    def _of(self, encode: Encode, block: bytes) -> _Made:
        key = encode, len(block), block[:ENDS], block[-ENDS:]
        made = self._made.get(key)
        if made is None or made.block != block:
            if made:
                self._drop(key)
            made = self._made[key] = _Made(block, pieces(encode(block)))
            self._grow(made, len(block))
        return made

    def _drop(self, key: Key) -> None:
        made = self._made.pop(key)
        self._size -= made.size
        made.drop()

    def _piece(self, made: _Made, number: int) -> bytes | None:
        if number < len(made.pieces):
            return made.pieces[number]
        piece = next(made.rest, None)
        if piece is not None:
            made.pieces.append(piece)
            self._grow(made, len(piece))
        return piece

    def _grow(self, made: _Made, size: int) -> None:
        """Drop the oldest blocks beyond the limit."""
        made.size += size
        self._size += size
        while self._size > self._limit:
            self._drop(next(iter(self._made)))


class DirectWriter:
    """Writes frames straight to the transport of uvicorn's WebSocket protocol."""

    def __init__(self, protocol: Any, encode: Encode, shared: SharedFrames) -> None:
        self._protocol = protocol
        self._encode = encode
        self._shared = shared
        self._others = low_priority()
        self._turn = asyncio.Lock()
        protocol.transport.set_write_buffer_limits(high=0)

    async def write(self, block: bytes) -> bool:
        """Write a block, a piece at a time; after some of them others go first.

        However many write at once, one piece is passed on at a time, and only when the transport has nothing left of the
        one before: a client that does not read costs one piece.
        """
        written = 0
        for piece in self._shared.pieces(self._encode, block):
            if written >= TURN:
                await self._others.turn()
                written = 0
            async with self._turn:
                if not await self._write(piece):
                    return False
            written += len(piece)
        return True

    async def _write(self, piece: bytes) -> bool:
        protocol = self._protocol
        await protocol.writable.wait()
        if protocol.close_sent or protocol.disconnected or protocol.transport.is_closing():
            return False
        protocol.transport.write(piece)
        return True


class MessageWriter:
    """Sends message by message through ASGI."""

    def __init__(self, send: AsgiSend, *, batches: bool) -> None:
        self._send = send
        self._batches = batches

    async def write(self, block: bytes) -> bool:
        """Send a block; OSError is how ASGI says that the client has gone."""
        try:
            for line in stored_lines(block):
                batch = None if self._batches else read_batch(line)
                for message in batch.messages() if batch else (line,):
                    await self._send({"type": "websocket.send", "text": message.decode()})
        except OSError:
            return False
        return True


def block_writer(send: AsgiSend, *, batches: bool, shared: SharedFrames) -> BlockWriter:
    """The fastest writer for a connection, found by what its ASGI `send` belongs to."""
    protocol = getattr(send, "__self__", None)
    needed = ("transport", "writable", "close_sent", "disconnected", "conn")
    kinds = {kind.__name__ for kind in type(protocol).__mro__}  # `serve` has one of its own, made from uvicorn's
    if "WebSocketsSansIOProtocol" in kinds and all(hasattr(protocol, name) for name in needed):
        return DirectWriter(protocol, payload_frames if batches else line_frames, shared)
    return MessageWriter(send, batches=batches)


def abort(send: AsgiSend) -> None:
    """End a connection at once where the server is uvicorn: a close handshake would let a flood go on for seconds."""
    if transport := getattr(getattr(send, "__self__", None), "transport", None):
        transport.abort()


def has_left(send: AsgiSend) -> bool:
    """Whether the client has closed the connection, which asyncio does not notice while it does not read from it."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None or transport.is_closing():
        return transport is not None
    state = select.poll()
    state.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(state.poll(0))
