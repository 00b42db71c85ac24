"""One address opens every HTTP connection that the server accepts, and asks for nothing."""

import asyncio

from bench.hostile.clients import Peer, address, again, connect, for_seconds

CONNECTIONS = 2000


async def attack(url: str, seconds: float, token: str) -> None:
    await for_seconds(seconds, *(again(_hold, url) for _ in range(CONNECTIONS)))


async def _hold(url: str) -> None:
    peer: Peer = await connect(url, address(0))
    try:
        await peer.reader.read(1)
        await asyncio.sleep(0.1)  # refused: another attempt soon
    finally:
        peer.writer.transport.abort()
