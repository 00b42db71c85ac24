"""Visitors at many addresses start commands that wait for their input: one for each slot, and again when one ends."""

from bench.hostile.clients import Peer, address, again, for_seconds, frame, terminal

ADDRESSES = 48
WAITS = frame({"type": "run", "command": "cat -"})


async def attack(url: str, seconds: float, token: str) -> None:
    await for_seconds(seconds, *(again(_hold, url, address(number)) for number in range(ADDRESSES)))


async def _hold(url: str, place: str) -> None:
    peer: Peer = await terminal(url, place)
    try:
        peer.writer.write(WAITS)
        await peer.until(b'"type":"complete"')
    finally:
        peer.writer.transport.abort()
