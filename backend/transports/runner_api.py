"""The protocol of runners of Django projects: they poll, claim executions, and report output and ends.

Every answer is a JSON object. A request carries a key, its time and a nonce: one that is sent again with the same nonce
gets the same answer. Every request can be repeated without harm, even where its answer was lost.
"""

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, FailFast, Field

from backend.application.runners import Pending, Runners
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.django.commands import ManagementCommand, command_list
from backend.core.django.ports import Caller, Reply, RunnerKey, RunnerVersions, StoredAnswer
from backend.core.django.runs import MOST_CHUNKS, Chunk, RunEnd, StopLevel
from backend.core.figures import duration_text
from backend.core.identity import Principal
from backend.core.ids import as_uuid, of_uuid
from backend.core.limits import RateLimiter
from backend.transports.dependencies import Access
from backend.transports.problems import Problem
from backend.transports.routing import new_router

PREFIX = "/api/runner"
BODY_LIMIT = 5 * 2**20  # bytes; the commands of a large project with their help
CLOCKS_DIFFER = 300  # seconds by which the time of a request may differ from the server's
LONGEST_WAIT = 25.0  # seconds; shorter than what proxies and runners wait for
RECENT = 4096  # answers to requests that change nothing, which are stored in memory only
OK = {"ok": True}
NONCE = re.compile(r"[A-Za-z0-9_-]{8,64}")
NAME: Any = Field(min_length=1, max_length=128)
WORD: Any = Field(default="", max_length=128)


class Heartbeat(BaseModel):
    """A runner is alive."""

    runner_version: str = WORD
    python_version: str = WORD
    django_version: str = WORD
    commands_hash: str = WORD


class Command(BaseModel):
    """A management command."""

    name: str = NAME
    app_label: str = Field(default="", max_length=256)
    help_text: str = ""


class Sync(BaseModel):
    """The commands of a project."""

    commands: Annotated[list[Command], FailFast()] = Field(max_length=10_000)


class Segment(BaseModel):
    """A line, or a part of one."""

    timestamp: float | None = None
    content: str


class Output(BaseModel):
    """A piece of output. `chunk_number` counts those of both streams."""

    chunk_number: int = Field(ge=1, le=MOST_CHUNKS)
    segments: Annotated[list[Segment], FailFast()]  # otherwise each that is invalid would be described
    is_stderr: bool = False


class Complete(BaseModel):
    """How a command ended."""

    exit_code: int = Field(ge=-(2**31), lt=2**32)
    status: Literal["success", "failed", "cancelled", "timed_out"]


class Repeated(Problem):
    """Not an error: the request was answered before, and gets that answer again."""

    def __init__(self, answer: StoredAnswer) -> None:
        super().__init__(answer.status, "", "", recorded=True)
        self.answer = answer

    def response(self) -> JSONResponse:
        return repeated(self.answer)


def repeated(answer: StoredAnswer) -> JSONResponse:
    """The response that is stored as an answer."""
    return JSONResponse(json.loads(answer.body), answer.status)


@dataclass(frozen=True, slots=True)
class Call:
    """A request of a runner, judged."""

    key: RunnerKey
    nonce: str
    digest: bytes
    changes: bool

    def reply(self, what: Mapping[str, Any]) -> Reply:
        """What it is answered if all goes well."""
        return Reply(self.key.id, self.nonce, StoredAnswer(self.digest, 200, json.dumps(what)))


