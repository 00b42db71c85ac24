"""A recording that is received from another server."""

import asyncio
from secrets import token_hex

from backend.bus.link import Link
from backend.bus.messages import Beat, Block, Close, Copy, Credit, End, Follow, Frame, RelayRequest
from backend.bus.progress import FollowProgress, Progress
from backend.bus.relay import WINDOW

ANSWER_BOUND = 3.0  # seconds until a server that does not accept a request for a recording is considered dead
SILENCE = 15.0  # seconds without a block or a beat, after which the recording is requested again
QUEUE = 4 * WINDOW  # more messages than a server that follows the protocol can have in transit


class IncomingRelay:
    """One request for a recording, to one server. `accepted`: it has answered. `interrupted`: Redis was unavailable."""

    def __init__(self, link: Link, server: str, progress: Progress) -> None:
        self.id = token_hex(16)
        self.accepted = False
        self.interrupted = False
        self._link = link
        self._server = server
        self._progress = progress
        self._received: asyncio.Queue[Frame | None] = asyncio.Queue(QUEUE)
        self._used = 0
        self._next = 0

    def put(self, frame: Frame) -> None:
        """Accept a message of the server."""
        if not self._received.full():  # else its number is missing later
            self._received.put_nowait(frame)

    def interrupt(self) -> None:
        """End after what has been received."""
        self.interrupted = True
        if self._received.full():
            self._received.get_nowait()
        self._received.put_nowait(None)

    async def run(self, replaces: str) -> End | None:
        """Pass on what the server sends; its last message, or None when it is to be requested again."""
        end = None
        try:
            if await self._link.push(self._server, self._request(replaces)):
                end = await self._receive_all()
            else:
                self.interrupted = True
            return end
        finally:
            if not end:
                self._link.start(self._close())

    async def _receive_all(self) -> End | None:
        while frame := await self._receive():
            self.accepted = True
            if isinstance(frame, End):
                return frame
            await self._take(frame)
        return None

    async def _receive(self) -> Frame | None:
        """The next message; None when one is missing."""
        while True:
            try:
                async with asyncio.timeout(SILENCE if self.accepted else ANSWER_BOUND):
                    frame = await self._received.get()
            except TimeoutError:
                return None
            if frame is None or frame.number > self._next:
                return None
            if frame.number == self._next:
                self._next += 1
                return frame

    async def _take(self, frame: Block | Beat) -> None:
        """Grant a credit for each block, half a window at a time, and answer each beat."""
        if isinstance(frame, Block):
            await self._progress.pass_on(frame.data)
            self._used += 1
        if isinstance(frame, Beat) or self._used >= WINDOW // 2:
            used, self._used = self._used, 0
            await self._link.push(self._server, Credit(self.id, used))

    def _request(self, replaces: str) -> RelayRequest:
        id, reply, progress = self.id, self._link.id, self._progress
        deadline = self._link.now + ANSWER_BOUND
        if isinstance(progress, FollowProgress):
            return Follow(id, reply, deadline, replaces, progress.execution, progress.after_seq)
        return Copy(id, reply, deadline, replaces, progress.execution, progress.begin, progress.end)

    async def _close(self) -> None:
        await self._link.push(self._server, Close(self.id))
