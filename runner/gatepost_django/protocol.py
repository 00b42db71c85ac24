"""What a runner and a server say to each other: values of the one and JSON of the other. Pure."""

import hashlib
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Offer:
    """An execution that waits for a runner. `timeout` is in seconds; None is no limit."""

    id: str
    command: str
    arguments: str
    timeout: float | None
    metadata_only: bool


@dataclass(frozen=True)
class Beat:
    """What a server answers to a heartbeat. `suspended` is the reason, None for a runner that may work."""

    suspended: str | None
    in_sync: bool


@dataclass(frozen=True)
class End:
    """How a command ended. A negative `exit_code` is a signal; -1 is also a command that was rejected or timed out."""

    exit_code: int
    status: str  # success, failed, cancelled, timed_out


@dataclass(frozen=True)
class ManagementCommand:
    """A command that the project has; `help_text` is what `--help` prints."""

    name: str
    app_label: str
    help_text: str


def read_offers(answer: Mapping[str, Any]) -> list[Offer]:
    """The executions of an answer; what cannot be read is left out, since there is nothing to claim."""
    listed = answer.get("executions")
    return [offer for each in (listed if isinstance(listed, list) else []) if (offer := _offer(each))]


def _offer(each: object) -> Offer | None:
    match each:
        case {"id": str(id), "command": str(command), **rest}:
            pass
        case _:
            return None
    try:
        id = str(uuid.UUID(id))  # it becomes the name of a file
    except ValueError:
        return None
    timeout = rest.get("timeout")
    seconds = float(timeout) if isinstance(timeout, (int, float)) and timeout > 0 else None
    return Offer(id, command, str(rest.get("args") or ""), seconds, rest.get("use_metadata_only_mode") is True)


def read_beat(answer: Mapping[str, Any]) -> Beat:
    """The answer to a heartbeat."""
    suspended = answer.get("runner_state") == "suspended"
    reason = str(answer.get("suspension_reason") or "no reason given")
    return Beat(reason if suspended else None, answer.get("commands_in_sync") is not False)


def commands_hash(commands: Sequence[ManagementCommand]) -> str:
    """How both ends name a list of commands."""
    listed = [asdict(each) for each in sorted(commands, key=lambda each: each.name)]
    text = json.dumps(listed, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
