"""A small client of the terminal protocol."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol

from websockets.asyncio.client import ClientConnection, connect

BATCH, LINES = "gatepost.v1.batch", "gatepost.v1.json"
BOUND = 30.0  # seconds that any message is waited for

Message = dict[str, Any]


class Listening(Protocol):
    """A server, wherever it runs."""

    @property
    def ws_url(self) -> str: ...


class Terminal:
    """One connection."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.greeting: list[Message] = []

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def receive(self, bound: float = BOUND) -> Message:
        """The next message."""
        async with asyncio.timeout(bound):
            return await self._next()

    async def _next(self) -> Message:
        text = await self.socket.recv()
        assert isinstance(text, str), "the server sends text frames only"
        message = json.loads(text)
        assert isinstance(message, dict)
        return message

    async def until(self, type: str, bound: float = BOUND, **fields: Any) -> list[Message]:
        """All messages up to the first of `type` that has `fields`."""
        messages: list[Message] = []
        async with asyncio.timeout(bound):
            while True:
                messages.append(message := await self._next())
                if message["type"] == type and fields.items() <= message.items():
                    return messages

    async def quiet(self) -> None:
        """Holds when the server has nothing more to say: the answer to a ping is the next message."""
        await self.send(type="ping", id="quiet")
        assert await self.receive() == {"type": "pong", "id": "quiet"}

    async def command(self, line: str, bound: float = BOUND) -> list[Message]:
        """Send a legacy frame; its messages up to `complete` or the refusal."""
        await self.send(command=line)
        return await self.reply(bound)

    async def start(self, line: str, **fields: Any) -> Message:
        """Send `run`; the `started` of it."""
        await self.send(type="run", command=line, **fields)
        return (await self.until("started"))[-1]

    async def run(self, line: str, bound: float = BOUND, **fields: Any) -> list[Message]:
        """Send `run`; its messages up to `complete` or the refusal."""
        await self.send(type="run", command=line, **fields)
        return await self.reply(bound)

    async def attach(self, execution: str, after_seq: int = 0, bound: float = BOUND) -> list[Message]:
        """Watch an execution to its end."""
        await self.send(type="attach", execution=execution, after_seq=after_seq)
        return await self.reply(bound)

    async def reply(self, bound: float = BOUND) -> list[Message]:
        """Messages up to `complete` or to a refusal."""
        messages: list[Message] = []
        async with asyncio.timeout(bound):
            while True:
                messages.append(message := await self._next())
                if message["type"] == "complete" or (message["type"] == "error" and "execution" not in message):
                    return messages


@asynccontextmanager
async def terminal(
    server: Listening, subprotocol: str | None = None, *, greeted: bool = True, **options: Any
) -> AsyncIterator[Terminal]:
    """Connect and, with `greeted`, wait for `ready`."""
    chosen: dict[str, Any] = {"subprotocols": [subprotocol]} if subprotocol else {}
    async with connect(server.ws_url, compression=None, max_size=None, close_timeout=1, **chosen, **options) as socket:
        client = Terminal(socket)
        if greeted:
            client.greeting = await client.until("ready")
        yield client


def output(messages: Sequence[Message], stream: str = "stdout") -> str:
    """The text of a stream, put together again. Without a subprotocol standard error comes as `stdout`."""
    pieces = []
    for message in messages:
        if message.get("stream", message["type"]) == stream:
            lines = message.get("lines") or [message["line"]]
            pieces.append("\n".join(lines) + ("" if message.get("partial") else "\n"))
    return "".join(pieces)


def span(message: Message) -> range:
    """The numbers that a message takes."""
    return range(message["seq"], message["seq"] + len(message.get("lines", "1")))


def assert_gapless(messages: Sequence[Message], after_seq: int = 0) -> None:
    """Each number comes once and in order, and all are of one execution."""
    numbers = [number for message in messages for number in span(message)]
    assert numbers == list(range(after_seq + 1, after_seq + 1 + len(numbers)))
    assert len({message["execution"] for message in messages}) == 1
