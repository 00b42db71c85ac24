"""Two hundred sockets of ten addresses send what cannot be understood, and never read the answers."""

from bench.hostile.clients import Peer, address, for_seconds, frame, many, terminal

ADDRESSES, SOCKETS = 10, 20
FRAMES = frame(b"{") * 2000


async def attack(url: str, seconds: float, token: str) -> None:
    places = [address(number) for number in range(ADDRESSES) for _ in range(SOCKETS)]
    async with many([terminal(url, place) for place in places]) as peers:
        await for_seconds(seconds, *map(_flood, peers))


async def _flood(peer: Peer) -> None:
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]  # its buffers would read on their own
    while True:
        peer.writer.write(FRAMES)
        await peer.writer.drain()
