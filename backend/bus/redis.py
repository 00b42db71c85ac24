"""The bus of several servers, through Redis."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from backend.bus.answers import Answers
from backend.bus.link import Link, connection_arguments
from backend.bus.messages import Answer, Beat, Block, End, Message, Result
from backend.bus.progress import CopyProgress, FollowProgress
from backend.bus.requests import Requests
from backend.core.dataclasses import dataclass
from backend.core.execution.bus import LocalExecutions, Relay
from backend.core.execution.model import Delivery, Instruction
from backend.core.recording.reader import Send


@dataclass(frozen=True, slots=True)
class Joined:
    """What exists while a server has joined."""

    link: Link
    answers: Answers
    requests: Requests

    def receive(self, message: Message) -> None:
        """Pass a message on to its receiver."""
        match message:
            case Answer() | Block() | Beat() | End():
                self.requests.receive(message)
            case _:
                self.answers.receive(message)


class RedisBus:
    """Reaches servers through the Redis at `url`. One server joins it; before and after, no server can be reached.

    `report` is called with a sentence when Redis becomes unavailable, and with another one when it is back. Raises
    ValueError for a malformed URL.
    """

    def __init__(self, url: str, report: Callable[[str], None]) -> None:
        self._arguments = connection_arguments(url)
        self._report = report
        self._joined: Joined | None = None

    @asynccontextmanager
    async def joined(self, owner: str, folder: str, local: LocalExecutions) -> AsyncIterator[None]:
        """Answer for this server within the context, and close all connections afterwards."""
        link = Link(self._arguments, (owner, folder), self._report)
        joined = self._joined = Joined(link, Answers(link, local), Requests(link))
        reading = asyncio.get_running_loop().create_task(link.read(joined.receive, joined.requests.interrupted))
        reading.add_done_callback(lambda _: link.tried.set())  # if it ends early
        try:
            await link.tried.wait()
            yield
        finally:
            self._joined = None
            await _leave(joined, reading)

    async def instruct(self, owner: str, execution: str, instruction: Instruction) -> Delivery:
        """Deliver an instruction, at most once, to an execution of the server `owner`."""
        if not self._joined:
            return Delivery.UNREACHABLE
        return await self._joined.requests.instruct(owner, execution, instruction)

    async def follow(self, address: str, execution: str, after_seq: int, send: Send) -> Relay:
        """Send what is recorded by a server or in a folder after `after_seq`, live, until the end.

        Continues with another server of the folder when one leaves, and after an outage of Redis. Raises OSError if
        the recording cannot be read.
        """
        end = await self._relay(address, FollowProgress(execution, send, after_seq))
        return end if isinstance(end, Relay) else Relay.ENDED

    async def copy(self, folder: str, execution: str, send: Send, begin: int, end: int | None) -> int | Relay:
        """Send what is stored in the folder now between two offsets; returns the offset after what was sent."""
        found = await self._relay(folder, CopyProgress(execution, send, begin, end))
        return found if isinstance(found, Relay) else found.place

    async def check(self) -> bool:
        """Whether Redis answers."""
        return self._joined is not None and await self._joined.link.check()

    async def _relay(self, address: str, progress: FollowProgress | CopyProgress) -> End | Relay:
        end = await self._joined.requests.relay(address, progress) if self._joined else None
        match end:
            case None:
                return Relay.UNREACHABLE
            case End(result=Result.UNKNOWN):
                return Relay.UNKNOWN
            case End(result=Result.FAILED, errno=errno, strerror=strerror):
                raise OSError(errno, strerror)
            case _:
                return end


async def _leave(joined: Joined, reading: "asyncio.Task[None]") -> None:
    await joined.link.withdraw()
    # Its inbox is read meanwhile, since requesters of recordings have to say that there may be more.
    await joined.answers.close()
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await joined.link.withdraw()  # should it just have announced itself
    await joined.link.close()
    joined.requests.interrupted()
    if not reading.cancelled():
        reading.result()  # re-raises an unexpected error
