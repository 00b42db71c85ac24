"""The streams of a pipeline: output from pipes to the recording, standard input from the client to a pipe."""

import asyncio
import os
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl

from backend.core.errors import RecordingError
from backend.core.execution.instructions import Instructions, StdinBuffer
from backend.core.execution.low_priority import low_priority
from backend.core.execution.model import StopReason, unrecorded
from backend.core.execution.pipeline import Capture
from backend.core.recording.lines import LineAssembler, Lines
from backend.core.recording.writer import RecordingWriter
from backend.executors.local.readers import Readers

READ_SIZE = 64 * 1024  # bytes, what a pipe holds unless it is made larger
LONG_READ = READ_SIZE // 2  # bytes behind which more is expected
# Bytes of a read of a stream that fills its pipe: most of what a read takes does not depend on its size.
FAST_READ = 2 * READ_SIZE
FAST_PIPE = 2 * FAST_READ  # bytes that its pipe holds from then on, so that the program writes meanwhile
PARTIAL_DELAY = 0.1  # seconds that the start of a line waits for its end
PIPE_READS = (1 << 20) // READ_SIZE + 1  # reads that empty a pipe of the largest usual size, 1 MiB


class Budget:
    """The bytes that a command may still write, both streams together."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, size: int) -> int:
        """How many of `size` bytes may be recorded."""
        granted = min(size, self.left)
        self.left -= granted
        return granted


class Captured(LineAssembler):
    """Keeps the bytes as they are, and passes none on."""

    def __init__(self, capture: Capture) -> None:
        super().__init__()
        self.capture = capture

    def feed(self, data: bytes) -> list[Lines]:
        """Keep a read."""
        self.capture.add(data)
        return []


class OutputStream:
    """Moves one output stream from its pipe to the recorder."""

    def __init__(
        self,
        readers: Readers,
        fd: int,
        name: str,
        recorder: RecordingWriter,
        instructions: Instructions,
        budget: Budget,
        assembler: LineAssembler,
    ) -> None:
        self.loop, self.readers, self.fd, self.name = readers.loop, readers, fd, name
        self.recorder, self.instructions, self.budget = recorder, instructions, budget
        self.assembler = assembler
        self.bytes = 0
        self.open = True
        self.fast = False
        self.timer: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] | None = None  # while `drain` waits
        readers.add(fd, self._on_readable)

    def _on_readable(self) -> None:
        """Move a read. A stream of which it is a long one has more, which others need not wait for."""
        if self._move() >= LONG_READ:
            self.readers.remove(self.fd)
            low_priority().add(self._go_on)
            self._enlarge()

    def _enlarge(self) -> None:
        """Have the pipe hold more, unless the user of this server has no room for that in the kernel."""
        if not self.fast:
            self.fast = True
            with suppress(OSError):
                fcntl(self.fd, F_SETPIPE_SZ, FAST_PIPE)

    def _go_on(self) -> None:
        if not self.open:
            return
        if self._move(FAST_READ) >= LONG_READ:
            low_priority().add(self._go_on)
        elif self.open:
            self.readers.add(self.fd, self._on_readable)

    def _move(self, size: int = READ_SIZE) -> int:
        """Move one read of up to `size` bytes; returns its bytes, 0 when there is nothing to read now."""
        try:
            data = os.read(self.fd, size)
        except BlockingIOError:
            self._time_partial(fresh=False, more=False)
            return 0
        if not data:
            self._close()
            return 0
        self.bytes += len(data)
        granted = self.budget.take(len(data))
        if granted:
            self._record(self.assembler.feed(data[:granted]))
            self._time_partial(fresh=data.find(b"\n") >= 0, more=len(data) >= LONG_READ)
        if granted < len(data):
            self.instructions.stop(StopReason.OUTPUT_LIMIT)
        return len(data)

    def _time_partial(self, *, fresh: bool, more: bool) -> None:
        """Have the start of a line passed on if its end does not come; `fresh` says that it has only just begun.

        With `more`, the pipe will be read again first, however long others keep it waiting.
        """
        if (fresh or more) and self.timer:
            self.timer.cancel()
            self.timer = None
        if not more and self.timer is None and self.assembler.pending:
            self.timer = self.loop.call_later(PARTIAL_DELAY, self._flush)

    def _flush(self) -> None:
        self.timer = None
        self._record(self.assembler.flush())

    def _record(self, ready: list[Lines]) -> None:
        try:
            for lines in ready:
                self.recorder.lines(self.name, lines)
        except RecordingError as error:
            self.instructions.stop(unrecorded(error))

    def _close(self) -> None:
        if not self.open:
            return
        self.open = False
        if self.timer:
            self.timer.cancel()
        self.readers.remove(self.fd)
        os.close(self.fd)
        self._record(self.assembler.flush(final=True))
        if self.closed and not self.closed.done():
            self.closed.set_result(None)

    async def drain(self, bound: float) -> None:
        """Read what is left: what the pipe holds, then until it closes or `bound` seconds have gone."""
        for _ in range(PIPE_READS):
            if not (self.open and self._move()):
                break
        if self.open:
            self.closed = self.loop.create_future()
            await asyncio.wait([self.closed], timeout=bound)
            self._close()


class StdinPump:
    """Moves what waits in the buffer into the pipe as fast as the program reads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, buffer: StdinBuffer) -> None:
        self.loop, self.fd, self.buffer = loop, fd, buffer
        self.writing = False
        buffer.on_change = self._pump
        self._pump()

    def _pump(self) -> None:
        if self.fd < 0:
            return
        try:
            while self.buffer.waiting:
                del self.buffer.waiting[: os.write(self.fd, self.buffer.waiting)]
        except BlockingIOError:
            self._watch(True)
            return
        except BrokenPipeError:
            self.buffer.abandon()
            self.close()
            return
        self._watch(False)
        if self.buffer.closed:
            self.close()

    def _watch(self, on: bool) -> None:
        if on and not self.writing:
            self.loop.add_writer(self.fd, self._pump)
        elif self.writing and not on:
            self.loop.remove_writer(self.fd)
        self.writing = on

    def close(self) -> None:
        """Close the pipe: the program reads the end of its input."""
        if self.fd < 0:
            return
        self._watch(False)
        os.close(self.fd)
        self.fd = -1
        self.buffer.closed = True
