"""Every attack, by the name that the table shows.

An attack is a module with `async def attack(url, seconds, token)`: it attacks the server at `url` for about `seconds`, as
visitors or, with `token`, as an account. It runs in a process of its own, and may end early.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from bench.hostile import (
    fork_bomb,
    held_connections,
    idle_visitors,
    links,
    many_accounts,
    recordings_flood,
    taken_slots,
    tiny_frames,
    unread_answers,
    wrong_logins,
)

Attack = Callable[[str, float, str], Coroutine[Any, Any, None]]

ATTACKS: dict[str, Attack] = {
    "tiny-frames": tiny_frames.attack,
    "unread-answers": unread_answers.attack,
    "idle-visitors": idle_visitors.attack,
    "taken-slots": taken_slots.attack,
    "held-connections": held_connections.attack,
    "many-accounts": many_accounts.attack,
    "recordings-flood": recordings_flood.attack,
    "wrong-logins": wrong_logins.attack,
    "fork-bomb": fork_bomb.attack,
    "links": links.attack,
}


def run_attack(name: str, url: str, seconds: float, token: str) -> None:
    """The process of the attacker."""
    asyncio.run(ATTACKS[name](url, seconds, token))
