"""Recordings to download."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi import Path as PathParameter
from fastapi.responses import Response
from slowapi import Limiter

from backend.application.executions import ExecutionService
from backend.application.recordings import Recording
from backend.core import ids
from backend.core.decisions import Decision
from backend.core.execution.refusals import hidden
from backend.core.recording.asciicast import AsciicastWriter
from backend.transports.dependencies import Access, check_query
from backend.transports.problems import Problem
from backend.transports.routing import new_router
from backend.transports.turns import in_turns


class RecordingResponse(Response):
    """A recording sent as it is read, each block converted on its way.

    It begins with the first block. One that cannot be read further is cut off without the end of the body, so that no
    client takes it for complete.
    """

    def __init__(self, recording: Recording, convert: Callable[[bytes], bytes], media_type: str, name: str) -> None:
        super().__init__(media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'})
        del self.headers["content-length"]
        self._recording = recording
        self._convert = convert

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it. Raises Problem if there is nothing to send."""
        begun = False

        async def begin() -> None:
            nonlocal begun
            if not begun:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            begun = True

        async def block(data: bytes) -> None:
            await begin()
            await send({"type": "http.response.body", "body": self._convert(data), "more_body": True})

        problem = await self._recording.copy(in_turns(block))
        if problem and not begun:
            raise Problem.of(hidden(problem, self._recording.id))
        if not problem:
            await begin()
            await send({"type": "http.response.body", "body": b""})


def recording_routes(access: Access, service: ExecutionService, limiter: Limiter, rate: str) -> APIRouter:
    """The route of recordings; those of visitors require no account."""
    router = new_router("executions", "/api")

    @router.get("/executions/{execution}/recording", response_class=Response)
    @limiter.limit(rate)
    async def recording(
        request: Request,
        execution: Annotated[str, PathParameter(pattern=ids.PATTERN)],
        format: Literal["ndjson", "asciicast"] = "ndjson",
        version: Literal["2", "3"] = "2",
    ) -> Response:
        """The recording so far: newline-delimited JSON messages, or an asciicast for a player."""
        principal = await access.client(request)
        await check_query(request)
        found = await service.recording(principal, execution)
        if isinstance(found, Decision):
            raise Problem.of(hidden(found, execution))
        if format == "ndjson":
            return RecordingResponse(found, bytes, "application/x-ndjson", f"{execution}.ndjson")
        cast = AsciicastWriter(3 if version == "3" else 2)
        return RecordingResponse(found, cast.convert, "application/x-asciicast", f"{execution}.cast")

    return router
