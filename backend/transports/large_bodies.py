"""Large bodies are read for known clients alone: they are parsed before a route asks who sends them."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import field
from weakref import WeakValueDictionary

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution import refusals
from backend.core.figures import size_text
from backend.transports.dependencies import Access
from backend.transports.problems import Problem

SMALL = 16 * 1024  # bytes of a body that is read of any client, such as a login


@dataclass(frozen=True, slots=True)
class LargeBodies:
    """ASGI middleware that refuses a large body of a client without a valid token, and one of unknown size.

    Runners, below the path `runners`, may send much larger ones: of those of an account one at a time is read.
    `account_of` finds the account by the key, None if it is not valid. Calls below `signed` are parsed after their
    signature was checked.
    """

    app: ASGIApp
    access: Access
    runners: str
    account_of: Callable[[Request], Awaitable[str | None]]
    signed: str
    _turns: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _may_be_large(request := Request(scope)):
            await self.app(scope, receive, send)
            return
        account = await self._account(request)
        if isinstance(account, Problem):
            await self.access.rejected(request, account.status, account.rule)
            await account.response()(scope, receive, send)
        elif account and request.method != "GET":
            async with self._turns.setdefault(account, asyncio.Lock()):
                await self.app(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _account(self, request: Request) -> str | Problem:
        """The account of a runner, empty for other clients that may send such a body, or why this one may not."""
        try:
            if request.url.path.startswith(self.signed):
                return ""
            if request.url.path.startswith(self.runners):
                return await self.account_of(request) or _too_large()
            return await self._refusal(request) or ""
        except StorageError as error:
            return Problem.of(refusals.unavailable(error))

    async def _refusal(self, request: Request) -> Problem | None:
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
