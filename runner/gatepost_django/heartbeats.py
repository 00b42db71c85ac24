"""Heartbeats: whether the server accepts the runner, and whether it knows the commands of the project."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from gatepost_django.client import Client, Refused, Server, Unavailable
from gatepost_django.discovery import shortened
from gatepost_django.protocol import ManagementCommand, commands_hash, read_beat
from gatepost_django.standing import Active, Away, Denied, Standing, State, Suspended

log = logging.getLogger("gatepost_django")

DENIED_PAUSES = (1, 2, 5, 10, 30, 120, 300)  # seconds between heartbeats with a key that is not accepted
AWAY_PAUSES = (1, 2, 5, 10, 30)  # seconds between heartbeats to a server that is away
TOO_MUCH = {413, 422}


@dataclass
class Heartbeats:
    """The heartbeats of a runner. `interval` is in seconds; `changed` is called when the server has answered otherwise."""

    server: Server
    standing: Standing
    versions: Mapping[str, str]
    commands: Sequence[ManagementCommand]
    interval: float
    ended: threading.Event
    changed: Callable[[], None]
    hash: str = ""
    failures: int = 0

    def __post_init__(self) -> None:
        self.hash = commands_hash(self.commands)

    def run(self) -> None:
        """Until the runner ends."""
        client = self.server.client()
        while not self.ended.is_set():
            state = self.beat(client)
            if self.standing.set(state):
                _report(state)
                self.changed()
            self.failures = 0 if isinstance(state, Active | Suspended) else self.failures + 1
            self.standing.wait_while(state, self._pause(state))

    def beat(self, client: Client) -> State:
        """One heartbeat; sends the commands if the server does not know them."""
        match client.ask("POST", "heartbeat/", {**self.versions, "commands_hash": self.hash}):
            case Refused() as refused:
                return Denied(refused.detail) if refused.is_about_the_key else Away(refused.detail)
            case Unavailable(reason):
                return Away(reason)
            case answer:
                beat = read_beat(answer)
        if not beat.in_sync:
            self.sync(client)
        return Active() if beat.suspended is None else Suspended(beat.suspended)

    def sync(self, client: Client) -> None:
        """Send the list of the commands, with less help if it is too much."""
        for listed in (self.commands, shortened(self.commands)):
            reply = client.ask("POST", "commands/sync/", {"commands": [asdict(each) for each in listed]})
            if isinstance(reply, Refused) and reply.status in TOO_MUCH:
                continue
            if isinstance(reply, Mapping):
                self.hash = str(reply.get("commands_hash") or commands_hash(listed))
                log.info("The server knows %d commands of this project.", len(listed))
                return
            break
        log.error("The server did not take the list of commands: %s", reply)

    def _pause(self, state: State) -> float:
        match state:
            case Denied():
                return DENIED_PAUSES[min(self.failures, len(DENIED_PAUSES)) - 1]
            case Away():
                return min(AWAY_PAUSES[min(self.failures, len(AWAY_PAUSES)) - 1], self.interval)
        return self.interval


def _report(state: State) -> None:
    match state:
        case Active():
            log.info("The server has accepted this runner.")
        case Suspended(reason):
            log.warning("The server has suspended this runner: %s", reason)
        case Denied(reason):
            log.error("The server does not accept the key: %s", reason)
        case Away(reason):
            log.error("%s Trying again.", reason)
