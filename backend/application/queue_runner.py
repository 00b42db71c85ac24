"""Starts the executions that wait, on a server that reaches their targets."""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

from backend.application.owned import Users
from backend.application.submission import TargetResolver
from backend.core.audit.attempts import Completion, Record
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.execution.gateway import Gateway, check_role
from backend.core.execution.model import EXIT_GATEPOST_FAILED, Job, Status
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Request
from backend.core.execution.targets import Target, TargetRef
from backend.core.identity import Principal
from backend.core.policy.admit import Plan, admit
from backend.core.ports import Queue, QueuedExecution

BATCH = 256  # executions that are read at once


class ReachableTargets(TargetResolver, Protocol):
    """Finds targets, and says which of those that wait this server reaches."""

    def reachable(self) -> Collection[TargetRef]:
        """The targets that wait and whose commands this server can run now."""
        ...


@dataclass(frozen=True, slots=True)
class QueueRunner:
    """Starts what waits. `decode` reads a job, and raises ValueError for one that it cannot read."""

    gateway: Gateway
    resolver: ReachableTargets
    queue: Queue
    users: Users
    decode: Callable[[str], Job]

    async def run_once(self) -> int:
        """Claim and start what waits for this server; returns how many. Raises StorageError.

        What cannot be started now, because all slots are in use or the server stops, still waits.
        """
        targets = frozenset(map(str, self.resolver.reachable()))
        if not targets:
            return 0
        started = [await self.start(each) for each in await self.queue.queued(targets, BATCH)]
        return sum(isinstance(each, Execution) for each in started)

    async def start(self, waiting: QueuedExecution) -> Execution | Decision | None:
        """Claim and start one execution. None if it has ended, or does not wait any more. Raises StorageError."""
        record = waiting.record
        if not waiting.job:
            return await self._take_up(record)
        try:
            job = self.decode(waiting.job)
        except ValueError:
            await self._end(record, Status.FAILED, EXIT_GATEPOST_FAILED, "Its job cannot be read.")
            return None
        who = await self._principal(record, job.actor.address)
        # The account may have been disabled, or the target closed to it, while the execution waited.
        target = check_role(who) or await self.resolver.resolve(who, TargetRef.parse(record.target))
        if isinstance(target, Decision):
            await self._end(record, Status.DENIED, None, target.reason)
            return None
        return await self.gateway.resume(_request(record, job, who, target), job.plan)

    async def _take_up(self, record: Record) -> Execution | Decision | None:
        """Follow an execution that went on when its server died or ended. It is not started again."""
        who = await self._principal(record, "")
        target = check_role(who) or await self.resolver.resolve(who, TargetRef.parse(record.target))
        plan = target if isinstance(target, Decision) else await self._plan(record, target)
        if isinstance(target, Decision) or isinstance(plan, Decision):
            await self._end(record, Status.LOST, None, "It cannot be taken up any more.")
            return None
        request = Request(
            who,
            target,
            record.command,
            cwd=record.working_dir,
            detached=True,
            metadata_only=record.metadata_only,
            execution=record.id,
            resumed=True,
        )
        return await self.gateway.resume(request, plan)

    async def _plan(self, record: Record, target: Target) -> Plan | Decision:
        return await asyncio.to_thread(admit, record.command, target, record.working_dir)

    async def _principal(self, record: Record, address: str) -> Principal:
        if record.user_id is None:
            return Principal(record.principal, address)
        user = await self.users.user(record.user_id)
        permissions = user.role.permissions if user and not user.disabled else frozenset()
        return Principal(record.principal, address, permissions, user)

    async def _end(self, record: Record, status: Status, exit_code: int | None, reason: str) -> None:
        """End an execution that waits, since it cannot be started."""
        await self.queue.cancel_queued(record.id, Completion(status, exit_code, 0, reason=reason))


def _request(record: Record, job: Job, who: Principal, target: Target) -> Request:
    """The request as it was submitted, but detached: its client may be gone."""
    return Request(
        who,
        target,
        job.line,
        cwd=record.working_dir,
        timeout=job.timeout,
        stdin=job.stdin,
        detached=True,
        metadata_only=record.metadata_only,
        client_ref=job.client_ref,
        execution=record.id,
        schedule=record.schedule_id,
    )
