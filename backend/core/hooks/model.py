"""Hooks and their parameters. Times are Unix milliseconds."""

from collections.abc import Mapping

from backend.core.dataclasses import dataclass
from backend.core.execution.model import Status


@dataclass(frozen=True, slots=True)
class Choice:
    """One of these texts."""

    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number between two bounds, which are included."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True)
class Text:
    """A text that a pattern matches as a whole; see `Pattern`. The line is judged with the example when it is saved."""

    pattern: str
    max_length: int
    example: str


Parameter = Choice | Integer | Text


@dataclass(frozen=True, slots=True)
class Hook:
    """Starts `command` as its owner, with values for the parameters that it names as `{name}`. `secret` signs requests.

    `old_secret` is the one before, which signs them too until `old_until_ms`. The other fields are those of an execution;
    `timeout` is in seconds.
    """

    id: str
    owner_id: str
    name: str
    command: str
    parameters: Mapping[str, Parameter]
    target: str
    working_dir: str
    timeout: int | None
    secret: str
    created_ms: int
    old_secret: str | None = None
    old_until_ms: int = 0

    def secrets(self, now_ms: int) -> tuple[str, ...]:
        """Those that sign its calls now."""
        old = self.old_secret if now_ms < self.old_until_ms else None
        return (self.secret,) if old is None else (self.secret, old)


@dataclass(frozen=True, slots=True)
class HookCall:
    """A request to start a hook, as it arrived: the three headers of Standard Webhooks and the body."""

    id: str
    timestamp: str
    signatures: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Called:
    """The execution that a call started, now or when it arrived first."""

    execution: str
    status: Status
