"""A recording that is sent to another server.

The requester grants credits, one per block, so a slow viewer costs no memory here or in Redis. It sends a message
at least every few seconds; while it can accept nothing it sends none, and asks again later.
"""

import asyncio
from contextlib import suppress
from time import monotonic

from backend.bus.link import Link
from backend.bus.messages import Beat, Block, End, Follow, Frame, RelayRequest, Result
from backend.core.dataclasses import replace
from backend.core.execution.bus import LocalExecutions

WINDOW = 8  # blocks in transit, of about 32 KiB each
BEAT_EVERY = 5.0  # seconds
SILENCE = 30.0  # seconds without a message of the requester after which it is considered gone


class RequesterGoneError(Exception):
    """The requester cannot be reached."""


class OutgoingRelay:
    """Answers one request for a recording, until `run` has ended."""

    def __init__(self, link: Link, local: LocalExecutions, request: RelayRequest) -> None:
        self._link = link
        self._local = local
        self._request = request
        self._credits = WINDOW
        self._more = asyncio.Event()
        self._writing = asyncio.Lock()
        self._number = 0
        self._heard = monotonic()

    def heard(self, credits: int) -> None:
        """The requester is there and accepts so many more blocks."""
        self._heard = monotonic()
        self._credits = min(WINDOW, self._credits + max(credits, 0))
        self._more.set()

    async def run(self) -> None:
        """Send everything, unless the requester goes. When cancelled, it reports that this server cannot continue."""
        end = self._end(Result.AWAY)
        with suppress(RequesterGoneError):
            try:
                await self._write(Beat(self._request.id, 0))
                end = await self._relay()
            finally:
                await self._write(end)

    async def _relay(self) -> End:
        work = asyncio.get_running_loop().create_task(self._result())
        try:
            return await self._watch(work)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _watch(self, work: "asyncio.Task[End]") -> End:
        while not (await asyncio.wait({work}, timeout=BEAT_EVERY))[0]:
            if monotonic() - self._heard > SILENCE:
                return self._end(Result.AGAIN)
            await self._write(Beat(self._request.id, 0))
        return work.result()

    async def _result(self) -> End:
        try:
            return await self._send_all()
        except OSError as error:
            strerror = (error.strerror or "")[:200]
            return self._end(Result.FAILED, errno=error.errno or 0, strerror=strerror)

    async def _send_all(self) -> End:
        request = self._request
        if isinstance(request, Follow):
            found = await self._local.follow_here(request.execution, request.after_seq, self._send)
            return self._end(Result.ENDED if found else Result.UNKNOWN)
        place = await self._local.copy_here(request.execution, self._send, request.begin, request.end)
        return self._end(Result.UNKNOWN) if place is None else self._end(Result.ENDED, place=place)

    def _end(self, result: Result, *, place: int = 0, errno: int = 0, strerror: str = "") -> End:
        return End(self._request.id, 0, result, place, errno, strerror)

    async def _send(self, block: bytes) -> None:
        while not self._credits:
            self._more.clear()
            await self._more.wait()
        self._credits -= 1
        await self._write(Block(self._request.id, 0, block))

    async def _write(self, frame: Frame) -> None:
        async with self._writing:
            numbered = replace(frame, number=self._number)
            self._number += 1
            if not await self._link.push(self._request.reply, numbered):
                raise RequesterGoneError
