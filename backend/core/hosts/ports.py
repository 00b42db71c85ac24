"""What a server needs of the hosts: their entries, and a way to send a command and to get its answer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Protocol

from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.core.hosts.messages import Answer
from backend.core.hosts.registry import HostEntry


class HostsAway(StorageError):
    """Hosts cannot be reached: Redis is away."""


@dataclass(frozen=True, slots=True)
class LateAnswer:
    """An answer that arrived when its execution had ended."""

    host: str
    answer: Answer


@dataclass(slots=True)
class HostFigures:
    """How many commands wait until their hosts take them, how many run there, how many ends came late."""

    queued: int = 0
    running: int = 0
    late: int = 0

    @contextmanager
    def counted(self) -> Iterator[Callable[[], None]]:
        """Count a command within the context: as queued, and as running once it is called that it has begun."""
        begun = False

        def begin() -> None:
            nonlocal begun
            if not begun:
                begun = True
                self.queued, self.running = self.queued - 1, self.running + 1

        self.queued += 1
        try:
            yield begin
        finally:
            self.queued -= not begun
            self.running -= begun


class AnswerInbox(Protocol):
    """Where the answer to one command arrives."""

    async def wait(self) -> Answer:
        """The answer, however long it takes."""
        ...


class HostDirectory(Protocol):
    """The hosts that have announced themselves. Every method raises HostsAway."""

    async def entries(self) -> list[HostEntry]:
        """All of them, those that are gone as offline."""
        ...

    async def entry(self, host: str) -> HostEntry | None:
        """One of them."""
        ...


class HostChannel(Protocol):
    """The way to the agents of hosts."""

    def answer_to(self, host: str, command: str) -> AbstractAsyncContextManager[AnswerInbox]:
        """Listen for the answer to a command within the context, before it is sent. Raises HostsAway."""
        ...

    async def send(self, host: str, message: Mapping[str, Any]) -> int:
        """Send a command; returns how many agents received it. Raises HostsAway."""
        ...
