"""The hashing of passwords: in a few threads, with a bounded number of requests that wait, familiar ones first."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

from backend.accounts.credentials import hash_password, verify_password
from backend.core.dataclasses import dataclass
from backend.core.threads import started_threads

AT_ONCE = 2  # threads; a hash takes a tenth of a second of a processor, and 64 MiB
WAITING = 16  # requests that wait, of either kind; the last one is served after a second, on a busy machine after some


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    done: "Future[Any]"
    work: Callable[[], Any]

    def run(self) -> None:
        """Do the work, unless the request has gone away."""
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self.work())
        except Exception as error:  # it is raised where the result is awaited
            self.done.set_exception(error)


class Passwords:
    """Hashes and verifies in threads of its own, so that logins neither stop the loop nor take every processor.

    Familiar requests come before all others, so a flood of attempts by strangers does not delay them. One for which
    there is no room is not served: a flood would otherwise make every client wait for minutes. A request that goes away
    while its password is hashed keeps its thread: the number at once is never exceeded.
    """

    def __init__(self, at_once: int = AT_ONCE, waiting: int = WAITING) -> None:
        self._threads = started_threads(at_once, "passwords")
        self._waiting = waiting
        self._familiar, self._others = deque[_Job](), deque[_Job]()

    async def hash(self, password: str) -> str | None:
        """`hash_password`, in a thread and as a familiar request; None if too many wait."""
        hashed: str | None = await self._in_turn(self._familiar, partial(hash_password, password))
        return hashed

    async def check(self, password: str, hashed: str | None, *, familiar: bool) -> bool | None:
        """`verify_password`, in a thread; None if too many wait."""
        jobs = self._familiar if familiar else self._others
        matches: bool | None = await self._in_turn(jobs, partial(verify_password, password, hashed))
        return matches

    async def _in_turn(self, jobs: deque[_Job], work: Callable[[], Any]) -> Any:
        if len(jobs) >= self._waiting:
            return None
        jobs.append(job := _Job(Future(), work))
        self._threads.submit(self._run_next)  # as often as there are jobs, but not for a certain one
        return await asyncio.wrap_future(job.done)

    def _run_next(self) -> None:
        try:
            job = self._familiar.popleft()
        except IndexError:
            job = self._others.popleft()
        job.run()

    def close(self) -> None:
        """End the threads; what waits is cancelled."""
        self._threads.shutdown(cancel_futures=True)
        for job in (*self._familiar, *self._others):
            job.done.cancel()
