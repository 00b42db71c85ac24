"""Large bodies are read for known clients alone: they are parsed before a route asks who sends them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution import refusals
from backend.core.figures import size_text
from backend.transports.dependencies import Access
from backend.transports.problems import Problem

SMALL = 16 * 1024  # bytes of a body that is read of any client, such as a login
Known = Callable[[Request], Awaitable[bool]]


@dataclass(frozen=True, slots=True)
class LargeBodies:
    """ASGI middleware that refuses a large body of a client without a valid token, and one of unknown size.

    Below the paths in `others` clients are known by other means; these raise StorageError.
    """

    app: ASGIApp
    access: Access
    others: Mapping[str, Known]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _may_be_large(request := Request(scope)):
            await self.app(scope, receive, send)
        elif problem := await self._refusal(request):
            await self.access.rejected(request, problem.status, problem.rule)
            await problem.response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _refusal(self, request: Request) -> Problem | None:
        try:
            for start, known in self.others.items():
                if request.url.path.startswith(start):
                    return None if await known(request) else _too_large()
            return await self._of_caller(request)
        except StorageError as error:
            return Problem.of(refusals.unavailable(error))

    async def _of_caller(self, request: Request) -> Problem | None:
        security = self.access.security
        if (token := security.bearer(request.scope)) is None:
            return _too_large()
        found = await security.identify(token, security.visitor(request.scope))
        if isinstance(found, Decision):
            return Problem.of(found)
        return None if found.user else _too_large()


def _may_be_large(request: Request) -> bool:
    length = request.headers.get("content-length")
    if length is None:
        return "transfer-encoding" in request.headers
    return not length.isdecimal() or int(length[:20]) > SMALL


def _too_large() -> Problem:
    detail = f"A body that is larger than {size_text(SMALL)}, or of unknown size, is read for known clients alone."
    return Problem(413, "limits.body", detail, hint="Send a valid token or key, or less.")
