"""The daemon of a host: from its start until SIGTERM, when it finishes what runs."""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import field
from typing import Any

from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.core.hosts.messages import Command, Dropped
from backend.core.ports import AuditLog
from backend.host_agent.front import Front
from backend.host_agent.jobs import Jobs
from backend.host_agent.link import Link

MOST_COMMANDS = 512  # commands that are answered at once; what arrives beyond them is dropped


@dataclass(slots=True)
class Daemon:
    """Answers the commands of a host. `read` accepts a message or drops it; `audited` says whether a dropped one is recorded."""

    front: Front
    audit: AuditLog
    audited: Callable[[], bool]
    read: Callable[[bytes], Command | Dropped]
    finish_for: float
    answering: set[asyncio.Task[None]] = field(default_factory=set)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, link: Link, jobs: Jobs | None, *, dialects: bool) -> None:
        """Serve until SIGTERM or SIGINT: the jobs of servers, and with `dialects` the commands of existing backends."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stopping.set)
        receiving = [link.listen()] if dialects else []
        receiving += [jobs.listen()] if jobs else []
        listening = [loop.create_task(work) for work in receiving]
        others = [loop.create_task(work) for work in (link.beat(), link.deliver())]
        stop = loop.create_task(self.stopping.wait())
        try:
            done, _ = await asyncio.wait([*listening, *others, stop], return_when=asyncio.FIRST_COMPLETED)
            await _cancelled(listening)
            if running := self.answering | (jobs.running if jobs else set()):
                await asyncio.wait(running, timeout=self.finish_for)
        finally:
            rest = jobs.running if jobs else set()
            await _cancelled([*listening, *others, stop, *self.answering, *rest])
            if jobs:
                await jobs.close()
            await link.leave()
        for ended in done - {stop}:
            ended.result()  # a bug: raise it

    def receive(self, link: Callable[[], Link], data: bytes) -> None:
        """Answer a message, or drop it."""
        command = self.read(data)
        if isinstance(command, Dropped):
            self.dropped(command)
        elif len(self.answering) >= MOST_COMMANDS:
            self.dropped(Dropped("too many commands are being answered"))
        else:
            self._start(self._answer(link(), command))

    def dropped(self, message: Dropped) -> None:
        """Record a message that gets no answer."""
        self._start(self._record(message))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self.answering.add(task)
        task.add_done_callback(self.answering.discard)

    async def _answer(self, link: Link, command: Command) -> None:
        answer = await self.front.answer(command)
        if isinstance(answer, Dropped):
            await self._record(answer)
        else:
            link.answer(answer)

    async def _record(self, dropped: Dropped) -> None:
        """Record a message that gets no answer; of a flood only the beginning."""
        with suppress(StorageError):
            if self.audited():
                await self.audit.record(Kind.REJECTED, "unknown", "redis", {"reason": dropped.reason})


async def _cancelled(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
