"""Visitors make chains of links, and send lines whose files lead through them again and again."""

from bench.hostile.clients import Peer, address, again, for_seconds, frame, terminal

ADDRESSES = 4
CHAIN = frame({"type": "run", "command": "pyguard bash -c 'ln -s . l0;for i in {1..30};do ln -s l$((i-1)) l$i;done'"})
FOLLOW = frame({"type": "run", "command": "cat " + " ".join(["l30/" * 6] * 3)})


async def attack(url: str, seconds: float, token: str) -> None:
    await for_seconds(seconds, *(again(_follow, url, address(number)) for number in range(ADDRESSES)))


async def _follow(url: str, place: str) -> None:
    peer: Peer = await terminal(url, place)
    try:
        peer.writer.write(CHAIN)
        await peer.until(b'"type":"complete"')
        peer.writer.write(FOLLOW)
        await peer.until(b'"type":')
    finally:
        peer.writer.transport.abort()
