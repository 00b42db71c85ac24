"""A small server for the tests of the bus: recordings in a folder, and what it was instructed to do."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backend.core.execution.bus import ExecutionBus, LocalExecutions
from backend.core.execution.model import Delivery, Instruction
from backend.core.recording.batches import read_batch
from backend.core.recording.lines import encode_lines
from backend.core.recording.messages import Complete, Started
from backend.core.recording.reader import Send
from backend.core.recording.writer import Recorder
from backend.storage.recordings import FileRecordings

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
OTHER = "01BRZ3NDEKTSV4RRFFQ69G5FAV"
OWNER, FOLDER = "owner-1", "folder-1"
BOUND = 40.0  # seconds that a test waits for what has to happen
STARTED = Started(
    command="seq",
    argv=("seq",),
    risk="safe",
    rule="allow.seq",
    cwd="/srv",
    time="2026-01-02T03:04:05.678Z",
    timeout=60,
    dry_run=False,
)
COMPLETE = Complete(
    status="succeeded",
    exit_code=0,
    signal=None,
    duration_ms=5,
    timed_out=False,
    truncated=False,
    stdout_bytes=1,
    stderr_bytes=0,
)
NewBus = Callable[[], ExecutionBus]


class Recording:
    """A recording that the test writes."""

    def __init__(self, folder: FileRecordings, execution: str = ID) -> None:
        self._recorder = Recorder(execution, folder.create(execution), lambda: 0.0)
        self._recorder.add(STARTED)

    def write(self, text: str) -> None:
        self._recorder.lines("stdout", encode_lines(text.encode()))

    def end(self) -> None:
        self._recorder.end(COMPLETE)


class Local:
    """Answers for a server: delivers to the executions in `running`, reads the recordings of a folder."""

    def __init__(self, folder: Path) -> None:
        self.recordings = FileRecordings(folder)
        self.answer = Delivery.DELIVERED
        self.running = {ID}
        self.delivered: list[Instruction] = []
        self.following = 0
        self.sent = 0
        self.changed = asyncio.Event()

    async def deliver(self, execution: str, instruction: Instruction) -> Delivery:
        if execution not in self.running:
            return Delivery.NOT_RUNNING
        self.delivered.append(instruction)
        return self.answer

    async def follow_here(self, execution: str, after_seq: int, send: Send) -> bool:
        found = self.recordings.find(execution)
        if found is None:
            return False
        self._count(1)
        try:
            await found.follow(after_seq, self._counted(send))
        finally:
            self._count(-1)
        return True

    async def copy_here(self, execution: str, send: Send, begin: int, end: int | None) -> int | None:
        found = self.recordings.find(execution)
        return await found.copy(self._counted(send), begin, end) if found else None

    def _count(self, change: int) -> None:
        self.following += change
        self.changed.set()

    def _counted(self, send: Send) -> Send:
        async def counted(block: bytes) -> None:
            await send(block)
            self.sent += 1

        return counted

    async def until_following(self, count: int) -> None:
        """Wait until so many viewers are served from here."""
        async with asyncio.timeout(BOUND):
            while self.following != count:
                self.changed.clear()
                await self.changed.wait()


@dataclass
class Viewer:
    """Collects what it is sent."""

    received: bytearray = field(default_factory=bytearray)
    blocks: int = 0
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, block: bytes) -> None:
        self.received += block
        self.blocks += 1
        self.more.set()

    async def until(self, text: str) -> None:
        """Wait until the viewer has seen a text."""
        async with asyncio.timeout(BOUND):
            while text.encode() not in self.received:
                self.more.clear()
                await self.more.wait()

    @property
    def numbers(self) -> list[int]:
        """The number of every line, in the order in which they came."""
        found: list[int] = []
        for line in bytes(self.received).splitlines():
            batch = read_batch(line)
            found += range(batch.seq, batch.seq + len(batch.lines)) if batch else [json.loads(line)["seq"]]
        return found


def stored(local: Local, execution: str = ID) -> bytes:
    """The complete recording."""
    return (local.recordings.folder / f"{execution}.ndjson").read_bytes()


@asynccontextmanager
async def two_servers(new_bus: NewBus, local: LocalExecutions, other: LocalExecutions) -> AsyncIterator[ExecutionBus]:
    """`local` is there as OWNER and FOLDER; what is yielded is the bus of another server, which has `other`."""
    bus, elsewhere = new_bus(), new_bus()
    async with bus.joined(OWNER, FOLDER, local), elsewhere.joined("owner-2", "folder-2", other):
        yield elsewhere
