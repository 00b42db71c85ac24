"""What a server does for the other servers."""

import asyncio
from functools import partial
from time import monotonic

from backend.bus.link import Link
from backend.bus.messages import Answer, Close, Credit, End, Instruct, RelayRequest, Result
from backend.bus.progress import LAST_BLOCKS
from backend.bus.relay import OutgoingRelay
from backend.core.dataclasses import dataclass
from backend.core.execution.bus import LocalExecutions
from backend.core.execution.model import Delivery

RELAYS = 512  # recordings relayed at once; further requesters find this server unreachable
TASKS = 2 * RELAYS  # relays and answers that wait for Redis; further instructions are not delivered
REMEMBERED = 60.0  # seconds for which the answer to an instruction is remembered, should it arrive twice

Asked = Instruct | RelayRequest | Credit | Close


@dataclass(frozen=True, slots=True)
class Running:
    """A relay and its task."""

    relay: OutgoingRelay
    task: "asyncio.Task[None]"


class Answers:
    """Answers requests from `local`. No answer waits for another one."""

    def __init__(self, link: Link, local: LocalExecutions) -> None:
        self._link = link
        self._local = local
        self._delivered: dict[str, tuple[float, asyncio.Task[Delivery]]] = {}
        self._relays: dict[str, Running] = {}
        self._leaving = False

    def receive(self, asked: Asked) -> None:
        """Begin to answer a request, unless the requester no longer waits for the answer."""
        match asked:
            case Credit(id, count):
                if running := self._relays.get(id):
                    running.relay.heard(count)
            case Close(id):
                self._stop(id)
            case _ if self._link.now > asked.deadline or self._link.started >= TASKS:
                pass
            case Instruct():
                self._link.start(self._answer(asked))
            case _:
                self._relay(asked)

    async def close(self) -> None:
        """Inform the requesters of recordings that this server is leaving, except those whose recording ends soon."""
        self._leaving = True
        running = [each.task for each in self._relays.values()]
        if running:
            await asyncio.wait(running, timeout=LAST_BLOCKS)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _answer(self, asked: Instruct) -> None:
        await self._link.push(asked.reply, Answer(asked.id, await asyncio.shield(self._deliver(asked))))

    def _deliver(self, asked: Instruct) -> "asyncio.Task[Delivery]":
        """The delivery of an instruction; one that arrives twice is delivered once."""
        now = monotonic()
        while (oldest := next(iter(self._delivered), None)) and self._delivered[oldest][0] < now:
            del self._delivered[oldest]
        if known := self._delivered.get(asked.id):
            return known[1]
        delivery = asyncio.ensure_future(self._local.deliver(asked.execution, asked.instruction))
        self._delivered[asked.id] = (now + REMEMBERED, delivery)
        return delivery

    def _relay(self, asked: RelayRequest) -> None:
        self._stop(asked.replaces)
        if asked.id in self._relays:
            return  # it arrived twice
        if self._leaving or len(self._relays) >= RELAYS:
            self._link.start(self._refuse(asked, Result.AWAY if self._leaving else Result.BUSY))
            return
        relay = OutgoingRelay(self._link, self._local, asked)
        task = self._link.start(relay.run())
        self._relays[asked.id] = Running(relay, task)
        task.add_done_callback(partial(self._forget, asked.id))

    async def _refuse(self, asked: RelayRequest, why: Result) -> None:
        await self._link.push(asked.reply, End(asked.id, 0, why))

    def _stop(self, id: str) -> None:
        if running := self._relays.get(id):
            running.task.cancel()

    def _forget(self, id: str, _: "asyncio.Task[None]") -> None:
        del self._relays[id]
