"""Audit and logs without the secrets that clients put where none belong: into a path, a header, a name."""

from collections.abc import Callable, Mapping
from typing import Any

from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.ports import AuditLog


@dataclass(frozen=True, slots=True)
class MaskedAuditLog:
    """Masks the texts of each event before `log` records it."""

    log: AuditLog
    mask: Callable[[str], str]

    async def record(self, kind: Kind, actor: str, address: str, fields: Mapping[str, Any]) -> None:
        """As `AuditLog.record`. Raises StorageError."""
        await self.log.record(kind, actor, self.mask(address), masked(fields, self.mask))


def masked_line(line: Mapping[str, Any], mask: Callable[[str], str]) -> Mapping[str, Any]:
    """A line of the logs, masked. Hardly any contains a secret, so all its texts are searched at once first."""
    together = "\n".join(map(str, line.values()))
    return line if mask(together) == together else masked(line, mask)


def masked(value: Any, mask: Callable[[str], str]) -> Any:
    """A value of JSON with its texts masked; the names of fields are our own."""
    match value:
        case str():
            return mask(value)
        case Mapping():
            return {name: masked(each, mask) for name, each in value.items()}
        case list() | tuple():
            return [masked(each, mask) for each in value]
        case _:
            return value
