"""Starts commands for the API, once for each idempotency key."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

from fastapi import Header

from backend.core.executions import Request
from backend.core.gateway import Execution, Gateway, Refused
from backend.core.stores import Idempotency
from backend.transports.problems import Problem

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
class Starter:
    """The one way of the API to the gateway."""

    gateway: Gateway
    keys: Idempotency
    new_id: Callable[[], str]

    async def start(self, request: Request, key: str | None, body: str) -> Execution | str:
        """Start a command, or find the one that the same key started before: its id. Raises Problem."""
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
        raise Problem(409, "idempotency.waiting", detail, retry_after=1)

    async def _submit_claimed(self, request: Request, key: str) -> Execution:
        try:
            return await self._submit(request)
        except Problem:
            await self.keys.release(request.principal.name, key)
            raise

    async def _submit(self, request: Request) -> Execution:
        match await self.gateway.submit(request):
            case Execution() as execution:
                return execution
            case Refused(decision=decision, execution=id):
                problem = Problem.of(decision, recorded=True)
                problem.extra = {**problem.extra, "command_id": id}
                raise problem
