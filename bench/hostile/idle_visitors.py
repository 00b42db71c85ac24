"""A thousand idle sockets of visitors at 51 addresses: as many as the server admits in total."""

import asyncio

from bench.hostile.clients import address, many, terminal

ADDRESSES, SOCKETS = 51, 20


async def attack(url: str, seconds: float, token: str) -> None:
    places = [address(number) for number in range(ADDRESSES) for _ in range(SOCKETS)]
    async with many([terminal(url, place) for place in places]):
        await asyncio.sleep(seconds)
