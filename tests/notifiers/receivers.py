"""Receivers of webhooks and of mail, on real sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field


@dataclass
class Receiver:
    """Stores what it gets; `answer` is what it sends back."""

    answer: bytes = b"HTTP/1.1 204 No Content\r\n\r\n"
    port: int = 0
    requests: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    async def http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await reader.readexactly(int(headers["content-length"]))
            self.requests.append(({"line": head[0], **headers}, body))
            writer.write(self.answer)
            await writer.drain()
        finally:
            writer.close()

    async def smtp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One session, in which everything is accepted."""
        writer.write(b"220 here\r\n")
        in_message = False
        async for raw in reader:
            line = raw.decode().rstrip("\r\n")
            self.lines.append(line)
            if in_message and line != ".":
                continue
            in_message = line.upper() == "DATA"
            answers = {"DATA": b"354 go on\r\n", "QUIT": b"221 bye\r\n"}
            writer.write(answers.get(line.upper(), b"250 fine\r\n"))
        writer.close()


@asynccontextmanager
async def receiving(answer: bytes = Receiver.answer, *, mail: bool = False) -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver(answer)
    server = await asyncio.start_server(receiver.smtp if mail else receiver.http, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
