"""The one gate: limits, parse, policy, audit, recording, executor.

    submit(request) -> Refused | Execution | Waiting

Every front goes through `submit`; an execution that it has queued is started by `resume`. The order of the checks in `Gateway._admit` is the security of the product: read it
from top to bottom.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import field
from functools import partial
from typing import Any, Protocol, TypeVar, cast

from backend.core.audit.attempts import Attempt
from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.errors import GatepostError, StorageError
from backend.core.execution.lifecycle import Lifecycle
from backend.core.execution.model import StopReason
from backend.core.execution.refusals import failed, unavailable
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Request, Waiting
from backend.core.execution.sessions import NOTHING_KEPT
from backend.core.figures import duration_text
from backend.core.identity import Permission, Principal
from backend.core.limits import Budget, RateLimiter, Slots, check_rate, least_left
from backend.core.policy.admit import Plan, admit

T = TypeVar("T")
Started = TypeVar("Started", Execution, Execution | None)

REFUSAL_BOUND = 0.5  # seconds for which the answer to a refused request waits for the audit


class RefusalLog(Protocol):
    """Where refused requests are written."""

    async def refuse(self, attempt: Attempt) -> None:
        """Record a request that was refused before anything ran. Raises StorageError."""
        ...


@dataclass(frozen=True, slots=True)
class Rates:
    """Limits on the rate of commands: of a visitor, by connection and by address, and of an account.

    Commands that are only checked have a rate of their own.
    """

    visitors: RateLimiter
    users: RateLimiter
    checks: RateLimiter

    async def check(self, principal: Principal, *, dry_run: bool = False) -> Decision | None:
        """Count one command; returns the refusal if there were too many."""
        if dry_run:
            return await check_rate(self.checks, _counted(principal), "checks")
        return await check_rate(self._commands(principal), _counted(principal))

    async def left(self, principal: Principal) -> tuple[Budget, Budget]:
        """How many commands and how many checks the principal has left."""
        keys = _counted(principal)
        return await least_left(self._commands(principal), keys), await least_left(self.checks, keys)

    def _commands(self, principal: Principal) -> RateLimiter:
        return self.users if principal.user else self.visitors


def _counted(principal: Principal) -> tuple[str, ...]:
    return (principal.name,) if principal.user else (principal.name, principal.address)


@dataclass(slots=True)
class Gateway:
    """The gate, one per server. `protected` refuses if the kernel cannot confine commands as required."""

    rates: Rates
    slots: Slots
    refusals: RefusalLog
    lifecycle: Lifecycle
    protected: Callable[[], Decision | None]
    starting: set[asyncio.Task[None]] = field(default_factory=set)
    none_starting: asyncio.Event = field(default_factory=asyncio.Event)
    recording: set[asyncio.Future[None]] = field(default_factory=set)
    closing: bool = False

    async def submit(self, request: Request) -> Execution | Waiting | Refused:
        """Judge a request and start it. The caller follows the execution from here on."""
        if not request.execution:
            request = replace(request, execution=self.lifecycle.clock.new_id())
        return await self._answer(self._submit(request))

    async def resume(self, request: Request, plan: Plan) -> Execution | Decision | None:
        """Start an execution that was admitted before and waits. Otherwise it still waits, or None: it does not."""
        return await self._answer(self._resume(request, plan))

    async def _answer(self, start: Coroutine[Any, Any, T]) -> T:
        """Start in a task of its own: a caller that disconnects must not leave a command between its audit and its start."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.none_starting.clear()
        self.starting.add(asyncio.create_task(self._start(start, answer)))
        return await answer

    async def _start(self, start: Coroutine[Any, Any, T], answer: asyncio.Future[T]) -> None:
        """Tell the caller, if there is one by now, then run what was started to its end."""
        try:
            started = await start
        except Exception as error:
            if not answer.done():
                answer.set_exception(error)
            return
        finally:
            self._no_longer_starting()
        if not answer.done():
            answer.set_result(started)
        if isinstance(started, Execution):
            await self.lifecycle.run(started)

    def _no_longer_starting(self) -> None:
        self.starting.discard(cast("asyncio.Task[None]", asyncio.current_task()))
        if not self.starting:
            self.none_starting.set()

    async def _submit(self, request: Request) -> Execution | Waiting | Refused:
        try:
            plan = await self._admit(request)
        except StorageError as error:
            plan = unavailable(error)
        if isinstance(plan, Decision):
            return await self._refuse(request, plan)
        if request.target.waits and request.input:
            return await self._refuse(request, _without_input(), plan)
        if request.target.waits and not request.dry_run:
            return await self._enqueue(request, plan)
        started = await self._in_slot(request.principal, partial(self.lifecycle.start, request, plan))
        return await self._refuse(request, started, plan) if isinstance(started, Decision) else started

    async def _resume(self, request: Request, plan: Plan) -> Execution | Decision | None:
        resume = partial(self.lifecycle.resume, request, plan)
        refusal = self.unavailable() or self.lifecycle.shares.refusal(request.principal)
        return refusal or await self._in_slot(request.principal, resume)

    async def _in_slot(
        self, principal: Principal, start: Callable[[Callable[[], None]], Awaitable[Started]]
    ) -> Started | Decision:
        """Start with a slot, which the end of the execution releases; what was not started needs none."""
        if busy := self.slots.acquire(principal):
            return busy
        started = None
        try:
            started = await start(lambda: self.slots.release(principal))
        except GatepostError as error:
            return unavailable(error)
        finally:
            if started is None:
                self.slots.release(principal)
        return started

    async def _enqueue(self, request: Request, plan: Plan) -> Waiting | Refused:
        try:
            return await self.lifecycle.enqueue(request, plan)
        except StorageError as error:
            return await self._refuse(request, unavailable(error), plan)

    async def explain(self, request: Request) -> Plan | Decision:
        """The verdict on a request. It is counted as a check, and neither run nor recorded."""
        counted = await self.rates.check(request.principal, dry_run=True)
        judged = counted or request.unresolved or _check_timeout(request) or await self._judge(request)
        return self._masked(judged) if isinstance(judged, Decision) else judged

    async def _admit(self, request: Request) -> Plan | Decision:
        """Every check before a command, in the order in which they protect each other."""
        if self.closing:
            return _stopping()
        return (
            await self.rates.check(request.principal, dry_run=request.dry_run)
            or request.unresolved
            or check_role(request.principal)
            or self.protected()
            or self.lifecycle.shares.refusal(request.principal)
            or _check_timeout(request)
            or await self._judge(request)
        )

    def unavailable(self) -> Decision | None:
        """Why no command of any client can run now."""
        return _stopping() if self.closing else self.protected()

    async def _judge(self, request: Request) -> Plan | Decision:
        """Judge the line, in a thread: searching folders and following links can take a while."""
        try:
            if known := request.target.verdicts.find(request.command, request.target, request.cwd, request.kept.state):
                return known
            return await asyncio.to_thread(_judged, request)
        except Exception as error:  # whatever breaks, the attempt is on record
            self.lifecycle.observer.on_crash(request.execution, error)
            return failed()

    def _masked(self, decision: Decision) -> Decision:
        """Mask the secrets in a decision: its reason repeats words of the line."""
        mask = self.lifecycle.mask
        return replace(decision, reason=mask(decision.reason), hint=mask(decision.hint))

    async def _refuse(self, request: Request, decision: Decision, plan: Plan | None = None) -> Refused:
        decision = self._masked(decision)
        self.lifecycle.observer.refused(request, decision)
        attempt = self.lifecycle.attempt(request, decision, plan.argvs if plan else ())
        recording = asyncio.ensure_future(self._record(attempt))
        self.recording.add(recording)
        recording.add_done_callback(self.recording.discard)
        await asyncio.wait({recording}, timeout=REFUSAL_BOUND)
        return Refused(decision, attempt.id)

    async def _record(self, refused: Attempt) -> None:
        try:
            await self.refusals.refuse(refused)
        except StorageError as error:
            self.lifecycle.observer.on_audit_failure(refused.id, error)

    async def close(self) -> None:
        """Stop all executions and wait until they have ended; no new one is admitted."""
        self.closing = True
        if self.starting:
            await self.none_starting.wait()
        await self.lifecycle.registry.stop_all(StopReason.SHUTDOWN)


