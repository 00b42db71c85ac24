"""The bus within one process: a server on its own, or several in a test."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from backend.bus.progress import LAST_BLOCKS, CopyProgress, FollowProgress
from backend.core.execution.bus import LocalExecutions, Relay
from backend.core.execution.model import Delivery, Instruction
from backend.core.recording.reader import Send

T = TypeVar("T")


class Seat:
    """A server on the bus, until it leaves."""

    def __init__(self, local: LocalExecutions) -> None:
        self.local = local
        self._left = asyncio.Event()
        self._relays: set[asyncio.Task[Any]] = set()

    async def leave(self) -> None:
        """End all relays, after a moment in which those of ended recordings are completed."""
        if self._relays:
            await asyncio.wait(self._relays, timeout=LAST_BLOCKS)
        self._left.set()

    async def relay(self, work: Coroutine[Any, Any, T], sending: asyncio.Lock) -> T | None:
        """The result of the work; None when the server has left. The block that is being sent, under the lock, arrives first."""
        loop = asyncio.get_running_loop()
        working, leaving = loop.create_task(work), loop.create_task(self._left.wait())
        self._relays.add(working)
        try:
            await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                await sending.acquire()
            return working.result() if working.done() else None
        finally:
            self._relays.discard(working)
            working.cancel()
            leaving.cancel()
            await asyncio.gather(working, leaving, return_exceptions=True)


class MemoryBus:
    """Reaches the servers that have joined it."""

    def __init__(self) -> None:
        self._seats: dict[str, list[Seat]] = {}

    @asynccontextmanager
    async def joined(self, owner: str, folder: str, local: LocalExecutions) -> AsyncIterator[None]:
        """Answer for this server within the context."""
        seat = Seat(local)
        for address in (owner, folder):
            self._seats.setdefault(address, []).append(seat)
        try:
            yield
        finally:
            for address in (owner, folder):
                self._remove(address, seat)
            await seat.leave()

    def _remove(self, address: str, seat: Seat) -> None:
        self._seats[address].remove(seat)
        if not self._seats[address]:
            del self._seats[address]

    async def instruct(self, owner: str, execution: str, instruction: Instruction) -> Delivery:
        """Deliver an instruction to an execution of the server `owner`."""
        seat = self._seat(owner)
        return await seat.local.deliver(execution, instruction) if seat else Delivery.UNREACHABLE

    async def follow(self, address: str, execution: str, after_seq: int, send: Send) -> Relay:
        """Send what is recorded by a server or in a folder after `after_seq`, live, until the end."""
        progress = FollowProgress(execution, send, after_seq)
        while seat := self._seat(address):
            sending = asyncio.Lock()
            found = await seat.relay(_follow(seat.local, progress, sending), sending)
            if found is not None:
                return Relay.ENDED if found else Relay.UNKNOWN
        return Relay.UNREACHABLE

    async def copy(self, folder: str, execution: str, send: Send, begin: int, end: int | None) -> int | Relay:
        """Send what is stored in the folder now between two offsets; returns the offset after what was sent."""
        progress = CopyProgress(execution, send, begin, end)
        while seat := self._seat(folder):
            sending = asyncio.Lock()
            found = await seat.relay(_copy(seat.local, progress, sending), sending)
            if found is not None:
                return found
        return Relay.UNREACHABLE

    async def check(self) -> bool:
        """Always true: this process reaches itself."""
        return True

    def _seat(self, address: str) -> Seat | None:
        return next(iter(self._seats.get(address, ())), None)


async def _follow(local: LocalExecutions, progress: FollowProgress, sending: asyncio.Lock) -> bool:
    return await local.follow_here(progress.execution, progress.after_seq, _within(sending, progress.pass_on))


async def _copy(local: LocalExecutions, progress: CopyProgress, sending: asyncio.Lock) -> int | Relay:
    send = _within(sending, progress.pass_on)
    place = await local.copy_here(progress.execution, send, progress.begin, progress.end)
    return Relay.UNKNOWN if place is None else place


def _within(sending: asyncio.Lock, send: Send) -> Send:
    async def send_locked(block: bytes) -> None:
        async with sending:
            await send(block)

    return send_locked
