"""The front of an agent: a message becomes an execution like any other, and its recording becomes the answer."""

import asyncio
import hashlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec, Existing, IdempotencyKey
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import OWN, TargetRef
from backend.core.hosts.commands import HostCommand
from backend.core.hosts.messages import Answer, Command, Dropped
from backend.core.identity import VISITOR_PERMISSIONS, Principal
from backend.core.recording.transcript import Transcript
from backend.host_agent.handlers import Handler, PythonHandler, QuickHandler
from backend.host_agent.targets import target_of

AT_ONCE = 4  # handlers that run side by side; quick ones do not count
MOST_WAITING = 256  # commands that wait for these
LONGEST_ANSWER = 1 << 19  # characters of each stream in an answer, which is one message
LONGEST_REF = 64  # characters of the id of a command that are recorded
# Stands for parameters that are none: every command but echo refuses it, and the answer of echo is not used.
UNREADABLE = "params:="
REPEATED = "it was received before"
UNLISTED = ("program.unlisted", "program.name", "blocked.")


@dataclass(slots=True)
class Front:
    """Answers commands. `executed` counts those that ran."""

    service: ExecutionService
    handlers: Mapping[str, Handler]
    clock: Callable[[], float]
    executed: int = 0
    waiting: int = 0
    free: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))

    async def answer(self, command: Command) -> Answer | Dropped:
        """Run a command and return its answer. Never raises: whatever is wrong with it is an error answer.

        Only a signed one that ran before, perhaps before this agent was started, gets none.
        """
        begun = self.clock()
        result = await self._in_turn(command)
        if isinstance(result, Dropped):
            return result
        success, output, error = result
        return Answer(command.id, success, output, error, int((self.clock() - begun) * 1000))

    async def _in_turn(self, command: Command) -> tuple[bool, Any, str] | Dropped:
        handler = self.handlers.get(command.name)
        if isinstance(handler, QuickHandler):
            return await self._run(command, handler)
        if self.waiting >= MOST_WAITING:
            return _refused(f"Busy: {MOST_WAITING} commands are waiting on this host. Send it again later.")
        self.waiting += 1
        try:
            await self.free.acquire()
        finally:
            self.waiting -= 1
        try:
            return await self._run(command, handler)
        finally:
            self.free.release()

    async def _run(self, command: Command, handler: Handler | None) -> tuple[bool, Any, str] | Dropped:
        line, target = self._line(command)
        spec = CommandSpec(
            line or shlex.join([command.name, UNREADABLE]),
            target,
            timeout=handler.timeout if handler else None,
            detached=True,
            client_ref=command.id[:LONGEST_REF].encode("utf-8", "replace").decode(),
        )
        started = await self.service.submit(_sender(command), spec, _once(command))
        match started:
            case Refused(decision):
                return _refused(_words(command.name, decision))
            case Existing():
                return Dropped(REPEATED)
            case Waiting():
                return _refused("This host did not start the command.")  # no target of a host waits
            case _:
                transcript = Transcript()
                problem = await self.service.follow_started(started.id, 0, transcript.add)
        self.executed += 1
        if not line:
            return _refused("Invalid parameters: params must be an object whose keys are plain names.")
        return _refused(problem.reason) if problem else _result(transcript, handler)

    def _line(self, command: Command) -> tuple[str, TargetRef]:
        """The command as a line, empty if its parameters cannot be parameters; and where it runs."""
        if not isinstance(command.params, dict):
            return "", OWN
        try:
            return target_of(HostCommand(command.name, command.params), self.handlers)
        except ValueError:
            return "", OWN


def _sender(command: Command) -> Principal:
    """Who sent it. The name of an unsigned message proves nothing, and says so."""
    sender = command.sender or "unknown"
    return Principal(f"backend:{sender}" if command.signature else f"unsigned:{sender}", "redis", VISITOR_PERMISSIONS)


def _once(command: Command) -> IdempotencyKey | None:
    """A message that was captured has the signature of the first one, which is accepted for five minutes."""
    if not command.signature:
        return None
    return IdempotencyKey(command.signature, hashlib.sha256(command.signature.encode()).digest())


def _words(name: str, decision: Decision) -> str:
    words = " ".join(filter(None, (decision.reason, decision.hint)))
    return f"Unknown command: {name[:64]}. {words}" if decision.rule.startswith(UNLISTED) else words


def _refused(error: str) -> tuple[bool, Any, str]:
    return False, None, error


def _result(transcript: Transcript, handler: Handler | None) -> tuple[bool, Any, str]:
    """The result in a recording: what a handler of an operator returned is JSON, everything else is text."""
    text, errors = (_shown("".join(lines)) for lines in (transcript.stdout, transcript.stderr))
    success = transcript.last("complete").get("status") == "succeeded"
    problem = str(transcript.last("error").get("message", ""))
    if success:
        return True, _parsed(text) if isinstance(handler, PythonHandler) else text, ""
    return (
        False,
        text or None,
        problem or errors or f"The command failed ({transcript.last('complete').get('status')}).",
    )


def _shown(output: str) -> str:
    """As much of an output as one message may hold."""
    if len(output) > LONGEST_ANSWER:
        return f"{output[:LONGEST_ANSWER]}\n... {len(output) - LONGEST_ANSWER} further characters are in the records of the host"
    return output.removesuffix("\n")


def _parsed(text: str) -> Any:
    """JSON, unless masking has made it something else."""
    try:
        return json.loads(text)
    except ValueError:
        return text
