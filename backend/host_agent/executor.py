"""Runs an admitted command of a host by its handler: Python code here, programs in the cage."""

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, assert_never

from backend.core.dataclasses import dataclass
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    EXIT_GATEPOST_FAILED,
    EXIT_NOT_FOUND,
    Delivery,
    Job,
    Outcome,
    SignalName,
    Status,
    StopReason,
    stopped_outcome,
)
from backend.core.execution.pipeline import Pipeline, PipelineRunner
from backend.core.hosts.commands import SENSITIVE, HostCommand
from backend.core.language.parser import Invocation
from backend.core.recording.writer import RecordingWriter
from backend.host_agent.handlers import (
    Handler,
    HandlerError,
    LineHandler,
    Program,
    ProgramHandler,
    PythonHandler,
    QuickHandler,
)

LONGEST_RESULT = 1 << 20  # bytes, as it is recorded; it is one message
LONGEST_PROBLEM = 4096  # characters, which a server reads of it
Decrypt = Callable[[str], str]  # raises ValueError


@dataclass(frozen=True, slots=True)
class HandlerExecutor:
    """The executor of a host's own commands. `decrypt` opens sensitive parameters, where they are encrypted."""

    handlers: Mapping[str, Handler]
    pipelines: PipelineRunner
    decrypt: Decrypt | None

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Run one command. A handler that refuses its parameters has run nothing."""
        try:
            command = HostCommand.of(job.plan.argvs[0])
            handler = self.handlers.get(command.name)
            match handler:
                case None:
                    return _failed(f"Unknown command: {command.name}", "host.command", EXIT_NOT_FOUND)
                case ProgramHandler(plan=plan):
                    return await self._in_cage(plan(self._opened(command)), job, output, instructions)
                case LineHandler():
                    return _failed("The line is missing.", "host.parameters", 1)  # others are never sent here
                case QuickHandler():
                    return _answered(handler, self._opened(command), job, output, instructions)
                case PythonHandler():
                    return await _Call(handler, self._opened(command), job, output, instructions).run()
                case _:
                    assert_never(handler)
        except (HandlerError, ValueError) as error:
            return _failed(str(error), "host.parameters", 1)

    def _opened(self, command: HostCommand) -> Mapping[str, Any]:
        """The parameters, the sensitive ones decrypted."""
        if self.decrypt is None:
            return command.params
        opened = dict(command.params)
        for name in SENSITIVE & opened.keys():
            try:
                opened[name] = self.decrypt(opened[name])
            except (ValueError, TypeError):
                raise HandlerError(f"The parameter {name} is not encrypted with the secret of this host.") from None
        return opened

    async def _in_cage(
        self, program: Program, job: Job, output: RecordingWriter, instructions: Instructions
    ) -> Outcome:
        pipeline = Pipeline(
            execution=job.execution,
            invocations=(Invocation(program.argv),),
            root=program.folder,
            cwd=program.folder,
            timeout=job.timeout,
            output_limit=job.output_limit,
            network=program.network,
        )
        return await self.pipelines.run(pipeline, output, instructions)


def _failed(problem: str, rule: str, code: int) -> Outcome:
    return Outcome(Status.FAILED, code, problem=problem[:LONGEST_PROBLEM], rule=rule)


def _answered(
    handler: QuickHandler, params: Mapping[str, Any], job: Job, output: RecordingWriter, instructions: Instructions
) -> Outcome:
    """The outcome of a handler that nothing can stop once it has begun."""
    if instructions.reason:
        return stopped_outcome(instructions.reason, None, EXIT_GATEPOST_FAILED, 0, 0)
    try:
        result = handler.answer(params)
    except HandlerError as error:
        return _failed(str(error), "host.refused", 1)
    return _said(result, job, output)


def _said(result: Any, job: Job, output: RecordingWriter) -> Outcome:
    """Record what a handler returned: a text as it is, everything else as JSON."""
    try:
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        return _failed(f"The handler returned what is no JSON: {error}", "host.failed", 1)
    size = len(json.dumps(text, ensure_ascii=False).encode("utf-8", "replace"))
    if size > (most := min(job.output_limit, LONGEST_RESULT)):
        problem = f"What the handler returned takes {size} bytes as JSON; at most {most} are allowed."
        return _failed(problem, "host.output", 1)
    return Outcome(Status.SUCCEEDED, 0, stdout_bytes=output.say("stdout", text))


class _Call:
    """One call of a Python handler, which is cancelled when the execution is to stop."""

    def __init__(
        self,
        handler: PythonHandler,
        params: Mapping[str, Any],
        job: Job,
        output: RecordingWriter,
        instructions: Instructions,
    ) -> None:
        self.handler, self.job, self.output, self.instructions = handler, job, output, instructions
        self.task = asyncio.ensure_future(handler.run(params))

    async def run(self) -> Outcome:
        deadline = asyncio.get_running_loop().call_later(self.job.timeout, self.instructions.stop, StopReason.TIMED_OUT)
        try:
            with self.instructions.received_by(self):
                await asyncio.wait({self.task})
        finally:
            deadline.cancel()
            self.task.cancel()
        return self._outcome()

    def _outcome(self) -> Outcome:
        if self.task.cancelled() or self.instructions.reason:
            reason = self.instructions.reason or StopReason.CANCELLED
            return stopped_outcome(reason, None, EXIT_GATEPOST_FAILED, 0, 0)
        match self.task.exception():
            case None:
                return _said(self.task.result(), self.job, self.output)
            case HandlerError() as error:
                return _failed(str(error), "host.refused", 1)
            case error:  # code of an operator: its bug is an error of the command, not of the agent
                return _failed(f"The handler failed: {type(error).__name__}: {error}", "host.failed", 1)

    def stop(self) -> None:
        """Cancel the handler."""
        self.task.cancel()

    async def signal(self, name: SignalName) -> Delivery:
        """No process receives it."""
        return Delivery.NOT_RUNNING
