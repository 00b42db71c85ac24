"""Errors of the API as problem+json (RFC 9457): what happened, by which rule, what to do."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException
from starlette.routing import Match, Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution import refusals
from backend.core.figures import size_text

MEDIA_TYPE = "application/problem+json"
TRY_AGAIN = 5.0  # seconds until a client should retry what is unavailable now
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
READING = frozenset({"GET", "HEAD"})
Rejected = Callable[[Request, int, str], Awaitable[None]]
Responses = dict[int | str, dict[str, Any]]

MEANINGS = {
    400: "The command was refused, or the request cannot be read",
    401: "The token, name or password is missing, invalid, expired or revoked",
    403: "The role or the scopes of the token do not allow it",
    404: "It does not exist for the caller",
    409: "The state of the resource does not allow it",
    410: "It is no longer stored",
    413: "The body is too large",
    415: "Another type of body is expected",
    422: "A field or query parameter is missing, unknown or invalid",
    429: "Too many requests; Retry-After says when the next is accepted",
    503: "The service is unavailable; Retry-After says when to try again",
}
EVERYWHERE = (401, 422, 429, 503)
WITH_BODY = (400, 413, 415)

# The HTTP status of a refusal, by the start of its rule; all others are commands that were refused.
STATUS_OF_RULE = {
    "auth.limited": 429,
    "auth.": 401,
    "role.": 403,
    "project.unknown": 404,
    "project.widening": 403,
    "project.": 422,
    "execution.unknown": 404,
    "execution.forgotten": 410,
    "execution.not_running": 409,
    "execution.unreachable": 503,
    "target.unknown": 404,
    "target.ambiguous": 409,
    "notification.unknown": 404,
    "notification.too_many": 409,
    "notification.not_dead": 409,
    "notification.": 422,
    "hook.unknown": 404,
    "hook.too_many": 409,
    "hook.signature": 401,
    "hook.time": 401,
    "hook.": 422,
    "schedule.unknown": 404,
    "schedule.too_many": 409,
    "schedule.": 422,
    "stdin.": 409,
    "terminal.none": 409,
    "runner.": 409,
    "idempotency.mismatch": 422,
    "idempotency.waiting": 409,
    "limits.watching": 429,
    "limits.rate": 429,
    "limits.recordings": 429,
    "limits.concurrency": 429,
    "limits.busy": 429,
    "limits.sessions": 429,
    "path.session": 409,
    "server.": 503,
    "recording.": 503,
    "storage.": 503,
    "protection.": 503,
}


def described(*statuses: int) -> Responses:
    """The error responses of a route, for the OpenAPI document: these statuses and those of every route."""
    return {status: {"description": MEANINGS[status]} for status in sorted({*EVERYWHERE, *statuses})}


class Problem(Exception):
    """An error response. `recorded` when the audit contains it already."""

    def __init__(
        self,
        status: int,
        rule: str,
        detail: str,
        *,
        hint: str = "",
        retry_after: float = 0.0,
        recorded: bool = False,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        self.status, self.rule, self.detail, self.hint = status, rule, detail, hint
        self.retry_after, self.recorded, self.extra = retry_after, recorded, extra or {}

    @classmethod
    def of(cls, decision: Decision, *, recorded: bool = False) -> "Problem":
        """A refusal of the gateway, as a response."""
        status = next((code for start, code in STATUS_OF_RULE.items() if decision.rule.startswith(start)), 400)
        words = " ".join(filter(None, (decision.reason, decision.hint)))
        detail = f"Command validation failed: {words} [{decision.rule}]" if status == 400 else words
        return cls(
            status,
            decision.rule,
            detail,
            hint=decision.hint,
            retry_after=decision.retry_after,
            recorded=recorded,
            extra={"risk": str(decision.risk)},
        )

    def response(self) -> JSONResponse:
        body = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "rule": self.rule,
            **({"hint": self.hint} if self.hint else {}),
            **self.extra,
        }
        headers = {"www-authenticate": "Bearer"} if self.status == 401 else {}
        if wait := self.retry_after or (TRY_AGAIN if self.status == 503 else 0.0):
            headers["retry-after"] = str(max(1, round(wait + 0.5)))
        return JSONResponse(body, self.status, headers, MEDIA_TYPE)


def add_problems(app: FastAPI, rejected: Rejected, larger: Mapping[str, int] | None = None) -> None:
    """Answer every error as a problem. `rejected(request, status, rule)` records it in the audit.

    Below the paths in `larger`, a body may have so many bytes.
    """

    async def answer(request: Request, problem: Problem) -> JSONResponse:
        if not problem.recorded:
            await rejected(request, problem.status, problem.rule)
        return problem.response()

    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return await answer(request, _invalid(error.errors()))

    async def http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 405:
            error.headers = {**(error.headers or {}), "Allow": ", ".join(allowed_methods(request))}
        response = await answer(request, _framework(request, error))
        response.headers.update(error.headers or {})
        return response

    async def limited(request: Request, error: RateLimitExceeded) -> JSONResponse:
        detail = f"Too many requests: {error.detail} are allowed."
        return await answer(request, Problem(429, "limits.requests", detail, retry_after=_seconds(error)))

    async def unavailable(request: Request, error: StorageError) -> JSONResponse:
        return Problem.of(refusals.unavailable(error)).response()

    app.add_exception_handler(Problem, answer)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]
    app.add_exception_handler(RateLimitExceeded, limited)  # type: ignore[arg-type]
    app.add_exception_handler(StorageError, unavailable)  # type: ignore[arg-type]
    if app.max_body_size is not None:
        app.add_middleware(BodyLimit, limit=app.max_body_size, larger=larger or {}, answer=answer)
        # FastAPI would answer outside all middleware, in plain text and without our headers. Its routes still apply.
        app.max_body_size = None


class BodyLimit:
    """ASGI middleware that refuses a body whose Content-Length is too large; one without is limited as it arrives."""

    def __init__(
        self,
        app: ASGIApp,
        limit: int,
        larger: Mapping[str, int],
        answer: Callable[[Request, Problem], Awaitable[JSONResponse]],
    ) -> None:
        self.app, self.limit, self.larger, self.answer = app, limit, larger, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._is_too_large(Request(scope)):
            await self.app(scope, receive, send)
            return
        detail = f"The body is larger than {size_text(self._limit(scope['path']))}."
        response = await self.answer(Request(scope, receive), Problem(413, "limits.body", detail))
        await response(scope, receive, send)

    def _limit(self, path: str) -> int:
        return next((limit for start, limit in self.larger.items() if path.startswith(start)), self.limit)

    def _is_too_large(self, request: Request) -> bool:
        length = request.headers.get("content-length", "")
        return length.isdecimal() and int(length[:20]) > self._limit(request.scope["path"])


def _seconds(error: RateLimitExceeded) -> float:
    return float(error.limit.limit.get_expiry()) if error.limit else 60.0


def _framework(request: Request, error: HTTPException) -> Problem:
    """What the web library itself refuses, with a hint."""
    status, detail = error.status_code, str(error.detail)
    if status == 404:
        return Problem(
            404, "request.path", f"There is no route {request.url.path[:200]}.", hint="GET /docs lists the routes."
        )
    if status == 405:
        hint = f"Use {(error.headers or {})['Allow'].replace(', ', ' or ')}."
        return Problem(405, "request.method", f"{request.method} is not allowed for this path.", hint=hint)
    if status == 413:
        return Problem(413, "limits.body", detail, hint="Send less.")
    return Problem(
        status, "request.invalid", f"{detail.rstrip('.')}.", hint="Send JSON in UTF-8, or a form where one is expected."
    )


def allowed_methods(request: Request) -> list[str]:
    """Every method of a path, whichever of its routes has it. Files can be read only."""
    scope = {**request.scope, "root_path": request.scope.get("app_root_path", request.scope.get("root_path", ""))}
    found = []
    for method in METHODS:
        for route in request.app.routes:
            match, _ = route.matches({**scope, "method": method})
            if match is Match.FULL and (not isinstance(route, Mount) or method in READING):
                found.append(method)
                break
    return found


def _invalid(errors: Sequence[Any]) -> Problem:
    """The problem of an invalid request, without repeating what was sent."""
    found = [{"place": ".".join(map(str, error["loc"])), "message": _fault(error)} for error in errors[:20]]
    first = found[0] if found else {"place": "body", "message": "it cannot be read"}
    detail = f"The request cannot be understood: {first['place']}: {first['message']}."
    ids = any(error["type"] == "string_type" and str(error["loc"][-1]).endswith("_id") for error in errors)
    hint = 'Ids are strings: {"project_id":"01M7..."}. GET /api/projects lists those of your projects.' if ids else ""
    return Problem(422, "request.invalid", detail, hint=hint, extra={"errors": found})


def _fault(error: Mapping[str, Any]) -> str:
    """What is wrong with a value, without the jargon of the library that found it."""
    if error["type"] == "union_tag_not_found":
        name = str(error["ctx"]["discriminator"]).strip("'")
        return f"the field {name} is required"
    return str(error["msg"]).removeprefix("Value error, ")
