"""The end of a recording that has none, because its server died or its disk was full: what the audit says it is."""

import re

from backend.core.recording.batches import first_seq, read_batch
from backend.core.recording.messages import Complete, Problem

MS = re.compile(rb'"ms":(\d+)')
LOST = Complete(
    status="lost",
    exit_code=None,
    signal=None,
    duration_ms=0,
    timed_out=False,
    truncated=False,
    stdout_bytes=0,
    stderr_bytes=0,
)


def end_after(execution: str, last: bytes, end: Complete) -> bytes:
    """The lines that follow on the last stored line, which may be empty, for an execution that ended so on record."""
    batch = read_batch(last)
    seq = first_seq(last) + (len(batch.lines) if batch else 1)
    found = MS.search(last)
    ms = int(found[1]) if found else 0
    if end.status == "lost":
        return lost_lines(execution, seq, ms)
    return end.model_copy(update={"execution": execution, "seq": seq, "ms": ms}).encode() + b"\n"


def lost_lines(execution: str, seq: int, ms: int = 0) -> bytes:
    """The last two lines, of which the first is numbered `seq`."""
    problem = Problem(
        execution=execution, seq=seq, ms=ms, rule="server.lost", message="The server died while the command ran."
    )
    complete = LOST.model_copy(update={"execution": execution, "seq": seq + 1, "ms": ms, "duration_ms": ms})
    return problem.encode() + b"\n" + complete.encode() + b"\n"
