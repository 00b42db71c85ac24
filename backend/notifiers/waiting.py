"""Threads for what may take long: name servers and mail servers that do not answer. Commands are judged in others."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

THREADS = ThreadPoolExecutor(8, "notifier")


async def in_thread(work: Callable[[], T]) -> T:
    """What a call returns that blocks."""
    return await asyncio.get_running_loop().run_in_executor(THREADS, work)
