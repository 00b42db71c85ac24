"""Asks the server for work while there is a free slot."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from gatepost_django.client import Client, Refused, Server, Unavailable
from gatepost_django.protocol import Offer, read_offers
from gatepost_django.standing import Denied, Standing

log = logging.getLogger("gatepost_django")

AT_ONCE = 4  # commands that run at once
WAIT = 20.0  # seconds that a server may take to answer when nothing waits
EVERY = 2.0  # seconds between two questions to a server that answers at once
SOON = 0.05  # seconds until the next question after others got what was offered, doubled each time
PASSED = 5.0  # seconds in which an execution that another runner got is not claimed again


class Claims(Protocol):
    """Who begins an execution."""

    def begin(self, offer: Offer, done: Callable[[bool], None]) -> bool:
        """Claim and run it, unless that is done already; `done` is called with whether it was claimed, when it has ended."""
        ...


@dataclass
class Polling:
    """The questions of a runner for work. `clock` is monotonic."""

    server: Server
    standing: Standing
    executions: Claims
    stopping: threading.Event
    clock: Callable[[], float] = time.monotonic
    slots: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(AT_ONCE))
    passed: dict[str, float] = field(default_factory=dict)
    waits: bool = True
    pause: float = SOON

    def run(self) -> None:
        """Until the runner stops."""
        client = self.server.client()
        while not self.stopping.is_set():
            if self.standing.is_active(1.0) and self.slots.acquire(timeout=1.0):
                self.slots.release()
                self.poll(client)

    def poll(self, client: Client) -> None:
        """One question, and a pause if it brought nothing."""
        asked = self.clock()
        path, wait = (f"pending/?wait={WAIT:g}", WAIT) if self.waits else ("pending/", 0.0)
        match client.ask("GET", path, wait=wait):
            case Refused() as refused if refused.is_about_the_key:
                self.standing.set(Denied(refused.detail))
            case Refused() as refused:
                log.warning("The server does not say what waits: %s", refused.detail)
                self.waits = False
                self.stopping.wait(EVERY)
            case Unavailable(reason):
                log.warning("%s", reason)
                self.stopping.wait(EVERY)
            case answer:
                self._answered(read_offers(answer), self.clock() - asked)

    def _answered(self, offers: list[Offer], seconds: float) -> None:
        begun = [self._begin(each) for each in offers]
        if not offers:
            self.pause = SOON
            self.stopping.wait(max(EVERY - seconds, 0.0))  # a server that knows `wait` has taken longer
        elif not any(begun):
            self.stopping.wait(self.pause)
            self.pause = min(self.pause * 2, EVERY)

    def _begin(self, offer: Offer) -> bool:
        now = self.clock()
        self.passed = {id: until for id, until in self.passed.items() if until > now}
        if offer.id in self.passed or not self.slots.acquire(blocking=False):
            return False

        def done(claimed: bool) -> None:
            if claimed:
                self.pause = SOON
            else:
                self.passed[offer.id] = self.clock() + PASSED
            self.slots.release()

        if not self.executions.begin(offer, done):
            self.slots.release()
            return False
        return True
