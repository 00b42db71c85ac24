"""Starts a command: finds its target, and starts it once for each idempotency key."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.gateway import Gateway
from backend.core.execution.refusals import unavailable
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Request, Waiting
from backend.core.execution.sessions import NOTHING_KEPT, Session
from backend.core.execution.targets import OWN, Target, TargetRef, addressed
from backend.core.identity import Principal
from backend.core.limits import Budget
from backend.core.policy.admit import Plan
from backend.core.ports import IdempotencyKeys

TRIES, WAIT = 50, 0.1  # reads of a key that another request has just claimed, and seconds between them


@dataclass(frozen=True, slots=True)
class CommandSpec:
    """A command as a client asks for it; see `Request` for the fields. An `execution` is the id that it is to have."""

    command: str
    target: TargetRef = OWN
    cwd: str = "."
    timeout: float | None = None
    dry_run: bool = False
    stdin: bool = False
    detached: bool = False
    metadata_only: bool = False
    client_ref: str | None = None
    input: bytes = b""
    session: Session | None = None
    schedule: str | None = None
    execution: str = ""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A client's name for one request, with the SHA-256 of what it asks for."""

    key: str
    body_hash: bytes


@dataclass(frozen=True, slots=True)
class Existing:
    """The execution that an earlier request with the same key started."""

    id: str


class TargetResolver(Protocol):
    """Finds targets by their names."""

    async def resolve(self, who: Principal, ref: TargetRef) -> Target | Decision:
        """The target, or why it does not exist for the caller. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Submission:
    """The one way to the gateway."""

    gateway: Gateway
    resolver: TargetResolver
    keys: IdempotencyKeys
    new_id: Callable[[], str]

    async def submit(
        self, who: Principal, spec: CommandSpec, once: IdempotencyKey | None
    ) -> Execution | Waiting | Existing | Refused:
        """Start a command, or find the execution that the same key started before."""
        try:
            request = await self._request(who, spec)
            if isinstance(request, Decision):
                return Refused(request)
            return await (self._once(request, once) if once else self.gateway.submit(request))
        except StorageError as error:
            return Refused(unavailable(error))

    async def explain(self, who: Principal, spec: CommandSpec) -> Plan | Decision:
        """The verdict on a command. Nothing runs. Raises StorageError."""
        request = await self._request(who, spec)
        return request if isinstance(request, Decision) else await self.gateway.explain(request)

    async def left(self, who: Principal) -> tuple[Budget, Budget]:
        """How many commands and how many checks the caller has left. Raises StorageError."""
        return await self.gateway.rates.left(who)

    async def _request(self, who: Principal, spec: CommandSpec) -> Request | Decision:
        """The request with its target. One for a target that does not exist is counted and recorded like any other.

        A caller that has no target at all, because its profile does not exist, is refused before there is a request.
        """
        line, ref = addressed(spec.command, spec.target)
        found = await self.resolver.resolve(who, ref)
        target = found if isinstance(found, Target) else await self.resolver.resolve(who, OWN)
        if isinstance(target, Decision):
            return target
        kept = spec.session.at(who.name, str(target.ref)) if spec.session else NOTHING_KEPT
        is_placed = spec.cwd != "."
        return Request(
            who,
            target,
            line,
            cwd=spec.cwd if is_placed else kept.folder,
            is_placed=is_placed,
            timeout=spec.timeout,
            dry_run=spec.dry_run,
            stdin=spec.stdin,
            detached=spec.detached,
            metadata_only=spec.metadata_only,
            client_ref=spec.client_ref,
            schedule=spec.schedule,
            unresolved=found if isinstance(found, Decision) else None,
            input=spec.input,
            session=spec.session,
            execution=spec.execution or self.new_id(),
        )

    async def _once(self, request: Request, once: IdempotencyKey) -> Execution | Waiting | Existing | Refused:
        principal = request.principal.name
        for _ in range(TRIES):
            claim = await self.keys.claim(principal, once.key, once.body_hash, self.new_id())
            if not claim.same_body:
                reason = "This Idempotency-Key was used for another request."
                return Refused(Decision.deny("idempotency.mismatch", reason, "Use a new key for a new request."))
            if claim.mine:
                return await self._submit_claimed(replace(request, execution=claim.execution), once.key)
            if claim.execution:
                return Existing(claim.execution)
            await asyncio.sleep(WAIT)
        reason = "Another request with this Idempotency-Key has not started yet."
        return Refused(Decision.deny("idempotency.waiting", reason, "Send it again in a moment.", retry_after=1))

    async def _submit_claimed(self, request: Request, key: str) -> Execution | Waiting | Refused:
        answer = await self.gateway.submit(request)
        if isinstance(answer, Refused):
            await self.keys.release(request.principal.name, key, request.execution)
        return answer
