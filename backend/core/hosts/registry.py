"""The entry of a host in the registry: a hash that its agent refreshes, with the fields of both dialects."""

from collections.abc import Mapping

from backend.core.dataclasses import dataclass
from backend.core.hosts.messages import MOST_AGE

HEALTHY_FOR = 90  # seconds since the last heartbeat
RETURNS_WITHIN = 30  # seconds since the last heartbeat in which an agent that was killed may be started again
MOST_CAPABILITIES = 256
LATEST = 253_402_300_800  # Unix seconds at the end of the year 9999, behind which a time cannot be shown
LONGEST_FIELD = 256  # characters that are shown of a text


@dataclass(frozen=True, slots=True)
class HostEntry:
    """What a host says of itself. Times are Unix seconds, 0 where they are not known.

    One that is `gone` has let its entry expire: it was killed, or cannot reach Redis.
    """

    id: str
    online: bool
    last_heartbeat: float
    version: str = ""
    capabilities: tuple[str, ...] = ()
    started_at: float = 0.0
    commands_executed: int = 0
    gone: bool = False

    @classmethod
    def parse(cls, id: str, fields: Mapping[str, str]) -> "HostEntry":
        """The entry in a hash. What cannot be read is as if it were not there."""
        names = (name.strip() for name in fields.get("capabilities", "").split(",")[:MOST_CAPABILITIES])
        return cls(
            id=id,
            online=fields.get("status") == "online",
            last_heartbeat=_number(fields.get("last_heartbeat")),
            version=_text(fields.get("version")),
            capabilities=tuple(filter(None, map(_text, names))),
            started_at=_number(fields.get("started_at")),
            commands_executed=int(_number(fields.get("commands_executed"))),
        )

    def fields(self) -> dict[str, str]:
        """The hash. The names of both dialects are written."""
        return {
            "hostname": self.id,
            "agent_id": self.id,
            "status": "online" if self.online else "offline",
            "last_heartbeat": str(int(self.last_heartbeat)),
            "version": self.version,
            "capabilities": ",".join(self.capabilities),
            "started_at": str(int(self.started_at)),
            "commands_executed": str(self.commands_executed),
        }

    def is_healthy(self, now: float) -> bool:
        """Whether commands can be expected to reach it."""
        return self.online and not self.gone and self.was_seen_within(HEALTHY_FOR, now)

    def may_return(self, now: float) -> bool:
        """Whether a command can wait for it: it has not said that it ends, and may be back soon."""
        return self.is_healthy(now) or (self.online and self.was_seen_within(RETURNS_WITHIN, now))

    def was_seen_within(self, seconds: float, now: float) -> bool:
        """Whether its last heartbeat is that recent. One that is yet to come, by more than clocks may differ, proves nothing."""
        return -MOST_AGE <= now - self.last_heartbeat < seconds


def _number(text: str | None) -> float:
    try:
        number = float(text or 0)
    except ValueError:
        return 0.0
    return number if 0 <= number < LATEST else 0.0


def _text(text: str | None) -> str:
    kept = (text or "")[:LONGEST_FIELD]
    return kept if kept.isprintable() else ""
