"""How fast the frames of a client are processed: a flood is slowed down, and one that goes on is cut off.

While a frame waits, nothing is read from its connection, so what the client sends stays in its own buffers.
"""

from backend.core.dataclasses import dataclass
from backend.core.limits import Pace

RATE, BURST = 200.0, 5  # frames a second of one connection, and how many at once; no person types so fast
SHARED_RATE = 300.0  # frames a second of all connections that send faster than they are served
LONGEST_WAIT = 30.0  # seconds that a connection waits without a rest; 5,000 lines that are pasted take 25


def shared_pace() -> Pace:
    """The pace of all connections in haste: however many there are, the others are served."""
    return Pace(SHARED_RATE, 1)


@dataclass(slots=True)
class FramePace:
    """The frames of one connection. Only time in which it sends nothing gives it credit: else a slow server would."""

    shared: Pace
    credit: float = BURST
    waited: float = 0.0

    def wait(self, now: float, idle: float) -> float | None:
        """The seconds until a frame is processed that came after `idle` seconds; None when it is one too many."""
        self.credit = min(BURST, self.credit + idle * RATE)
        self.waited = max(0.0, self.waited - idle)
        if self.credit >= 1:
            self.credit -= 1
            return 0.0
        wait = max(1 / RATE, self.shared.wait(now))
        self.waited += wait
        return wait if self.waited < LONGEST_WAIT else None