@dataclass(frozen=True, slots=True)
class RunnerGate:
    """Judges the requests of runners: the key, the time, the nonce. `now` is in Unix seconds."""

    access: Access
    runners: Runners
    secret_hash: Callable[[str], bytes]
    failures: RateLimiter
    now: Callable[[], float]
    recent: OrderedDict[tuple[str, str], StoredAnswer] = field(default_factory=OrderedDict)

    async def call(self, request: Request) -> Call:
        """The request, if it is valid and was not answered before. Raises Problem."""
        nonce = request.headers.get("x-request-nonce", "")
        address = self.access.security.address(request.scope)
        caller = await self._caller(request, nonce, address)
        key = caller.key
        request.state.principal = Principal(f"runner:{key.name}", address)
        self._check_time(request.headers.get("x-request-timestamp", ""))
        if not NONCE.fullmatch(nonce):
            raise Problem(400, "runner.nonce", "X-Request-Nonce is missing or invalid.", hint="Send a new UUID.")
        what = f"{request.method} {request.url.path}\n".encode() + await request.body()
        call = Call(key, nonce, hashlib.sha256(what).digest(), changes=request.method != "GET")
        if answer := caller.answered or self.recent.get((key.id, nonce)):
            if answer.digest != call.digest:
                detail = "This X-Request-Nonce was used for another request."
                raise Problem(409, "runner.nonce", detail, hint="Send a new nonce with each new request.")
            raise Repeated(answer)
        return call

    async def _caller(self, request: Request, nonce: str, address: str) -> Caller:
        """Read with each request: a key that was revoked, on whichever server, is refused at once."""
        secret = self.access.security.bearer(request.scope) or ""
        found = await self.runners.store.caller(self.secret_hash(secret), nonce)
        if found and found.key.is_valid(int(self.now() * 1000)):
            return found
        if wait := await self.failures.wait(f"runner:{address}"):
            detail = f"Too many invalid keys from this address; wait {duration_text(round(wait + 0.5))}."
            raise Problem(429, "auth.limited", detail, retry_after=wait)
        await self.failures.hit(f"runner:{address}")
        what = "has been revoked or has expired" if found else "is missing or unknown" if secret else "is missing"
        hint = "Create one with `runner key create PROJECT` and set it as API_KEY."
        raise Problem(401, "auth.wrong", f"The key of this runner {what}.", hint=hint)

    def _check_time(self, sent: str) -> None:
        if not re.fullmatch(r"[0-9]{1,12}", sent):
            detail = "X-Request-Timestamp is missing or invalid."
            raise Problem(400, "runner.clock", detail, hint="Send the Unix time in seconds.")
        if abs(ahead := int(sent) - self.now()) > CLOCKS_DIFFER:
            by = duration_text(round(abs(ahead)))
            detail = f"The clock of this runner is {by} {'ahead of' if ahead > 0 else 'behind'} that of the server."
            raise Problem(400, "runner.clock", detail, hint="Set both clocks, for example by NTP.")

    async def answer(self, call: Call, work: Awaitable[Mapping[str, Any] | Reply | Decision]) -> JSONResponse:
        """Answer a request, and remember that answer unless it is one that the runner will ask for again."""
        result = await work
        if isinstance(result, Reply):
            return repeated(result.answer)
        response = Problem.of(result).response() if isinstance(result, Decision) else JSONResponse(dict(result))
        if response.status_code < 500 and response.status_code != 429:
            await self._remember(call, StoredAnswer(call.digest, response.status_code, bytes(response.body).decode()))
        return response

    async def _remember(self, call: Call, answer: StoredAnswer) -> None:
        if call.changes:
            await self.runners.store.remember(call.key.id, call.nonce, answer)
            return
        self.recent[call.key.id, call.nonce] = answer
        if len(self.recent) > RECENT:
            self.recent.popitem(last=False)


Handler = Callable[..., Awaitable[JSONResponse]]


def runner_routes(gate: RunnerGate) -> APIRouter:
    """The routes under /api/runner/: with a slash at the end, and without, since no runner follows a redirect."""
    router = new_router("runners", PREFIX, described=False)
    caller = Annotated[Call, Depends(gate.call)]
    _add_project(router, gate, caller)
    _add_executions(router, gate, caller)
    return router


def _route(router: APIRouter, method: str, path: str) -> Callable[[Handler], Handler]:
    def add(handler: Handler) -> Handler:
        for each in (f"{path}/", path):
            router.add_api_route(each, handler, methods=[method], max_body_size=BODY_LIMIT)
        return handler

    return add


