"""Compares recordings with what the audit says about them."""

import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import field
from pathlib import Path
from typing import Any

from backend.core.audit.chain import ChainedEvent
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.errors import reason_of
from backend.core.recording.digest import RecordingDigest
from backend.storage.recordings import NAME, digest

LONGEST_END = 64 * 1024  # bytes of a last line, which contains only figures
DIFFERENT = "continues after its end, or ends differently"
ENDS = frozenset({Kind.FINISHED, Kind.LOST})
SAME = ("status", "exit_code", "duration_ms")  # what an event and a last line both say


@dataclass(slots=True)
class Comparison:
    """Compares the recordings in `folder`, event by event of a chain that was verified.

    With `owner`, the id of a data folder, those of others may be `elsewhere`. `good` counts those that are unchanged since
    their end, `gone` those that the service deleted, as an event says; `changed` describes the others, each with the
    number of the event that shows it. `missing` are those that no event (yet) says were deleted, with that number.
    """

    folder: Path
    owner: str = ""
    good: int = 0
    gone: int = 0
    changed: list[str] = field(default_factory=list)
    missing: dict[str, int] = field(default_factory=dict)
    elsewhere: set[str] = field(default_factory=set)
    seen: int = 0  # the number of the last event, since a chain that is pruned meanwhile is read again

    @property
    def findings(self) -> list[str]:
        """What was changed, and what was deleted by other means than the service's."""
        gone = (f"the recording of {id}, which event {seq} describes, is missing" for id, seq in self.missing.items())
        return [*self.changed, *gone]

    def take(self, links: Iterable[ChainedEvent]) -> None:
        """Compare the recordings that these events describe."""
        for link in links:
            if link.seq <= self.seen:
                continue
            self.seen, content = link.seq, link.content
            if content.get("kind") in ENDS and content.get("recording") is not None:
                self._look(link.seq, content)
            elif content.get("kind") == Kind.PRUNED:
                self._forget(content.get("recordings"))

    def _forget(self, deleted: object) -> None:
        for execution in deleted if isinstance(deleted, list) else ():
            if isinstance(execution, str):
                self.elsewhere.discard(execution)
                self.gone += bool(self.missing.pop(execution, 0))

    def _look(self, seq: int, content: Mapping[str, Any]) -> None:
        execution = content.get("execution")
        if not (isinstance(execution, str) and NAME.fullmatch(execution)):
            self.changed.append(f"event {seq} names no execution")
            return
        try:
            seal = RecordingDigest.read(content["recording"])
            trouble = _difference(self.folder / f"{execution}.ndjson", seal, content)
        except FileNotFoundError:
            self._miss(execution, seq, content["recording"])
            return
        except (OSError, ValueError) as error:
            trouble = f"cannot be compared: {reason_of(error)}"
        if trouble:
            self.changed.append(f"the recording of {execution}, which event {seq} describes, {trouble}")
        else:
            self.good += 1

    def _miss(self, execution: str, seq: int, recording: Mapping[str, Any]) -> None:
        folder = recording.get("folder")
        if folder is None:
            self.gone += 1  # earlier builds deleted without an event
        elif self.owner and folder != self.owner:
            self.elsewhere.add(execution)
        else:
            self.missing[execution] = seq


def _difference(path: Path, seal: RecordingDigest, content: Mapping[str, Any]) -> str:
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
        rest = file.read(LONGEST_END + 1)
        return "" if not rest or (not seal.complete and _is_end(rest, content)) else DIFFERENT


def _open(path: str, flags: int) -> int:
    """Open a file without following a link or waiting for a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_end(rest: bytes, content: Mapping[str, Any]) -> bool:
    """Whether these bytes are only the line that reports the same end as the audit."""
    if len(rest) > LONGEST_END or rest.count(b"\n") != 1 or not rest.endswith(b"\n"):
        return False
    try:
        message = json.loads(rest)
    except (ValueError, RecursionError):
        return False
    if not isinstance(message, dict) or message.get("type") != "complete":
        return False
    return all(message.get(name) == content.get(name) for name in SAME)
