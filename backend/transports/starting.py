"""Starts commands for the API, once for each idempotency key."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Protocol

from fastapi import Header

from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.gateway import Execution, Gateway, Refused
from backend.core.execution.model import Request
from backend.core.execution.targets import Target
from backend.core.identity import Principal
from backend.core.ports import Directory, IdempotencyKeys
from backend.transports.problems import Problem

STARTING = (400, 403, 404, 409)  # what starting a command can be answered with, beside what every route can
TRIES, WAIT = 50, 0.1  # looks at a key that another request has just taken, and seconds between them

KEY_HEADER = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        max_length=255,
        min_length=1,
        pattern="^[!-~]+$",
        description="A request that comes again with the same key and body gets the same execution",
    ),
]


@dataclass(frozen=True, slots=True)
class Wish:
    """A command for a project, whose place has yet to be found."""

    principal: Principal
    project: str | None
    command: str
    cwd: str = "."


class Startable(Protocol):
    """The body of a request that starts a command."""

    @property
    def project_id(self) -> str | None: ...

    @property
    def command(self) -> str: ...

    @property
    def working_dir(self) -> str: ...

    @property
    def timeout(self) -> int | None: ...

    @property
    def dry_run(self) -> bool: ...

    @property
    def metadata_only(self) -> bool: ...

    def model_dump_json(self) -> str: ...


async def find_target(gateway: Gateway, directory: Directory, wish: Wish) -> Target | Refused:
    """Where a command is to run. One for a project that is not there is counted and kept like any other attempt.

    Raises StorageError.
    """
    if found := await directory.target(wish.principal, wish.project):
        return found
    own = await directory.target(wish.principal, None)
    if own is None:
        raise StorageError("The place of this account is not there.")
    request = Request(wish.principal, own, wish.command, cwd=wish.cwd)
    unknown = Decision.deny(
        "project.unknown", f"There is no project {wish.project!r} for you.", "See GET /api/projects."
    )
    return await gateway.refuse(request, await gateway.rates.check(wish.principal) or unknown)


@dataclass(frozen=True, slots=True)
class Starter:
    """The one way of the API to the gateway."""

    gateway: Gateway
    keys: IdempotencyKeys
    new_id: Callable[[], str]

    async def start(
        self, directory: Directory, principal: Principal, body: Startable, key: str | None, *, stdin: bool = False
    ) -> Execution | str:
        """Start a command, or find the one that the same key started before: its id. Raises Problem."""
        wish = Wish(principal, body.project_id, body.command, body.working_dir)
        target = await find_target(self.gateway, directory, wish)
        if isinstance(target, Refused):
            raise _problem(target)
        request = Request(
            principal,
            target,
            body.command,
            cwd=body.working_dir,
            timeout=body.timeout,
            dry_run=body.dry_run,
            stdin=stdin,
            detached=True,
            metadata_only=body.metadata_only,
        )
        return await self._start_once(request, key, body.model_dump_json())

    async def _start_once(self, request: Request, key: str | None, body: str) -> Execution | str:
        if key is None:
            return await self._submit(request)
        principal = request.principal.name
        hash = hashlib.sha256(body.encode("utf-8", "surrogatepass")).digest()
        for _ in range(TRIES):
            claim = await self.keys.claim(principal, key, hash, self.new_id())
            if not claim.same_body:
                detail = "This Idempotency-Key was used for another request."
                raise Problem(422, "idempotency.mismatch", detail, hint="Use a new key for a new request.")
            if claim.mine:
                return await self._submit_claimed(replace(request, execution=claim.execution), key)
            if claim.execution:
                return claim.execution
            await asyncio.sleep(WAIT)
        detail = "Another request with this Idempotency-Key has not begun yet."
        raise Problem(409, "idempotency.waiting", detail, hint="Send it again in a moment.", retry_after=1)

    async def _submit_claimed(self, request: Request, key: str) -> Execution:
        try:
            return await self._submit(request)
        except Problem:
            await self.keys.release(request.principal.name, key, request.execution or "")
            raise

    async def _submit(self, request: Request) -> Execution:
        match await self.gateway.submit(request):
            case Execution() as execution:
                return execution
            case Refused() as refused:
                raise _problem(refused)


def _problem(refused: Refused) -> Problem:
    problem = Problem.of(refused.decision, recorded=True)
    problem.extra = {**problem.extra, "command_id": refused.execution}
    return problem
