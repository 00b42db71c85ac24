"""The steps of a line, where no more can be recorded between two of them."""

import os
from pathlib import Path

import pytest

from backend.core.errors import RecordingError, ShareUsedUpError
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Actor, Job, Outcome, Status, StopReason, Usage, stopped_outcome
from backend.core.execution.pipeline import Input, Pipeline
from backend.core.execution.sequence import Sequence
from backend.core.policy.admit import Plan, Scope, admit
from backend.core.recording.writer import Recorder, RecordingWriter
from backend.executors.local.workspace import FolderView
from backend.policies.loader import load_profile
from backend.storage.memory.audit_log import MemoryAuditLog
from backend.storage.memory.execution_log import MemoryExecutionLog
from backend.storage.memory.executions import MemoryExecutions
from backend.storage.recordings import FileRecordings

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
FIRST = Outcome(Status.SUCCEEDED, 0, stdout_bytes=700, stderr_bytes=7, usage=Usage(cpu_ms=40, protection="L2"))


class Alone:
    """Nothing is shared."""

    def opened(self, source: bytes | str, root: str, cwd: str) -> Input:
        raise AssertionError("nothing reads here")


class Writes(Alone):
    """Runs nothing: the first program has written and used something, later ones have to say something."""

    def __init__(self) -> None:
        self.ran = 0

    async def run(self, pipeline: Pipeline, output: RecordingWriter, instructions: Instructions) -> Outcome:
        self.ran += 1
        if self.ran > 1:
            output.say("stderr", "The workspace is full.")
        return FIRST


@pytest.mark.parametrize("line", ["mkdir sub && cd sub && ls", "mkdir sub && ls && pwd"])
@pytest.mark.parametrize(
    ("error", "reason"), [(ShareUsedUpError, StopReason.RECORDINGS_FULL), (RecordingError, StopReason.UNRECORDED)]
)
async def test_the_totals_of_the_steps_before_are_not_lost(
    tmp_path: Path, line: str, error: type[RecordingError], reason: StopReason
) -> None:
    root = tmp_path / "workspace"
    root.mkdir()
    target = Scope(load_profile("agent"), FolderView(root), False)
    plan = admit(line, target, ".")
    assert isinstance(plan, Plan)
    log = FileRecordings(tmp_path / "recordings").create(ID)
    recorder = Recorder(ID, log, lambda: 0.0, count=lambda _: error is RecordingError)
    os.dup2(os.open("/dev/full", os.O_WRONLY), log._fd)
    runner, instructions = Writes(), Instructions(stdin=False)
    steps = MemoryExecutionLog(MemoryExecutions(), MemoryAuditLog(lambda: "", lambda: ID), lambda: 1, "owner", "folder")
    job = Job(ID, "local", Actor("user:ann", ""), line, plan, 10, 10_000)
    outcome = await Sequence(target, runner, steps, str, lambda: 0.0).run(job, recorder, instructions)
    assert (outcome.status, outcome.exit_code) == (Status.FAILED, 125)
    assert (outcome.stdout_bytes, outcome.stderr_bytes, outcome.usage) == (700, 7, FIRST.usage)
    assert instructions.reason is reason


class Stopped(Alone):
    """Runs nothing: every program is stopped when the time of the line is over."""

    async def run(self, pipeline: Pipeline, output: RecordingWriter, instructions: Instructions) -> Outcome:
        instructions.stop(StopReason.TIMED_OUT)
        return stopped_outcome(StopReason.TIMED_OUT, "SIGKILL", 124, 0, 0, Usage())


@pytest.mark.parametrize(
    "line",
    [
        "while sleep 5; do pwd; done",
        "until sleep 5; do pwd; done",
        "if sleep 5; then pwd; fi",
        "if ! sleep 5; then pwd; fi",
        "if (sleep 5); then pwd; else pwd; fi",
        "{ while sleep 5; do pwd; done; } > out.txt",
        "for i in 1 2; do while sleep 5; do pwd; done; done",
    ],
)
async def test_a_line_that_is_stopped_in_a_condition_has_not_succeeded(tmp_path: Path, line: str) -> None:
    root = tmp_path / "workspace"
    root.mkdir()
    target = Scope(load_profile("agent"), FolderView(root), False)
    plan = admit(line, target, ".")
    assert isinstance(plan, Plan)
    log = FileRecordings(tmp_path / "recordings").create(ID)
    steps = MemoryExecutionLog(MemoryExecutions(), MemoryAuditLog(lambda: "", lambda: ID), lambda: 1, "owner", "folder")
    job = Job(ID, "local", Actor("user:ann", ""), line, plan, 10, 10_000)
    sequence = Sequence(target, Stopped(), steps, str, lambda: 0.0)
    outcome = await sequence.run(job, Recorder(ID, log, lambda: 0.0), Instructions(stdin=False))
    assert (outcome.status, outcome.exit_code) == (Status.TIMED_OUT, 124)
