"""The answers of an agent on their way out: in order, and on disk while Redis is away."""

import json
import os
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import field
from pathlib import Path
from typing import Any

from backend.core.dataclasses import dataclass
from backend.core.hosts.messages import read_object

MOST = 1000  # answers that are kept; beyond it the oldest are given up
MOST_BYTES = 32 << 20
LISTENED_FOR = 300.0  # seconds for which an answer that was kept waits for a backend that listens again

Publish = Callable[[dict[str, Any]], Awaitable[int]]  # returns how many received it; raises when Redis is away


@dataclass(slots=True)
class UndeliveredAnswer:
    """An answer that is not delivered. `until` is set when it was kept: the time at which it is given up."""

    body: dict[str, Any]
    size: int
    until: float = 0.0


@dataclass(slots=True)
class Outbox:
    """The answers that wait. `path` is the file that keeps them; `report` is called with what was given up."""

    path: Path
    clock: Callable[[], float]
    report: Callable[[str], None]
    waiting: deque[UndeliveredAnswer] = field(default_factory=deque)
    bytes: int = 0

    def load(self) -> None:
        """Read what an earlier run has kept. Raises OSError."""
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                if body := read_object(line):
                    self._append(UndeliveredAnswer(body, len(line), self.clock() + LISTENED_FOR))

    def add(self, body: dict[str, Any]) -> None:
        """Add an answer behind the others."""
        self._append(UndeliveredAnswer(body, len(json.dumps(body))))
        if self.waiting[0].until:  # Redis is away, or no backend listens yet
            self.keep()

    def _append(self, waiting: UndeliveredAnswer) -> None:
        self.waiting.append(waiting)
        self.bytes += waiting.size
        while len(self.waiting) > MOST or (self.bytes > MOST_BYTES and len(self.waiting) > 1):
            self._remove("an answer was given up: too many are waiting")

    def keep(self) -> None:
        """Write all that wait to disk: Redis is away, and this process may end before it is back. Raises nothing."""
        for each in self.waiting:
            each.until = each.until or self.clock() + LISTENED_FOR
        new = self.path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.writelines(json.dumps(each.body).encode() + b"\n" for each in self.waiting)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
        except OSError as error:
            self.report(f"answers are kept in memory only: {error.strerror}")

    async def deliver(self, publish: Publish) -> bool:
        """Deliver what waits, in order. False if no backend listens now. Raises what `publish` raises."""
        while self.waiting:
            first = self.waiting[0]
            received = await publish(first.body)
            if not received and first.until > self.clock():
                return False
            self._remove("" if received else "no backend listens: an answer was given up")
        self.path.unlink(missing_ok=True)
        return True

    def _remove(self, problem: str) -> None:
        self.bytes -= self.waiting.popleft().size
        if problem:
            self.report(problem)
