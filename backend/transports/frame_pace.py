"""How fast the frames of a client are processed: a flood is slowed down, and one that goes on is cut off.

While a frame waits, nothing is read from its connection, so what the client sends stays in its own buffers.
"""

from dataclasses import dataclass, field

from backend.core.limits import Pace

RATE, BURST = 200.0, 20  # frames a second of one connection, and how many at once; no person types so fast
SHARED_RATE = 1000.0  # frames a second of all connections that send faster than that
FLOOD_BOUND = 30.0  # seconds of such haste without a break; 5,000 lines that are pasted take 25


def shared_pace() -> Pace:
    """The pace of all connections in haste: however many there are, the others are served."""
    return Pace(SHARED_RATE, 1)


@dataclass(slots=True)
class FramePace:
    """The frames of one connection. Times are in seconds."""

    shared: Pace
    own: Pace = field(default_factory=lambda: Pace(RATE, BURST))
    in_haste_since: float | None = None

    def wait(self, now: float) -> float | None:
        """The seconds until the next frame is processed; None when the connection has flooded for too long."""
        wait = self.own.wait(now)
        if not wait:
            self.in_haste_since = None
            return 0.0
        if self.in_haste_since is None:
            self.in_haste_since = now
        if now - self.in_haste_since > FLOOD_BOUND:
            return None
        wait = max(wait, self.shared.wait(now))
        self.own.hold(now + wait)
        return wait