def _judged(request: Request) -> Plan | Decision:
    """The verdict on a line. A session whose place is no longer there starts again: else nothing could run in it."""
    kept = request.kept
    verdict = request.target.verdicts.judge(request.command, request.target, request.cwd, kept.state)
    if isinstance(verdict, Plan) or kept == NOTHING_KEPT or isinstance(_place(request), Plan):
        return verdict
    request.keep(NOTHING_KEPT)
    reason = f"The folder {kept.folder} or a variable of the session cannot be used any more."
    return Decision.deny("path.session", reason, "It starts again in the folder of the workspace. Repeat the line.")


def _place(request: Request) -> Plan | Decision:
    """The verdict on the place of the session alone."""
    return admit(":", request.target, request.kept.folder, request.kept.state)


def _stopping() -> Decision:
    return Decision.deny("server.stopping", "The server is stopping.", "Connect again in a moment.")


def check_role(principal: Principal) -> Decision | None:
    """Refuse a principal that may not run commands."""
    if principal.may(Permission.EXECUTE):
        return None
    reason = "You may view executions, but not run commands."
    return Decision.deny("role.forbidden", reason, "Ask an administrator for the role or scope to run them.")


def _without_input() -> Decision:
    reason = "Commands of this target have no standard input."
    return Decision.deny("stdin.closed", reason, "Leave out `stdin`.")


def _check_timeout(request: Request) -> Decision | None:
    limits = request.target.limits
    most = limits.longest if request.principal.user else limits.timeout
    if request.timeout is None or request.timeout <= most:
        return None
    return Decision.deny(
        "limits.timeout",
        f"A command may run for at most {duration_text(most)}; {duration_text(request.timeout)} were requested.",
        "Request a shorter timeout, or omit it.",
    )
