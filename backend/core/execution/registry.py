"""The executions that run in this process, and their viewers."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import field
from functools import partial

from backend.core.audit.attempts import Attempt
from backend.core.dataclasses import dataclass, replace
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Delivery, Instruction, StopReason
from backend.core.execution.requests import Request
from backend.core.execution.timeouts import Timeout, timeout
from backend.core.policy.admit import Plan
from backend.core.recording.writer import Recorder, RecordingLog

FIRST_VIEWER = (
    1.0  # seconds that the client which started a command has to begin viewing, however short the grace period
)
LAST_LOOK = 1.0  # seconds that viewers have to receive the end of an execution before the server stops further


@dataclass(slots=True, eq=False)
class Execution:
    """A command that was admitted and runs, or has just ended."""

    id: str
    request: Request
    plan: Plan
    attempt: Attempt
    log: RecordingLog
    recorder: Recorder
    instructions: Instructions
    on_end: Callable[[], None]
    viewers: int = 0
    unviewed: asyncio.Event = field(default_factory=asyncio.Event)
    running: bool = True
    left: bool = False
    task: asyncio.Task[None] | None = None
    abandon: Timeout | None = None

    def watch_for_viewers(self) -> None:
        """Stop the execution if no viewer comes."""
        if not self.request.detached:
            self._stop_after(max(self.request.target.limits.detach_grace, FIRST_VIEWER))

    def leave(self) -> None:
        """Its client has gone: from now on it needs a viewer, also where it was started in the background."""
        self.left = True
        if self.request.detached:
            self.request = replace(self.request, detached=False)
            if self.running and not self.viewers:
                self.watch_for_viewers()

    def add_viewer(self) -> None:
        """Count one until it is removed."""
        self.viewers += 1
        self.unviewed.clear()
        self._keep()

    def remove_viewer(self) -> None:
        """A viewer has gone."""
        self.viewers -= 1
        if not self.viewers:
            self.unviewed.set()
        if not self.viewers and self.running and not self.request.detached:
            self._stop_after(self.request.target.limits.detach_grace)

    async def seen(self) -> None:
        """Wait until no viewer is left."""
        if self.viewers:
            await self.unviewed.wait()

    def ended(self) -> None:
        """The executor has returned."""
        self.running = False
        self.instructions.stdin.abandon()
        self._keep()

    def _stop_after(self, seconds: float) -> None:
        self._keep()
        self.abandon = timeout(seconds, partial(self.instructions.stop, StopReason.ABANDONED))

    def _keep(self) -> None:
        if self.abandon:
            self.abandon.cancel()
            self.abandon = None


@dataclass(slots=True)
class Registry:
    """The executions of this process, by their ids."""

    live: dict[str, Execution] = field(default_factory=dict)

    def add(self, execution: Execution) -> None:
        """Register an execution until its end is recorded."""
        self.live[execution.id] = execution

    def remove(self, execution: Execution) -> None:
        """Remove an execution whose end is recorded."""
        del self.live[execution.id]

    def find(self, execution: str) -> Execution | None:
        """An execution that runs here now."""
        return self.live.get(execution)

    async def deliver(self, execution: str, instruction: Instruction) -> Delivery:
        """Deliver an instruction to an execution that runs here. A stop that arrives as it ends is no error."""
        found = self.live.get(execution)
        return await found.instructions.deliver(instruction) if found else Delivery.NOT_RUNNING

    def stop(self, executions: frozenset[str], reason: StopReason) -> None:
        """Stop those of the executions that run here."""
        for execution in executions & self.live.keys():
            self.live[execution].instructions.stop(reason)

    async def stop_all(self, reason: StopReason) -> None:
        """Stop all executions, and wait until they have ended and, for a moment, until their viewers have received it."""
        while running := [execution for execution in self.live.values() if execution.task]:
            self.stop(frozenset(self.live), reason)
            await asyncio.gather(*(execution.task for execution in running if execution.task))
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_LOOK):
                    await asyncio.gather(*(execution.seen() for execution in running))
