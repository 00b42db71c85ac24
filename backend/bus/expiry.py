"""When streams of Redis expire to which nothing is added any more."""

from collections.abc import Callable
from dataclasses import field

from backend.bus.link import Command
from backend.core.dataclasses import dataclass

STREAM_TTL = 86400  # seconds after which a stream that nothing is added to expires
RENEWED_AFTER = STREAM_TTL / 24


@dataclass(slots=True)
class StreamExpiry:
    """Renews the time of streams now and then, not with each message."""

    now: Callable[[], float]
    due: dict[str, float] = field(default_factory=dict)

    def renewal(self, stream: str) -> tuple[Command, ...]:
        """What is to be sent with a message of a stream."""
        if self.now() < self.due.get(stream, 0):
            return ()
        self.due[stream] = self.now() + RENEWED_AFTER
        return (("EXPIRE", stream, STREAM_TTL),)
