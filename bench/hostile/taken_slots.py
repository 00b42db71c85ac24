"""Visitors at many addresses start commands that wait for their input: one for each slot, and again when one ends."""

from bench.hostile.clients import address, again, for_seconds, frame, until_complete

ADDRESSES = 48
WAITS = frame({"type": "run", "command": "cat -"})


async def attack(url: str, seconds: float, token: str) -> None:
    await for_seconds(seconds, *(again(until_complete, url, address(number), WAITS) for number in range(ADDRESSES)))
