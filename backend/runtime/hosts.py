"""The wiring of hosts on a server: the Redis of REDIS_URL, the secrets, the targets."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from backend.application.host_targets import HostTargets
from backend.bus.hosts import RedisHosts
from backend.core.audit.events import Kind
from backend.core.errors import StorageError
from backend.core.execution.executor import Executor
from backend.core.execution.targets import ExecutionLimits
from backend.core.hosts.messages import output_text, verify
from backend.core.hosts.ports import LateAnswer
from backend.core.ports import AuditLog
from backend.core.recording.lines import LineAssembler
from backend.executors.host.remote import HostExecutor, HostSecret
from backend.policies.loader import load_profile
from backend.runtime.host_secrets import ParameterCipher
from backend.runtime.settings import Settings

LATE_SHOWN = 4096  # characters of a late answer that the audit contains
UNSIGNED = "Commands for hosts are not signed: every client of this Redis can run commands on every host."


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts of a server. `seal` encrypts a parameter for a host, `joined` listens for answers within its context."""

    targets: HostTargets | None
    seal: Callable[[str, str], str]
    joined: Callable[[], AbstractAsyncContextManager[None]]
    unsigned: bool


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


def build_hosts(
    settings: Settings,
    limits: ExecutionLimits,
    audit: AuditLog,
    lines: Callable[[], LineAssembler],
    mask: Callable[[str], str],
) -> Hosts:
    """The hosts; none without Redis, or without a secret while unsigned commands are not allowed."""
    secret = settings.cockpit_shared_secret.get_secret_value() if settings.cockpit_shared_secret else None
    if settings.redis_url is None or not (secret or settings.allow_unsigned_hosts):
        return Hosts(None, lambda host, text: text, _nothing, unsigned=False)
    if secret is None:
        structlog.get_logger().warning("unsigned commands", reason=UNSIGNED)
    late = Started()

    def genuine(host: str, body: Mapping[str, Any]) -> bool:
        """Agents of earlier products do not sign their answers; a signature that is there must be valid."""
        return secret is None or "auth" not in body or not verify(body, host, secret, time.time())

    hosts = RedisHosts(
        settings.redis_url.get_secret_value(),
        time.time,
        genuine,
        lambda answer: late.start(_record_late(audit, mask, answer)),
    )
    known = HostSecret(secret, ParameterCipher(secret).seal) if secret else None

    async def executor(host: str) -> Executor:
        return HostExecutor(host, hosts, known, lines, time.time)

    targets = HostTargets(hosts, load_profile("host"), executor, limits, time.time)
    return Hosts(targets, lambda host, text: known.seal(text) if known else text, hosts.joined, unsigned=secret is None)


@dataclass(slots=True)
class Started:
    """Tasks that nothing waits for, kept until they end."""

    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Start one."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


async def _record_late(audit: AuditLog, mask: Callable[[str], str], late: LateAnswer) -> None:
    """Record an answer whose execution has ended: what ran there must not be lost."""
    answer, host = late.answer, f"host:{late.host}"
    fields = {
        "execution": answer.id,
        "target": host,
        "success": answer.success,
        "output": mask(output_text(answer.output))[:LATE_SHOWN],
        "error": mask(answer.error)[:LATE_SHOWN],
    }
    with suppress(StorageError):
        await audit.record(Kind.ANSWERED_LATE, host, "redis", fields)
    structlog.get_logger().warning("late answer", execution=answer.id, host=late.host, success=answer.success)
