"""Visitors at many addresses have their input repeated, as much as a command may write, to fill what is recorded."""

import asyncio
import itertools
import json

from bench.hostile.clients import Peer, address, again, for_seconds, frame, terminal

FLOODS = 4
PATIENCE = 3.0  # seconds for one command, which may have been refused
REPEATS = frame({"type": "run", "command": "cat"})
INPUT = json.dumps({"type": "stdin", "data": "y\n" * 15_000}).encode()
LONG = bytes((0x81, 0x80 | 126)) + len(INPUT).to_bytes(2, "big") + bytes(4) + INPUT


async def attack(url: str, seconds: float, token: str) -> None:
    places = itertools.count()  # each address may run few commands, so each command has another
    await for_seconds(seconds, *(again(_flood, url, places) for _ in range(FLOODS)))


async def _flood(url: str, places: "itertools.count[int]") -> None:
    peer: Peer = await terminal(url, address(next(places)))
    writing = asyncio.create_task(_write(peer))
    try:
        await for_seconds(PATIENCE, peer.until(b'"type":"complete"'))
    finally:
        writing.cancel()
        peer.writer.transport.abort()


async def _write(peer: Peer) -> None:
    peer.writer.write(REPEATS)
    while True:
        peer.writer.write(LONG)
        await peer.writer.drain()
