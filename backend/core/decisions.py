"""The decision on a command: allowed or refused, by which rule, and why."""

from enum import StrEnum
from typing import Self

from backend.core.dataclasses import dataclass


class Risk(StrEnum):
    """How much harm a command can do; no profile allows `blocked`."""

    SAFE = "safe"
    MODERATE = "moderate"
    HIGH = "high"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict that names its rule.

    `rule` is dotted and stable (`path.outside`), `reason` is a sentence for people, `hint` describes what would be
    allowed instead. `paths` are the arguments that the program uses as files, for the check on the file system;
    `retry_after` is in seconds, 0 where waiting does not help.
    """

    allowed: bool
    rule: str
    risk: Risk
    reason: str
    hint: str = ""
    paths: tuple[str, ...] = ()
    retry_after: float = 0.0

    @classmethod
    def deny(
        cls, rule: str, reason: str, hint: str = "", *, risk: Risk = Risk.BLOCKED, retry_after: float = 0.0
    ) -> Self:
        """A refusal by `rule`."""
        return cls(False, rule, risk, reason, hint, retry_after=retry_after)
