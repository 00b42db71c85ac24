"""Threads that exist from startup on."""

from concurrent.futures import Future, ThreadPoolExecutor


def started_threads(size: int, name: str) -> ThreadPoolExecutor:
    """Start all threads now: later, commands may have used up the processes that this one may start."""
    threads = ThreadPoolExecutor(size, name)
    gate: Future[None] = Future()
    for _ in range(size):
        threads.submit(gate.result)  # none is idle, so each gets a new thread
    gate.set_result(None)
    return threads
