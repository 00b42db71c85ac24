"""Twenty sockets of one address send frames that ask for nothing, as fast as the network takes them."""

from bench.hostile.clients import Peer, address, again, for_seconds, frame, terminal

SOCKETS = 20
FRAMES = frame({"command": ""}) * 2000


async def attack(url: str, seconds: float, token: str) -> None:
    await for_seconds(seconds, *(again(_flood, url) for _ in range(SOCKETS)))


async def _flood(url: str) -> None:
    peer: Peer = await terminal(url, address(0))
    try:
        while True:
            peer.writer.write(FRAMES)
            await peer.writer.drain()
    finally:
        peer.writer.transport.abort()
