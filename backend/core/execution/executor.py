"""The seam between the gateway and what runs a line."""

from typing import Protocol

from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Job, Outcome
from backend.core.recording.writer import RecordingWriter


class Executor(Protocol):
    """Runs a job to its end. It belongs to one target."""

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        """Write all output to `output`; no process of the job is left when this returns.

        Raises RecordingError or StorageError if nothing more may run because it cannot be recorded or audited.
        """
        ...
