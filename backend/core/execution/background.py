"""Executions that a line starts in the background: how it asks for them, and the builtins kill, wait and jobs."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    EXIT_NOT_FOUND,
    Delivery,
    Instruction,
    Job,
    Signal,
    SignalName,
    Status,
    Stop,
    StopReason,
)
from backend.core.policy.line_state import Await, Cancel, LineState

STOPPING = frozenset({"TERM", "KILL"})  # what kill sends to have something ended


@dataclass(frozen=True, slots=True)
class Seen:
    """What a line sees of an execution that it has started."""

    status: Status
    exit_code: int | None
    command: str


class BackgroundExecutions(Protocol):
    """What a line may ask of the executions of its principal. `job` is the line that asks."""

    async def start(self, job: Job, line: str, state: LineState) -> str | Decision:
        """Start an execution of its own that begins in this state; its id."""
        ...

    async def instruct(self, job: Job, execution: str, instruction: Instruction) -> Delivery | Decision:
        """Deliver an instruction, as if the principal of the line had sent it."""
        ...

    def running(self, job: Job) -> frozenset[str]:
        """The executions of the principal that run on this server."""
        ...

    async def seen(self, execution: str) -> Seen | None:
        """The state of one that the line has started. Raises StorageError."""
        ...

    async def end(self, execution: str) -> None:
        """Wait for the end of one that runs on this server."""
        ...


class _Stopping:
    """Receives the instructions to a line while it only waits."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def stop(self) -> None:
        self.asked.set()

    async def signal(self, _: SignalName) -> Delivery:
        return Delivery.NOT_RUNNING


@dataclass(frozen=True, slots=True)
class JobControl:
    """The builtins of one line. `say` shows a message, and returns its length in bytes."""

    executions: BackgroundExecutions
    job: Job
    say: Callable[[str], None]

    async def kill(self, effect: Cancel, state: LineState) -> int:
        """Instruct executions by their numbers, ids or the beginnings of these; the exit code."""
        problems = [problem for name in effect.names if (problem := await self._kill(name, effect.signal, state))]
        for problem in problems if effect.reports else ():
            self.say(f"kill: {problem}")
        return 1 if problems else 0

    async def _kill(self, name: str, signal: str, state: LineState) -> str:
        """Why an execution was not instructed; empty if it was."""
        found = [*self._named(name, state)]
        if len(found) != 1:
            return f"{name}: {'more than one execution' if found else 'no such execution'}"
        actor = self.job.actor.name
        instruction = Stop(StopReason.CANCELLED, actor) if signal in STOPPING else Signal(SignalName(signal))
        delivered = await self.executions.instruct(self.job, found[0], instruction)
        if isinstance(delivered, Decision):
            return f"{name}: {delivered.reason}"
        return "" if delivered is Delivery.DELIVERED else f"{name}: it is not running"

    def _named(self, name: str, state: LineState) -> Iterator[str]:
        """The executions that a name of kill stands for: `%1`, `%%`, `%01M7`, or an id."""
        known = state.started(name)
        if known or not name.startswith("%"):
            yield known or name
        elif len(name) > 1:
            yield from (each for each in self.executions.running(self.job) if each.startswith(name[1:]))

    async def wait(self, effect: Await, state: LineState, instructions: Instructions, seconds: float) -> int | None:
        """Wait for executions that the line has started: the exit code of the last one, None where it is stopped."""
        names = effect.names or tuple(f"%{number}" for number in state.background)
        code = 0
        for name in names:
            execution = state.started(name)
            if execution and not await self._ended(execution, instructions, seconds):
                return None
            seen = await self.executions.seen(execution) if execution else None
            code = EXIT_NOT_FOUND if seen is None else 0 if seen.exit_code is None else seen.exit_code
        return code if effect.names else 0

    async def _ended(self, execution: str, instructions: Instructions, seconds: float) -> bool:
        """Whether an execution has ended, and not the patience of the line: its time, or that it is to stop."""
        stopping, loop = _Stopping(), asyncio.get_running_loop()
        deadline = loop.call_later(seconds, instructions.stop, StopReason.TIMED_OUT)
        ended, asked = loop.create_task(self.executions.end(execution)), loop.create_task(stopping.asked.wait())
        try:
            with instructions.received_by(stopping):
                await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            deadline.cancel()
            ended.cancel()
            asked.cancel()
        return instructions.reason is None

    async def jobs(self, state: LineState) -> str:
        """What runs in the background of this line: number, id and command."""
        lines = []
        for number, execution in state.background.items():
            seen = await self.executions.seen(execution)
            if seen and not seen.status.is_final:
                lines.append(f"[{number}] {execution} {seen.status} {seen.command}\n")
        return "".join(lines)
