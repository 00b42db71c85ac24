"""Five hundred sockets of an account, each of which sends five commands at once and stays open."""

import asyncio

from bench.hostile.clients import Peer, address, frame, many, terminal

SOCKETS, COMMANDS = 500, 5
ECHO = frame({"command": "echo hi"})


async def attack(url: str, seconds: float, token: str) -> None:
    async with many([terminal(url, address(number), token) for number in range(SOCKETS)]) as peers:
        for peer in peers:
            peer.writer.write(ECHO * COMMANDS)
        await asyncio.gather(*(_read(peer) for peer in peers), asyncio.sleep(seconds))


async def _read(peer: Peer) -> None:
    answered = 0
    while answered < COMMANDS and (data := await peer.reader.read(65536)):
        answered += data.count(b'"type":"complete"') + data.count(b'"type":"error"')
