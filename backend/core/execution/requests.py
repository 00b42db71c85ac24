"""A request to the gateway, with everything that its checks need."""

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.sessions import NOTHING_KEPT, Kept, Session
from backend.core.execution.targets import Target
from backend.core.identity import Principal


@dataclass(frozen=True, slots=True)
class Request:
    """A command that a principal wants to run.

    `timeout` is in seconds, None for the usual one; for a `resumed` command, for one that only its host knows. `stdin` keeps
    standard input open; `detached` commands keep running without a viewer; `execution` is the id that it gets, `client_ref` the client's name for it.
    `input` is all that its standard input will hold. With a `session` it begins where the line before it ended; one that
    `is_placed` runs in a folder of its own and leaves the session where it is. `unresolved` is why the requested target is not available; `target` is then the principal's own.
    `schedule` is the schedule that asks. One that is `resumed` went on when its server died, and is only followed.
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
    input: bytes = b""
    session: Session | None = None
    is_placed: bool = False
    schedule: str | None = None
    resumed: bool = False

    @property
    def hides_output(self) -> bool:
        """Whether output is neither stored nor shown."""
        return self.metadata_only or self.target.metadata_only

    @property
    def kept(self) -> Kept:
        """Where its session is."""
        return self.session.at(self.principal.name, str(self.target.ref)) if self.session else NOTHING_KEPT

    def keep(self, kept: Kept) -> None:
        """Where the next line of its session begins."""
        if self.session:
            self.session.keep(self.principal.name, str(self.target.ref), kept)

    @property
    def seconds(self) -> float:
        """Seconds that the command may run."""
        return self.timeout or (self.target.limits.longest if self.resumed else self.target.limits.timeout)


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
