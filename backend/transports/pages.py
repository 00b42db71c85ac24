"""The HTTP routes: the page, health, figures and recordings."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, FastAPI, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from slowapi import Limiter
from starlette.datastructures import MutableHeaders

from backend.core.decisions import Decision
from backend.core.identity import Principal
from backend.core.recording.asciicast import AsciicastWriter
from backend.core.recording.reader import Send
from backend.transports.dependencies import Access
from backend.transports.frames import AsgiSend
from backend.transports.openapi import describe
from backend.transports.problems import Problem, add_problems
from backend.transports.security import Door
from backend.transports.terminal_socket import AsgiApp, AsgiReceive
from backend.transports.turns import in_turns

BODY_LIMIT = 256 * 1024  # bytes
SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class StoredRecording(Protocol):
    """A recording that can be read."""

    async def copy(self, send: Send) -> int:
        """Send what is stored now, in blocks of whole lines; how many bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Facts:
    """What the routes tell and read."""

    name: str
    version: str
    api_key_configured: bool
    checks: Mapping[str, Callable[[], bool]]
    stores: Mapping[str, Callable[[], Awaitable[bool]]]
    protection: Mapping[str, Any]
    protected: bool
    find_recording: Callable[[str], StoredRecording | None]
    figures: Callable[[], str] | None


class SecurityHeaders:
    """ASGI middleware that puts the security headers on every answer."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: AsgiReceive, send: AsgiSend) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)


class RecordingResponse(Response):
    """A recording sent as it is read, each block converted on its way."""

    def __init__(
        self, recording: StoredRecording, convert: Callable[[bytes], bytes], media_type: str, name: str
    ) -> None:
        super().__init__(media_type=media_type, headers={"content-disposition": f'attachment; filename="{name}"'})
        del self.headers["content-length"]
        self._recording = recording
        self._convert = convert

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def block(data: bytes) -> None:
            await send({"type": "http.response.body", "body": self._convert(data), "more_body": True})

        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._recording.copy(in_turns(block))
        await send({"type": "http.response.body", "body": b""})


def add_routes(app: FastAPI, facts: Facts, door: Door, access: Access, rate: str, page_folder: Path) -> Limiter:
    """Put the routes of the page, of health and of recordings on the application; the limiter of addresses."""
    limiter = Limiter(
        key_func=lambda request: door.address(request.scope), strategy="moving-window", headers_enabled=True
    )
    app.state.limiter = limiter
    add_problems(app, access.rejected)
    app.add_exception_handler(Exception, _failed)
    app.include_router(_health_routes(facts, door))
    app.include_router(_page_routes(facts, limiter, rate, page_folder))
    app.include_router(_recording_routes(facts, access, limiter, rate))
    describe(app)
    app.mount("/static", StaticFiles(directory=page_folder), name="static")
    app.add_middleware(SecurityHeaders)
    return limiter


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """The answer when Gatepost itself fails: it is made outside of all middleware, so it brings its own headers."""
    response = Problem(500, "server.failed", "Gatepost failed; its log says why.").response()
    response.headers.update(SECURITY_HEADERS)
    return response


def _health_routes(facts: Facts, door: Door) -> APIRouter:
    """What probes ask. They come often and from one address, so they are not limited."""
    router = APIRouter(tags=["health"])

    @router.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "status": "healthy",
            "api_key_configured": facts.api_key_configured,
            "active_connections": door.connections.count,
        }

    @router.get("/healthz")
    async def alive() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    async def ready() -> JSONResponse:
        checks = {name: "ok" if check() else "failed" for name, check in facts.checks.items()}
        for name, answers in facts.stores.items():
            checks[name] = "ok" if await answers() else "failed"
        checks["protection"] = "ok" if facts.protected else "failed"
        well = all(result == "ok" for result in checks.values())
        return JSONResponse({"status": "ready" if well else "not ready", "checks": checks}, 200 if well else 503)

    @router.get("/health/protection")
    async def protection() -> JSONResponse:
        """What holds commands here, as it was tried out at the start; 503 where that is less than they need."""
        return JSONResponse(dict(facts.protection), 200 if facts.protected else 503)

    if figures := facts.figures:

        @router.get("/metrics")
        async def metrics() -> PlainTextResponse:
            return PlainTextResponse(figures(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _page_routes(facts: Facts, limiter: Limiter, rate: str, page_folder: Path) -> APIRouter:
    router = APIRouter(tags=["page"])

    @router.get("/", response_model=None)
    @limiter.limit(rate)
    async def home(request: Request, response: Response) -> Response | dict[str, Any]:
        """The page for a browser, the service as JSON for others."""
        response.headers["vary"] = "accept"
        if "text/html" in request.headers.get("accept", ""):
            return FileResponse(page_folder / "index.html", headers={"vary": "accept", "cache-control": "no-cache"})
        return {
            "service": facts.name,
            "version": facts.version,
            "status": "running",
            "endpoints": {"terminal": "/ws/terminal", "health": "/health", "page": "/ (with Accept: text/html)"},
        }

    @router.get("/docs", include_in_schema=False)
    @limiter.limit(rate)
    async def docs(request: Request) -> FileResponse:
        """The routes, described and to be tried out."""
        return FileResponse(page_folder / "docs.html", headers={"cache-control": "no-cache"})

    @router.get("/favicon.ico", include_in_schema=False)
    @limiter.limit(rate)
    async def favicon(request: Request) -> FileResponse:
        return FileResponse(page_folder / "favicon.svg", media_type="image/svg+xml")

    return router


def _recording_routes(facts: Facts, access: Access, limiter: Limiter, rate: str) -> APIRouter:
    router = APIRouter(prefix="/api", tags=["executions"])

    @router.get("/executions/{execution}/recording", response_class=Response)
    @limiter.limit(rate)
    async def recording(
        request: Request,
        execution: Annotated[str, PathParameter(pattern="^[0-9A-HJKMNP-TV-Z]{26}$")],
        format: Literal["ndjson", "asciicast"] = "ndjson",
        version: Literal["2", "3"] = "2",
    ) -> Response:
        """The recording so far: newline-delimited JSON messages, or an asciicast for a player."""
        door = access.door
        visitor = Principal("visitor", door.address(request.scope))
        principal = await door.identify(door.bearer(request.scope), visitor)
        if isinstance(principal, Decision):
            raise Problem.of(principal)
        try:
            found = facts.find_recording(execution)
        except OSError as error:
            raise Problem(503, "recording.unavailable", f"The recording cannot be read: {error.strerror}.") from error
        if found is None or not await access.directory.may_watch(principal, execution):
            raise Problem(404, "execution.unknown", f"There is no recording of the execution {execution} for you.")
        if format == "ndjson":
            return RecordingResponse(found, bytes, "application/x-ndjson", f"{execution}.ndjson")
        cast = AsciicastWriter(3 if version == "3" else 2)
        return RecordingResponse(found, cast.convert, "application/x-asciicast", f"{execution}.cast")

    return router
