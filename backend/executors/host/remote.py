"""The executor of a host: the line becomes a message for its agent, and the answer becomes the recording.

Agents of earlier products know neither a stop nor output before the end: their answer is recorded as one, and a command
that is stopped here may still run there.
"""

import asyncio
from collections.abc import Callable
from dataclasses import field
from typing import Any

from backend.core.dataclasses import dataclass
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    Delivery,
    Job,
    Outcome,
    SignalName,
    Status,
    StopReason,
    stopped_outcome,
)
from backend.core.hosts.commands import HostCommand
from backend.core.hosts.messages import Answer, output_text, sign
from backend.core.hosts.ports import AnswerInbox, HostChannel, HostFigures, HostsAway
from backend.core.recording.lines import LineAssembler
from backend.core.recording.received import ReceivedOutput
from backend.core.recording.writer import RecordingWriter

MAY_STILL_RUN = "The host may still run the command: its agent cannot be asked to stop."


@dataclass(frozen=True, slots=True)
class HostSecret:
    """The secret of a host, and how sensitive parameters are encrypted with it, which leaves encrypted ones alone."""

    text: str
    seal: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class HostExecutor:
    """Runs lines on one host. `lines` makes what cuts output into lines; `now` is in Unix seconds."""

    host: str
    channel: HostChannel
    secret: HostSecret | None
    lines: Callable[[], LineAssembler]
    now: Callable[[], float]
    figures: HostFigures = field(default_factory=HostFigures)

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Send the command and wait for its answer."""
        try:
            command = HostCommand.of(job.plan.argvs[0])
        except ValueError as error:
            return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=f"{error}.", rule="host.parameters")
        instructions.stdin.limit = 0  # its agent knows no input
        try:
            async with self.channel.answer_to(self.host, job.execution) as inbox:
                with self.figures.counted() as begun:
                    if not await self.channel.send(self.host, self._message(job, command)):
                        return _unheard(self.host)
                    begun()
                    answer = await _Waiting(inbox, job, instructions).answer()
        except HostsAway as error:
            return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=str(error), rule="host.away")
        if answer is None:
            size = output.say("stderr", MAY_STILL_RUN)
            reason = instructions.reason or StopReason.TIMED_OUT
            return stopped_outcome(reason, None, EXIT_GATEPOST_FAILED, 0, size)
        return _Recorded(job, output, instructions).outcome(answer, self.lines)

    def _message(self, job: Job, command: HostCommand) -> dict[str, Any]:
        message = {"command_id": job.execution, "command": command.name, "params": dict(command.params)}
        if self.secret is None:
            return message
        params = dict(command.sealed(self.secret.seal).params)
        signed = {**message, "params": params, "sender": job.actor.name, "host": self.host}
        return sign(signed, self.secret.text, int(self.now()))


def _unheard(host: str) -> Outcome:
    problem = f"No agent of the host {host} is listening. Start it there: `agent`, or look into its log."
    return Outcome(Status.FAILED, EXIT_GATEPOST_FAILED, problem=problem, rule="host.offline")


class _Waiting:
    """A command that waits for its answer, its timeout, or an instruction to stop."""

    def __init__(self, inbox: AnswerInbox, job: Job, instructions: Instructions) -> None:
        self.job, self.instructions = job, instructions
        self.task = asyncio.ensure_future(inbox.wait())

    async def answer(self) -> Answer | None:
        """The answer; None if the command was stopped first."""
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(self.job.timeout, self.instructions.stop, StopReason.TIMED_OUT)
        try:
            with self.instructions.received_by(self):
                await asyncio.wait({self.task})
        finally:
            deadline.cancel()
            self.task.cancel()
        return None if self.task.cancelled() else self.task.result()

    def stop(self) -> None:
        """Wait no longer."""
        self.task.cancel()

    async def signal(self, name: SignalName) -> Delivery:
        """The agent cannot pass it on."""
        return Delivery.NOT_RUNNING


@dataclass(slots=True)
class _Recorded:
    """Records an answer, as much of it as the output limit permits."""

    job: Job
    output: RecordingWriter
    instructions: Instructions

    def outcome(self, answer: Answer, lines: Callable[[], LineAssembler]) -> Outcome:
        received = ReceivedOutput(self.output, self.job.output_limit, lines)
        self._say(received, "stdout", output_text(answer.output))
        self._say(received, "stderr", answer.error)
        received.flush()
        stdout, stderr = received.stdout, received.stderr
        if self.instructions.reason is StopReason.OUTPUT_LIMIT:
            return stopped_outcome(StopReason.OUTPUT_LIMIT, None, EXIT_GATEPOST_FAILED, stdout, stderr)
        status = Status.SUCCEEDED if answer.success else Status.FAILED
        return Outcome(status, 0 if answer.success else 1, stdout_bytes=stdout, stderr_bytes=stderr)

    def _say(self, received: ReceivedOutput, stream: str, text: str) -> None:
        ended = text if text.endswith("\n") or not text else f"{text}\n"
        if not received.add(stream, ended.encode("utf-8", "replace")):
            self.instructions.stop(StopReason.OUTPUT_LIMIT)