def _add_project(router: APIRouter, gate: RunnerGate, caller: Any) -> None:
    runners = gate.runners

    @_route(router, "POST", "/heartbeat")
    async def heartbeat(call: caller, body: Heartbeat) -> JSONResponse:
        """The state of the runner, as the server has it."""

        async def work() -> Mapping[str, Any]:
            versions = RunnerVersions(body.runner_version, body.python_version, body.django_version)
            state = await runners.heartbeat(call.key, versions, body.commands_hash)
            return {
                "ok": True,
                "runner_state": "active" if state.suspended is None else "suspended",
                "suspension_reason": state.suspended,
                "commands_in_sync": state.in_sync,
                "pending_executions": state.pending,
            }

        return await gate.answer(call, work())

    @_route(router, "POST", "/commands/sync")
    async def sync(call: caller, body: Sync) -> JSONResponse:
        """Replace the commands of the project."""
        listed = command_list(ManagementCommand(each.name, each.app_label, each.help_text) for each in body.commands)

        async def work() -> Mapping[str, Any]:
            await runners.sync(call.key, listed)
            return {"ok": True, "synced_count": len(listed.commands), "commands_hash": listed.hash}

        return await gate.answer(call, work())

    @_route(router, "GET", "/pending")
    async def pending(call: caller, wait: Annotated[float, Query(ge=0, le=LONGEST_WAIT)] = 0.0) -> JSONResponse:
        """What waits for a runner. With `wait`, it is answered as soon as there is something, or after so many seconds."""

        async def work() -> Mapping[str, Any]:
            return {"executions": [_pending(each) for each in await runners.pending(call.key, wait)]}

        return await gate.answer(call, work())


def _pending(offer: Pending) -> dict[str, Any]:
    return {
        "id": as_uuid(offer.execution),
        "command": offer.command,
        "args": offer.arguments,
        "timeout": max(1, int(offer.timeout)),
        "use_metadata_only_mode": offer.metadata_only,
    }


def _execution(id: str) -> str:
    """The execution that a path names. Raises Problem."""
    if execution := of_uuid(id):
        return execution
    detail = f"{id[:64]!r} is not the id of an execution."
    raise Problem(404, "execution.unknown", detail, hint="Send the `id` that `pending/` has answered, which is a UUID.")


def _add_executions(router: APIRouter, gate: RunnerGate, caller: Any) -> None:
    runners = gate.runners

    async def done(work: Awaitable[Reply | Decision | None]) -> Mapping[str, Any] | Reply | Decision:
        return await work or OK

    @_route(router, "POST", "/executions/{id}/start")
    async def start(call: caller, id: str) -> JSONResponse:
        """Claim an execution."""
        return await gate.answer(call, done(runners.start(call.key, _execution(id), call.nonce)))

    @_route(router, "POST", "/executions/{id}/output")
    async def output(call: caller, id: str, body: Output) -> JSONResponse:
        """Report a piece of output."""
        text = "".join(segment.content for segment in body.segments)
        chunk = Chunk(body.chunk_number, body.is_stderr, text)
        return await gate.answer(call, done(runners.output(call.key, _execution(id), chunk, call.reply(OK))))

    @_route(router, "POST", "/executions/{id}/complete")
    async def complete(call: caller, id: str, body: Complete) -> JSONResponse:
        """Report how a command ended."""
        end = RunEnd(body.status, body.exit_code)
        return await gate.answer(call, done(runners.complete(call.key, _execution(id), end)))

    @_route(router, "GET", "/executions/{id}/cancel-status")
    async def cancel_status(call: caller, id: str) -> JSONResponse:
        """Whether a command is to be stopped."""

        async def work() -> Mapping[str, Any] | Decision:
            level = await runners.stop_level(call.key, _execution(id))
            if isinstance(level, Decision):
                return level
            return {"cancel_requested": level > StopLevel.RUN, "force_kill": level is StopLevel.KILL}

        return await gate.answer(call, work())


LARGER_BODIES = {f"{PREFIX}/": BODY_LIMIT}
