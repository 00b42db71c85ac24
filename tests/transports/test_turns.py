"""Whoever reads a long recording leaves the loop to others."""

import asyncio

from backend.transports.turns import in_turns


async def test_others_have_their_turn_between_two_blocks() -> None:
    order: list[bytes] = []

    async def send(block: bytes) -> None:
        order.append(block)

    async def other() -> None:
        order.append(b"other")

    async with asyncio.TaskGroup() as group:
        group.create_task(other())
        sent = in_turns(send)
        await sent(b"one")
        await sent(b"two")
    assert order == [b"one", b"other", b"two"]
