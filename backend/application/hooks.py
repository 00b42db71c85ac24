"""The use cases of hooks."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from backend.application import owned
from backend.application.executions import ExecutionService
from backend.application.owned import Users
from backend.application.schedules import Judge
from backend.application.submission import CommandSpec, Existing, IdempotencyKey
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.execution.gateway import check_role
from backend.core.execution.model import Status
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import TargetRef
from backend.core.figures import duration_text
from backend.core.hooks.model import Called, Hook, HookCall
from backend.core.hooks.ports import Hooks
from backend.core.hooks.rules import is_signed, line_of, line_refusal, sample, time_refusal, values_of
from backend.core.identity import Principal, User, acting_as
from backend.core.limits import RateLimiter, check_rate
from backend.core.notifications.rules import new_secret
from backend.core.ports import AuditLog

SECRET_BYTES = 32
MOST_SECRETS = 2  # of a hook: its own, and the one before
PER_ACCOUNT = 50
UNKNOWN = "hook.unknown"


@dataclass(frozen=True, slots=True)
class HookService:
    """What clients do with hooks. `audit` masks secrets; an account can have `most`."""

    store: Hooks
    judge: Judge
    audit: AuditLog
    most: int
    now_ms: Callable[[], int]
    new_id: Callable[[], str]
    randomness: Callable[[int], bytes]

    async def add(self, who: Principal, owner: Principal, hook: Hook) -> Hook | Decision:
        """Add a hook of an account, of which only the id, owner, secret and time are still open; `who` asks for it.

        Raises StorageError.
        """
        assert owner.user
        if refusal := await self._refusal(owner, hook):
            return refusal
        secret = new_secret(self.randomness(SECRET_BYTES))
        new = replace(hook, id=self.new_id(), owner_id=owner.user.id, secret=secret, created_ms=self.now_ms())
        if not await self.store.add(new, self.most):
            reason = f"An account can have {self.most} hooks."
            return Decision.deny("hook.too_many", reason, "Delete one that is no longer needed.")
        fields = {"command": new.command, "target": new.target, "working_dir": new.working_dir, "timeout": new.timeout}
        await _record(self.audit, Kind.HOOK_CREATED, who.name, who.address, new, fields)
        return new

    async def _refusal(self, owner: Principal, hook: Hook) -> Decision | None:
        """Why an account cannot have such a hook."""
        if refusal := line_refusal(hook.command, hook.parameters) or check_role(owner):
            return refusal
        values = {name: sample(parameter) for name, parameter in hook.parameters.items()}
        verdict = await self.judge.explain(owner, _spec(hook, values))
        return verdict if isinstance(verdict, Decision) and not verdict.allowed else None

    async def visible_to(self, who: Principal) -> Sequence[Hook]:
        """The hooks of the caller; all for an administrator. Raises StorageError."""
        return await owned.visible_to(who, self.store)

    async def rotate(self, who: Principal, id: str, overlap: int) -> Hook | Decision:
        """Give a hook a new secret; the old one signs calls for so many seconds more. Raises StorageError."""
        found = await owned.find(who, self.store, id, UNKNOWN)
        if isinstance(found, Decision):
            return found
        new = replace(found, secret=new_secret(self.randomness(SECRET_BYTES)))
        if not await self.store.rotate(id, new.secret, self.now_ms() + overlap * 1000):
            return owned.unknown(UNKNOWN, id)
        fields = {"overlap_seconds": overlap}
        await _record(self.audit, Kind.HOOK_ROTATED, who.name, who.address, new, fields)
        return new

    async def delete(self, who: Principal, id: str) -> Hook | Decision:
        """Delete a hook of the caller, or any for an administrator. Raises StorageError."""
        found = await owned.find(who, self.store, id, UNKNOWN)
        if isinstance(found, Decision):
            return found
        if not await self.store.delete(id):
            return owned.unknown(UNKNOWN, id)
        await _record(self.audit, Kind.HOOK_DELETED, who.name, who.address, found, {})
        return found


@dataclass(frozen=True, slots=True)
class HookCalls:
    """What calls do. `calls` counts those of each hook, `failures` those of each address with a wrong signature."""

    store: Hooks
    service: ExecutionService
    users: Users
    audit: AuditLog
    calls: RateLimiter
    failures: RateLimiter
    now_ms: Callable[[], int]
    randomness: Callable[[int], bytes]

    async def call(self, id: str, call: HookCall, address: str) -> Called | Refused:
        """Start the line of a hook, as its owner, once for each id of a call. Raises StorageError."""
        if refusal := time_refusal(call, self.now_ms() / 1000):
            return Refused(refusal)
        hook = await self.store.get(id)
        secrets = hook.secrets(self.now_ms()) if hook else ()
        # One that does not exist, or has no old secret, takes as long as a wrong signature.
        others = [new_secret(self.randomness(SECRET_BYTES)) for _ in range(MOST_SECRETS - len(secrets))]
        signed = is_signed([*secrets, *others], call)
        if hook is None or not signed:
            return Refused(await self._failure(id, address, known=hook is not None))
        if refusal := await check_rate(self.calls, (f"hook:{hook.id}",), "calls of this hook"):
            return Refused(refusal)
        values, owner = values_of(hook, call.body), await self.users.user(hook.owner_id)
        if isinstance(values, Decision) or owner is None:
            return Refused(values if isinstance(values, Decision) else owned.unknown(UNKNOWN, id))
        return await self._start(hook, owner, _spec(hook, values), call, address)

    async def _failure(self, id: str, address: str, *, known: bool) -> Decision:
        """Counted like a wrong token. Those whose signature is right are not kept waiting by others."""
        if wait := await self.failures.hit(f"hook:{address}"):
            reason = f"Too many wrong signatures from this address; wait {duration_text(round(wait + 0.5))}."
            return Decision.deny("auth.limited", reason, retry_after=wait)
        reason, hint = "The signature is not by the secret of this hook.", "Sign webhook-id.webhook-timestamp.body."
        return Decision.deny("hook.signature", reason, hint) if known else owned.unknown(UNKNOWN, id)

    async def _start(
        self, hook: Hook, owner: User, spec: CommandSpec, call: HookCall, address: str
    ) -> Called | Refused:
        who = acting_as(owner, address)
        once = IdempotencyKey(f"hook:{hook.id}:{call.id}", hashlib.sha256(call.body).digest())
        answer = await self.service.submit(who, spec, once)
        fields: dict[str, str | None] = {"webhook_id": call.id}
        match answer:
            case Refused(decision, execution):
                fields |= {"execution": execution or None, "rule": decision.rule}
            case Execution(id=execution) | Waiting(id=execution) | Existing(id=execution):
                fields |= {"execution": execution}
        await _record(self.audit, Kind.HOOK_CALLED, f"hook:{hook.id}", address, hook, fields)
        return answer if isinstance(answer, Refused) else Called(execution, await self._status(who, answer))

    async def _status(self, who: Principal, answer: Execution | Waiting | Existing) -> Status:
        if isinstance(answer, Existing):
            record = await self.service.view(who, answer.id)
            return Status.RUNNING if isinstance(record, Decision) else record.status
        return Status.QUEUED if isinstance(answer, Waiting) else Status.RUNNING


async def _record(
    audit: AuditLog, kind: Kind, actor: str, address: str, hook: Hook, fields: Mapping[str, str | int | None]
) -> None:
    own = {"hook": hook.id, "owner": hook.owner_id, "name": hook.name}
    await audit.record(kind, actor, address, {**own, **fields})


def _spec(hook: Hook, values: Mapping[str, str | int]) -> CommandSpec:
    target = TargetRef.parse(hook.target)
    return CommandSpec(line_of(hook, values), target, cwd=hook.working_dir, timeout=hook.timeout, detached=True)
