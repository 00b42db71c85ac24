"""The steps of a line, where no more can be recorded between two of them."""

import os
from pathlib import Path

import pytest

from backend.core.errors import RecordingError, ShareUsedUpError
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Actor, Job, Outcome, Status, StopReason, Usage
from backend.core.execution.sequence import Pipeline, Sequence
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


class Writes:
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
