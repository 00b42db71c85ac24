"""Errors of the API as problem+json (RFC 9457): what happened, by which rule, what to do."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from slowapi.errors import RateLimitExceeded
from starlette.exceptions import HTTPException

from backend.core.decisions import Decision
from backend.core.errors import StorageError

MEDIA_TYPE = "application/problem+json"
Rejected = Callable[[Request, int, str], Awaitable[None]]

# What a refusal is in HTTP, by the start of its rule; every other is a command that did not pass.
STATUS_OF_RULE = {
    "auth.limited": 429,
    "auth.": 401,
    "role.": 403,
    "project.unknown": 404,
    "execution.unknown": 404,
    "limits.rate": 429,
    "limits.concurrency": 429,
    "limits.busy": 429,
    "server.": 503,
    "recording.": 503,
    "storage.": 503,
    "protection.": 503,
}


class Problem(Exception):
    """An answer that is an error. `recorded` says that the audit has it already."""

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
        """What the gate said, as an answer."""
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
        if self.retry_after:
            headers["retry-after"] = str(max(1, round(self.retry_after + 0.5)))
        return JSONResponse(body, self.status, headers, MEDIA_TYPE)


def add_problems(app: FastAPI, rejected: Rejected) -> None:
    """Answer every error as a problem. `rejected(request, status, rule)` writes it to the audit."""

    async def answer(request: Request, problem: Problem) -> JSONResponse:
        if not problem.recorded:
            await rejected(request, problem.status, problem.rule)
        return problem.response()

    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return await answer(request, _invalid(error.errors()))

    async def http(request: Request, error: HTTPException) -> JSONResponse:
        problem = Problem(error.status_code, _rule(error.status_code), str(error.detail))
        response = await answer(request, problem)
        response.headers.update(error.headers or {})
        return response

    async def limited(request: Request, error: RateLimitExceeded) -> JSONResponse:
        detail = f"Too many requests: {error.detail} are allowed."
        return await answer(request, Problem(429, "limits.requests", detail, retry_after=_seconds(error)))

    async def unavailable(request: Request, error: StorageError) -> JSONResponse:
        return Problem(503, "storage.unavailable", str(error), hint="Try again in a moment.", retry_after=5).response()

    app.add_exception_handler(Problem, answer)  # type: ignore[arg-type]
    app.add_exception_handler(RequestValidationError, invalid)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http)  # type: ignore[arg-type]
    app.add_exception_handler(RateLimitExceeded, limited)  # type: ignore[arg-type]
    app.add_exception_handler(StorageError, unavailable)  # type: ignore[arg-type]


def _seconds(error: RateLimitExceeded) -> float:
    return float(error.limit.limit.get_expiry()) if error.limit else 60.0


def _rule(status: int) -> str:
    """The rule for what the frame itself refuses."""
    names = {404: "request.path", 405: "request.method", 413: "limits.body", 415: "request.type"}
    return names.get(status, "request.invalid")


def _invalid(errors: Sequence[Any]) -> Problem:
    """What is wrong with a request, without repeating what was sent."""
    found = [{"place": ".".join(map(str, error["loc"])), "message": str(error["msg"])} for error in errors[:20]]
    first = found[0] if found else {"place": "body", "message": "it cannot be read"}
    detail = f"The request cannot be understood: {first['place']}: {first['message']}."
    return Problem(422, "request.invalid", detail, extra={"errors": found})
