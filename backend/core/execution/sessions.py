"""Sessions: what lasts from one line of a client to its next: the folder, the exported variables, what it has started."""

from collections.abc import Callable
from dataclasses import field

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.policy.line_state import BEGINNING, LineState

IDLE = 3600.0  # seconds without a line after which a session ends
MOST = 16  # sessions of an account at a time
NAME_PATTERN = "^[A-Za-z0-9._-]{1,64}$"


@dataclass(frozen=True, slots=True)
class Kept:
    """Where the next line begins: its folder, relative to the workspace, and what else is kept of the state."""

    folder: str = "."
    state: LineState = BEGINNING


NOTHING_KEPT = Kept()


@dataclass(slots=True)
class Session:
    """What is kept for each principal and target. Of lines that run at once, the last to end is kept."""

    kept: dict[tuple[str, str], Kept] = field(default_factory=dict)
    used: float = 0.0

    def at(self, principal: str, target: str) -> Kept:
        """Where the next line of this principal begins on this target."""
        return self.kept.get((principal, target), NOTHING_KEPT)

    def keep(self, principal: str, target: str, kept: Kept) -> None:
        """Where a line has ended."""
        self.kept[principal, target] = kept


@dataclass(slots=True)
class Sessions:
    """The sessions that clients name, in the memory of this server. `clock` is in seconds."""

    clock: Callable[[], float]
    known: dict[str, dict[str, Session]] = field(default_factory=dict)

    def named(self, principal: str, name: str) -> Session | Decision:
        """The session of a principal with this name; a new one unless there are too many."""
        now = self.clock()
        own = {key: each for key, each in self.known.get(principal, {}).items() if each.used > now - IDLE}
        self.known[principal] = own
        if name not in own and len(own) >= MOST:
            return _too_many()
        session = own.setdefault(name, Session())
        session.used = now
        return session


def _too_many() -> Decision:
    reason = f"You have {MOST} sessions already."
    hint = f"Use one of them; a session ends when it is not used for {IDLE / 60:.0f} minutes."
    return Decision.deny("limits.sessions", reason, hint, retry_after=60)
