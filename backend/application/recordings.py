"""Recordings wherever they are: on this server, or on the one that runs or stores the execution."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, TypeVar

from backend.application import visible
from backend.application.local_executions import LocalExecutions
from backend.core.audit.attempts import Record
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.access import Owner
from backend.core.execution.bus import ExecutionBus, Relay
from backend.core.execution.model import Status
from backend.core.execution.ownership import LEASE
from backend.core.execution.refusals import forgotten, unavailable, unknown, unreachable, unreadable
from backend.core.ports import ExecutionHistory
from backend.core.recording.batches import last_seq
from backend.core.recording.lost import lost_lines
from backend.core.recording.reader import Send

T = TypeVar("T")

LOST_BOUND = LEASE + 10.0  # seconds until an execution whose server died is recorded as lost
POLL = 0.5  # seconds between two reads of a record that another process changes
COUNT_AGAIN = 2.0  # seconds after which a server that did not count a viewer is asked again
BEHIND_ALL = 10**15  # a number that no message has


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording that the caller may view.

    `follow(after_seq, send)` sends the lines numbered above `after_seq`, live, until the end; `copy(send)` sends what
    is stored now. Both send blocks of complete lines and return why they could not continue. With `running`, more will
    be recorded.
    """

    id: str
    running: bool
    follow: Callable[[int, Send], Coroutine[Any, Any, Decision | None]]
    copy: Callable[[Send], Coroutine[Any, Any, Decision | None]]


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of an execution: it is live here, or has a record, or neither."""

    owner: Owner | None
    record: Record | None = None
    live: bool = False

    @property
    def running(self) -> bool:
        """Whether more will be recorded of it."""
        return self.live or bool(self.record and not self.record.status.is_final)

    @property
    def waits(self) -> bool:
        """Whether it has no owner yet."""
        return bool(self.record and self.record.status is Status.QUEUED)


@dataclass(frozen=True, slots=True)
class RecordingFinder:
    """Finds executions and their recordings. `owner` and `folder` are the ids of this server and of its data folder."""

    history: ExecutionHistory
    local: LocalExecutions
    bus: ExecutionBus
    owner: str
    folder: str

    async def find(self, id: str) -> Found:
        """What is known of an execution. Raises StorageError."""
        # One without a task is not on record yet: what waits is to be cancelled there, where only one server claims it.
        if (live := self.local.registry.find(id)) and live.task:
            who = live.request.principal
            return Found(Owner(who.name, who.user_id, live.attempt.project), live=True)
        record = await self.history.get(id)
        return Found(visible.owner_of(record) if record else None, record)

    def recording(self, id: str, found: Found) -> Recording | Decision:
        """The recording of an execution that was found."""
        if found.waits:
            return Recording(id, True, partial(self._follow_waiting, id), partial(self._download, id, found))
        try:
            if self._is_here(found) and self.local.reader(id) is None:
                return forgotten(id) if found.record else unknown(id)
        except OSError as error:
            return unreadable(error)
        follow = self._follow_here if self._is_here(found) else self._follow_there
        return Recording(id, found.running, partial(follow, found, id), partial(self._download, id, found))

    def _is_here(self, found: Found) -> bool:
        """Whether no other server has to be asked. What never ran has no recording anywhere."""
        record = found.record
        return record is None or record.owner is None or record.folder == self.folder

    async def _follow_waiting(self, id: str, after_seq: int, send: Send) -> Decision | None:
        """Wait until an execution has an owner, then follow it. One that is cancelled first has no recording."""
        while True:
            found = await answered(self.find(id))
            if isinstance(found, Decision):
                return found
            if not found.waits:
                recording = self.recording(id, found)
                return recording if isinstance(recording, Decision) else await recording.follow(after_seq, send)
            await asyncio.sleep(POLL)

    async def _follow_here(self, found: Found, id: str, after_seq: int, send: Send) -> Decision | None:
        owner = self._other_owner(found)
        with self._counted_by(owner, id) if owner else nullcontext():
            sent = await _read(lambda: self.local.follow_here(id, after_seq, send))
        return sent if isinstance(sent, Decision) else None if sent else forgotten(id)

    def _other_owner(self, found: Found) -> str:
        """The other server that runs an execution now; empty if there is none."""
        record = found.record
        running_at = record.owner if record and not record.status.is_final else None
        return running_at if running_at and running_at != self.owner else ""

    @contextmanager
    def _counted_by(self, owner: str, id: str) -> Iterator[None]:
        """Have another server count a viewer of what it runs, who reads the recording here, from the shared folder."""
        counting = asyncio.create_task(self._count_viewer(owner, id))
        try:
            yield
        finally:
            counting.cancel()

    async def _count_viewer(self, owner: str, id: str) -> None:
        """Follow behind the last line: a viewer for the server that runs it, but nothing is sent twice."""
        while await _read(lambda: self.bus.follow(owner, id, BEHIND_ALL, _ignore)) is Relay.UNREACHABLE:
            await asyncio.sleep(COUNT_AGAIN)

    async def _follow_there(self, found: Found, id: str, after_seq: int, send: Send) -> Decision | None:
        """Follow through the bus: the server that runs it, which counts its viewers, or any that has its recording.

        When that server dies, viewers still get an end: that it was lost.
        """
        seen = _LastSeq(send, after_seq)
        for address in filter(None, (self._other_owner(found), found.record.folder if found.record else "")):
            match await _read(partial(self.bus.follow, address, id, seen.seq, seen)):
                case Relay.ENDED:
                    return None
                case Relay.UNKNOWN:
                    return forgotten(id)
                case Decision() as problem:
                    return problem
                case Relay.UNREACHABLE:
                    pass  # the next one
        return await self._await_loss(id, seen)

    async def _await_loss(self, id: str, seen: "_LastSeq") -> Decision | None:
        deadline = asyncio.get_running_loop().time() + LOST_BOUND
        while asyncio.get_running_loop().time() < deadline:
            record = await answered(self._record(id))
            if isinstance(record, Record) and record.status.is_final:
                if record.status is not Status.LOST:
                    return unreachable(id)
                await seen.send(lost_lines(id, seen.seq + 1))
                return None
            await asyncio.sleep(POLL)
        return unreachable(id)

    async def _record(self, id: str) -> Record | Decision:
        return await self.history.get(id) or unknown(id)

    async def copy(self, id: str, found: Found, send: Send, begin: int, end: int | None) -> int | None:
        """Send what is stored between two offsets, wherever it is stored. Raises OSError and UnreachableError."""
        if self._is_here(found):
            return await self.local.copy_here(id, send, begin, end)
        answer = await self.bus.copy(found.record.folder if found.record else "", id, send, begin, end)
        match answer:
            case Relay.UNKNOWN | Relay.ENDED:
                return None
            case Relay.UNREACHABLE:
                raise UnreachableError
            case int():
                return answer

    async def _download(self, id: str, found: Found, send: Send) -> Decision | None:
        try:
            stored = await self.copy(id, found, send, 0, None)
        except UnreachableError:
            return unreachable(id)
        except OSError as error:
            return unreadable(error)
        return forgotten(id) if stored is None and not found.waits else None


class UnreachableError(Exception):
    """The server that stores a recording does not answer."""


async def _ignore(_: bytes) -> None:
    """Send nothing."""


class _LastSeq:
    """A `send` that remembers the number of the last line that it passed on."""

    def __init__(self, send: Send, seq: int) -> None:
        self.send, self.seq = send, seq

    async def __call__(self, block: bytes) -> None:
        await self.send(block)
        self.seq = last_seq(block)


async def answered(work: Awaitable[T]) -> T | Decision:
    """What storage returns, or the refusal that it is unavailable."""
    try:
        return await work
    except StorageError as error:
        return unavailable(error)


async def _read(work: Callable[[], Awaitable[T]]) -> T | Decision:
    """What is read from a recording, or the refusal that it cannot be read."""
    try:
        return await work()
    except OSError as error:
        return unreadable(error)
