"""The page and its files, and the security headers of every response."""

from collections.abc import Sequence
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse, Response
from slowapi import Limiter
from starlette.middleware.cors import CORSMiddleware

from backend.core.client_address import canonical_origin
from backend.transports.frames import AsgiSend
from backend.transports.page_files import ALWAYS_ASK, PageFiles
from backend.transports.problems import Problem
from backend.transports.routing import new_router
from backend.transports.terminal_socket import AsgiApp, AsgiReceive, ServiceInfo

Visitors = Literal["admitted", "token", "refused"]

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

ENCODED_HEADERS = [(name.encode(), value.encode()) for name, value in SECURITY_HEADERS.items()]


class ForeignPages:
    """ASGI middleware that lets pages of the listed origins read the service and its health (CORS)."""

    PATHS = frozenset({"/", "/health"})

    def __init__(self, app: AsgiApp, origins: Sequence[str]) -> None:
        self.app = app
        self.shared = CORSMiddleware(app, [canonical_origin(origin) for origin in origins], ("GET",), ("*",))

    async def __call__(self, scope: Any, receive: AsgiReceive, send: AsgiSend) -> None:
        if scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")) in self.PATHS:
            await self.shared(scope, receive, send)
        else:
            await self.app(scope, receive, send)


class SecurityHeaders:
    """ASGI middleware that adds the security headers to every response."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: AsgiReceive, send: AsgiSend) -> None:
        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = list(message.get("headers", ()))
                present = {name.lower() for name, _ in headers}
                message["headers"] = [*headers, *(each for each in ENCODED_HEADERS if each[0] not in present)]
            await send(message)

        await self.app(scope, receive, guarded if scope["type"] == "http" else send)


def page_routes(info: ServiceInfo, visitors: Visitors, limiter: Limiter, rate: str, files: PageFiles) -> APIRouter:
    """The page for browsers, the service as JSON for others. `visitors`: whether clients need a token or an account."""
    router = new_router("page")

    @router.get("/", response_model=None)
    @limiter.limit(rate)
    async def home(request: Request, response: Response) -> Response | dict[str, Any]:
        """The page for a browser, the service as JSON for others."""
        response.headers["vary"] = "accept"
        if "text/html" in request.headers.get("accept", ""):
            page = await files.page(request, "index.html", main="app/main.js")
            page.headers["vary"] = "accept, accept-encoding"
            return page
        return {
            "service": info.name,
            "version": info.version,
            "status": "running",
            "visitors": visitors,
            "endpoints": {"terminal": "/ws/terminal", "health": "/health", "page": "/ (with Accept: text/html)"},
        }

    @router.get("/docs", include_in_schema=False)
    @limiter.limit(rate)
    async def docs(request: Request) -> Response:
        """The documentation of the routes, to be tried out in the browser."""
        return await files.page(request, "docs.html", main="app/api-docs.js")

    @router.get("/favicon.ico", include_in_schema=False)
    @limiter.limit(rate)
    async def favicon(request: Request) -> Response:
        return await files.response(request, "favicon.svg", ALWAYS_ASK)

    return router


def add_page_files(app: FastAPI, files: PageFiles) -> None:
    """Serve the files of the page, and add the security headers to every response."""
    app.mount("/static", files, name="static")
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(Exception, _failed)


async def _failed(request: Request, error: Exception) -> JSONResponse:
    """The response when Gatepost itself fails: it is made outside all middleware, so it brings its own headers."""
    response = Problem(500, "server.failed", "Gatepost failed; the reason is in its log.").response()
    response.headers.update(SECURITY_HEADERS)
    return response
