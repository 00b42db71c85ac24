"""A request to the gateway, with everything that its checks need."""

from dataclasses import dataclass

from backend.core.decisions import Decision
from backend.core.execution.targets import Target
from backend.core.identity import Principal


@dataclass(frozen=True, slots=True)
class Request:
    """A command that a principal wants to run.

    `timeout` is in seconds, None for the longest that is allowed. `stdin` keeps standard input open; `detached`
    commands keep running without a viewer; `execution` is the id that it gets, `client_ref` the client's name for it.
    `unresolved` is why the requested target is not available; `target` is then the principal's own. `schedule` is the
    schedule that asks.
    """

    principal: Principal
    target: Target
    command: str
    cwd: str = "."
    timeout: float | None = None
    dry_run: bool = False
    stdin: bool = False
    detached: bool = False
    metadata_only: bool = False
    client_ref: str | None = None
    execution: str = ""
    unresolved: Decision | None = None
    schedule: str | None = None

    @property
    def hides_output(self) -> bool:
        """Whether output is neither stored nor shown."""
        return self.metadata_only or self.target.metadata_only

    @property
    def seconds(self) -> float:
        """Seconds that the command may run."""
        return self.timeout or self.target.limits.timeout


@dataclass(frozen=True, slots=True)
class Refused:
    """The request was refused and nothing ran.

    `execution` is the id under which the gateway records it; empty if it did not reach the gateway. The history does not
    contain it if it is one of a flood, or if the audit cannot be written.
    """

    decision: Decision
    execution: str = ""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The request was admitted and waits for an owner."""

    id: str
