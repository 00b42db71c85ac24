"""How a runner stands with its server: what it was answered last."""

import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Active:
    """The server gives it work."""


@dataclass(frozen=True)
class Suspended:
    """The server gives it no work, for a reason."""

    reason: str


@dataclass(frozen=True)
class Denied:
    """The server does not accept its key."""

    reason: str


@dataclass(frozen=True)
class Away:
    """The server cannot be reached, or was not reached yet."""

    reason: str


State = Active | Suspended | Denied | Away


class Standing:
    """The state, for all threads of a runner."""

    def __init__(self) -> None:
        self.state: State = Away("The server has not answered yet.")
        self.ended = False
        self.changed = threading.Condition()

    def set(self, state: State) -> bool:
        """Change the state; whether it was another one before."""
        with self.changed:
            before, self.state = self.state, state
            self.changed.notify_all()
        return before != state

    def end(self) -> None:
        """Let no thread wait any more."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def wait_while(self, state: State, seconds: float) -> None:
        """Wait so long, or until another thread has learned that it is another one."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or self.state != state, seconds)

    def is_active(self, seconds: float) -> bool:
        """Whether there may be work; waits so long for it."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or isinstance(self.state, Active), seconds)
            return isinstance(self.state, Active)

    def is_accepted(self, seconds: float) -> bool:
        """Whether the key is accepted, as far as is known; waits so long for it."""
        with self.changed:
            self.changed.wait_for(lambda: self.ended or not isinstance(self.state, Denied), seconds)
            return not isinstance(self.state, Denied)
