"""The end of a recording whose server died: what its viewers get in place of the one that was not written."""

import re

from backend.core.recording.batches import first_seq, read_batch
from backend.core.recording.messages import Complete, Problem

MS = re.compile(rb'"ms":(\d+)')


def lost_after(execution: str, last: bytes) -> bytes:
    """The lines that follow on the last stored line, which may be empty."""
    batch = read_batch(last)
    seq = first_seq(last) + (len(batch.lines) if batch else 1)
    found = MS.search(last)
    return lost_lines(execution, seq, int(found[1]) if found else 0)


def lost_lines(execution: str, seq: int, ms: int = 0) -> bytes:
    """The last two lines, of which the first is numbered `seq`."""
    problem = Problem(
        execution=execution, seq=seq, ms=ms, rule="server.lost", message="The server died while the command ran."
    )
    complete = Complete(
        execution=execution,
        seq=seq + 1,
        ms=ms,
        status="lost",
        exit_code=None,
        signal=None,
        duration_ms=ms,
        timed_out=False,
        truncated=False,
        stdout_bytes=0,
        stderr_bytes=0,
    )
    return problem.encode() + b"\n" + complete.encode() + b"\n"
