"""What shows that a recording is as it was written."""

import hashlib
from typing import Any

from backend.core.dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RecordingDigest:
    """What a recording contained when its execution had ended: its bytes and their SHA-256 (hex).

    It is part of the audit, so that a change of the recording can be proven. Not `complete`: the last line is not among
    these bytes, because the disk refused it.
    """

    size: int
    sha256: str
    complete: bool = True

    def as_json(self) -> dict[str, Any]:
        """As an event contains it."""
        return {"bytes": self.size, "sha256": self.sha256, "complete": self.complete}

    @classmethod
    def read(cls, found: object) -> "RecordingDigest":
        """The reverse of `as_json`. Raises ValueError for anything else."""
        match found:
            case {"bytes": int(size), "sha256": str(sha256), **rest} if size >= 0:
                # Without the field it is of an earlier build, which never covered the last line.
                return cls(size, sha256, rest.get("complete") is True)
            case _:
                raise ValueError("it is not the digest of a recording")


# Of a recording that was gone before its execution had an end on record; `audit verify` reports it as missing.
NOTHING_STORED = RecordingDigest(0, hashlib.sha256().hexdigest(), complete=False)
