"""Compares recordings with what the audit says about them."""

import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from backend.core.audit.chain import Link
from backend.core.audit.events import Kind
from backend.core.errors import reason_of
from backend.core.execution.model import Status
from backend.core.recording.digest import RecordingDigest
from backend.storage.recordings import NAME, digest

LONGEST_END = 64 * 1024  # bytes of a last line, which contains only figures
ENDS = frozenset({Kind.FINISHED, Kind.LOST})


@dataclass(slots=True)
class Comparison:
    """Compares the recordings in `folder`, event by event of a chain that was verified.

    `good` counts those that are unchanged since their end, `gone` those that were deleted; `changed` describes the
    others, each with the number of the event that shows it.
    """

    folder: Path
    good: int = 0
    gone: int = 0
    changed: list[str] = field(default_factory=list)
    seen: int = 0  # the number of the last event, since a chain that is pruned meanwhile is read again

    def take(self, links: Iterable[Link]) -> None:
        """Compare the recordings that these events describe."""
        for link in links:
            if link.seq <= self.seen:
                continue
            self.seen, content = link.seq, link.content
            if content.get("kind") in ENDS and content.get("recording") is not None:
                self._look(link.seq, content)

    def _look(self, seq: int, content: Mapping[str, Any]) -> None:
        execution = content.get("execution")
        if not (isinstance(execution, str) and NAME.fullmatch(execution)):
            self.changed.append(f"event {seq} names no execution")
            return
        try:
            seal = RecordingDigest.read(content["recording"])
            trouble = _difference(self.folder / f"{execution}.ndjson", seal, content.get("status"))
        except FileNotFoundError:
            self.gone += 1
            return
        except (OSError, ValueError) as error:
            trouble = f"cannot be compared: {reason_of(error)}"
        if trouble:
            self.changed.append(f"the recording of {execution}, which event {seq} describes, {trouble}")
        else:
            self.good += 1


def _difference(path: Path, seal: RecordingDigest, status: object) -> str:
    """What is wrong with a recording; empty when nothing is."""
    with open(path, "rb", opener=_open) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            return "is not a file"
        if found.st_size < seal.size:
            return "is shorter than it was"
        if digest(file.fileno(), seal.size) != seal.sha256:
            return "was changed"
        file.seek(seal.size)
        return "" if _is_end(file, status) else "continues after its end, or ends differently"


def _open(path: str, flags: int) -> int:
    """Open a file without following a link or waiting for a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_end(file: BinaryIO, status: object) -> bool:
    """Whether nothing follows, as after a crash, or only the line that reports the same end as the audit."""
    rest = file.read(LONGEST_END + 1)
    if not rest:
        return True
    if len(rest) > LONGEST_END or rest.count(b"\n") != 1 or not rest.endswith(b"\n"):
        return False
    try:
        message = json.loads(rest)
    except (ValueError, RecursionError):
        return False
    # An end that the disk refused was written as lost at the next startup.
    told = (status, Status.LOST)
    return isinstance(message, dict) and message.get("type") == "complete" and message.get("status") in told
