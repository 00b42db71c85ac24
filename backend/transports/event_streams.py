"""Server-sent events: the messages of an execution, live, until its end or that of the right to view it."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import field
from typing import Any

from fastapi import Response
from fastapi.responses import StreamingResponse

from backend.application.executions import ExecutionService
from backend.application.recordings import Recording
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.identity import Principal
from backend.core.recording.batches import last_seq, stored_lines
from backend.transports.problems import Problem
from backend.transports.turns import in_turns

KEEP_ALIVE = 15.0  # seconds without an event after which a stream sends a comment, so that it is not closed
RECHECK_EVERY = 5.0  # seconds between two checks whether the token of a stream is still valid
BLOCKS_WAITING = 4  # blocks between the recording and a slow reader
MOST_STREAMS = 64  # concurrent event streams of an account; each holds a connection and an open file


class EventStream(StreamingResponse):
    """Server-sent events."""

    media_type = "text/event-stream"


@dataclass(frozen=True, slots=True)
class EventStreams:
    """The event streams of a server. `open` counts those of each principal."""

    service: ExecutionService
    open: Counter[str] = field(default_factory=Counter)

    async def respond(self, principal: Principal, recording: Recording, last_event_id: str | None) -> Response:
        """A stream of what follows on an event. Raises Problem where an account follows too many executions."""
        _check_streams(self.open[principal.name])
        stream = self._events(principal, recording, int(last_event_id or 0))
        if last_event_id and not recording.running:
            begin = await anext(stream, b"")
            if not begin:
                return Response(status_code=204)  # else a browser would ask again and again
            stream = _begun(begin, stream)
        return EventStream(stream, headers={"cache-control": "no-store"})

    async def _events(self, principal: Principal, recording: Recording, after_seq: int) -> AsyncIterator[bytes]:
        """Server-sent events, each with the number of its last line as id. They end when the right to view them ends."""
        blocks: asyncio.Queue[bytes] = asyncio.Queue(BLOCKS_WAITING)
        following = asyncio.create_task(recording.follow(after_seq, in_turns(blocks.put)))
        allowed = asyncio.create_task(_while_allowed(self.service, principal, recording.id))
        self.open[principal.name] += 1
        try:
            while not (following.done() and blocks.empty()):
                block = await _next(blocks, {following, allowed}, KEEP_ALIVE)
                if allowed.done():
                    return
                if block or not following.done():
                    yield _as_events(block) if block else b": keep-alive\n\n"
            if problem := following.result():
                yield _as_problem(problem)
        finally:
            following.cancel()
            allowed.cancel()
            self.open[principal.name] -= 1
            if not self.open[principal.name]:
                del self.open[principal.name]


def _check_streams(followed: int) -> None:
    """Raises Problem where an account follows too many executions."""
    if followed >= MOST_STREAMS:
        detail = f"You already follow {MOST_STREAMS} executions."
        raise Problem(429, "limits.watching", detail, hint="Close a stream, or wait for its end.", retry_after=5)


async def _begun(begin: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield begin
    async for block in rest:
        yield block


async def _while_allowed(service: ExecutionService, principal: Principal, id: str) -> None:
    """Return when the right to view it has ended. A database that answers slowly does not delay the stream."""
    while True:
        await asyncio.sleep(RECHECK_EVERY)
        if not await service.still_allowed(principal, id):
            return


async def _next(blocks: asyncio.Queue[bytes], ends: set[asyncio.Task[Any]], seconds: float) -> bytes:
    """The next block; empty if none arrives in time, or one of `ends` is done."""
    getting = asyncio.create_task(blocks.get())
    try:
        await asyncio.wait([getting, *ends], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else b""
    finally:
        getting.cancel()


def _as_events(block: bytes) -> bytes:
    return b"".join(b"id: %d\ndata: %b\n\n" % (last_seq(line), line) for line in stored_lines(block))


def _as_problem(problem: Decision) -> bytes:
    """Why an event stream ends before the execution does."""
    said = json.dumps({"rule": problem.rule, "detail": problem.reason, "hint": problem.hint})
    return f"event: problem\ndata: {said}\n\n".encode()
