"""What a server requests from the other servers."""

import asyncio
import random
from secrets import token_hex
from time import monotonic

from backend.bus.incoming import IncomingRelay
from backend.bus.link import Link
from backend.bus.messages import Answer, End, Frame, Instruct, Result
from backend.bus.progress import Progress
from backend.bus.search import Search
from backend.core.execution.model import Delivery, Instruction

INSTRUCT_BOUND = 2.0  # seconds until an instruction is given up as unreachable


class Requests:
    """The requests of one server that wait for their answers."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._answers: dict[str, asyncio.Future[Delivery]] = {}
        self._relays: dict[str, IncomingRelay] = {}

    def receive(self, message: Answer | Frame) -> None:
        """Pass an answer to the request that waits for it, if there still is one."""
        if isinstance(message, Answer):
            waiting = self._answers.get(message.id)
            if waiting and not waiting.done():
                waiting.set_result(message.delivery)
        elif relay := self._relays.get(message.id):
            relay.put(message)

    def interrupted(self) -> None:
        """Messages may be lost: request every recording again."""
        for relay in self._relays.values():
            relay.interrupt()

    async def instruct(self, owner: str, execution: str, instruction: Instruction) -> Delivery:
        """Deliver an instruction to an execution of another server."""
        begun = monotonic()
        try:
            async with asyncio.timeout(INSTRUCT_BOUND):
                await self._link.up.wait()
                found = await self._link.presence(owner)
                if not found or not found.servers:
                    return Delivery.UNREACHABLE
                deadline = found.now + INSTRUCT_BOUND - (monotonic() - begun)
                return await self._ask(random.choice(sorted(found.servers)), deadline, execution, instruction)
        except TimeoutError:
            return Delivery.UNREACHABLE

    async def _ask(self, server: str, deadline: float, execution: str, instruction: Instruction) -> Delivery:
        id = token_hex(16)
        self._answers[id] = asyncio.get_running_loop().create_future()
        try:
            await self._link.push(server, Instruct(id, self._link.id, deadline, execution, instruction))
            return await self._answers[id]
        finally:
            del self._answers[id]

    async def relay(self, address: str, progress: Progress) -> End | None:
        """Pass a recording on; how it ended, or None when no server can continue it."""
        search, last = Search(self._link, address), ""
        while server := await search.next():
            relay = IncomingRelay(self._link, server, progress)
            end = await self._run(relay, last)
            if end and end.result not in {Result.AGAIN, Result.AWAY}:
                return None if end.result is Result.BUSY else end
            search.learn(server, relay, away=end is not None and end.result is Result.AWAY)
            last = relay.id
        return None

    async def _run(self, relay: IncomingRelay, replaces: str) -> End | None:
        self._relays[relay.id] = relay
        try:
            return await relay.run(replaces)
        finally:
            del self._relays[relay.id]
