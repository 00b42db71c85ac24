"""What shows that a recording is as it was written."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RecordingDigest:
    """What a recording contained when its execution had ended, before its last line: its bytes and their SHA-256 (hex).

    It is part of the audit, so that a change of the recording can be proven.
    """

    size: int
    sha256: str

    def as_json(self) -> dict[str, Any]:
        """As an event contains it."""
        return {"bytes": self.size, "sha256": self.sha256}

    @classmethod
    def read(cls, found: object) -> "RecordingDigest":
        """The reverse of `as_json`. Raises ValueError for anything else."""
        match found:
            case {"bytes": int(size), "sha256": str(sha256)} if size >= 0:
                return cls(size, sha256)
            case _:
                raise ValueError("it is not the digest of a recording")
