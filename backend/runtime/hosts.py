"""The wiring of hosts on a server: the Redis of REDIS_URL, the roster, the secrets, the targets."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import field
from typing import TYPE_CHECKING, Any

import structlog

from backend.application.host_targets import HOST, HostTargets
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.errors import StorageError
from backend.core.execution.executor import Executor
from backend.core.execution.targets import ExecutionLimits
from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import Answer, output_text, verify
from backend.core.hosts.ports import HostFigures, LateAnswer
from backend.core.hosts.registry import HostEntry
from backend.core.hosts.roster import Enrolled, Grant, Labels
from backend.core.ids import is_id
from backend.core.limits import Rate, Windows
from backend.core.ports import AuditLog, Projects
from backend.core.recording.lines import LineAssembler
from backend.core.recording.redaction import Masks
from backend.core.recording.transcript import output_of
from backend.executors.host.remote import HostExecutor, HostSecret
from backend.executors.host.streamed import StreamedExecutor
from backend.policies.loader import load_profile
from backend.runtime.host_secrets import SENSITIVE_PATTERNS, ParameterCipher
from backend.runtime.settings import Settings
from backend.storage.host_roster import RosterFile

if TYPE_CHECKING:
    from redis.asyncio import Redis

LATE_SHOWN = 4096  # characters of a late answer that the audit contains
# Of a host: more than it can run at once, but one that is hostile cannot fill the audit.
LATE_RECORDED = Rate(600, 3600)
LATE_AT_ONCE = 1000  # executions that have ended here, and of which output still arrives
UNSIGNED = "Commands for hosts may be unsigned: every client of this Redis can run commands on hosts that accept them."


@dataclass(frozen=True, slots=True)
class Hosts:
    """The hosts of a server. `seal` encrypts a parameter for a host, `joined` listens for answers within its context."""

    targets: HostTargets | None
    figures: HostFigures
    seal: Callable[[str, str], str]
    joined: Callable[[], AbstractAsyncContextManager[None]]
    unsigned: bool

    def goes_on(self, target: str) -> bool:
        """Whether what runs on a target goes on when its server dies, so that another one can take it up."""
        kind, _, id = target.partition(":")
        return kind == HOST and self.targets is not None and id in self.targets.enrolled()

    async def count(self) -> tuple[int, int]:
        """How many hosts are online, and how many are not. Raises StorageError."""
        found = await self.targets.every() if self.targets else []
        online = sum(entry.is_healthy(time.time()) for entry in found)
        return online, len(found) - online

    def mask(self, settings: Settings, masks: Masks) -> Callable[[str], str]:
        """What lines are masked with before they are recorded: where there are hosts, their sensitive parameters too."""
        if self.targets is None:
            return masks.text
        parameters = Masks.of(settings.masked_values, SENSITIVE_PATTERNS).text
        return lambda text: parameters(masks.text(text))


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


def build_hosts(
    settings: Settings,
    server: str,
    limits: ExecutionLimits,
    audit: AuditLog,
    projects: Projects,
    lines: Callable[[], LineAssembler],
    mask: Callable[[str], str],
) -> Hosts:
    """The hosts; none without Redis."""
    if settings.redis_url is None:
        return Hosts(None, HostFigures(), lambda host, text: text, _nothing, unsigned=False)
    from backend.bus.host_streams import RedisHostStreams  # with its library, which other servers do without
    from backend.bus.hosts import RedisHosts

    secret = settings.cockpit_shared_secret.get_secret_value() if settings.cockpit_shared_secret else None
    trust = HostTrust(RosterFile(settings.data_dir.absolute()), secret, settings.allow_unsigned_hosts)
    if trust.unsigned:
        structlog.get_logger().warning("unsigned commands", reason=UNSIGNED)
    figures = HostFigures()
    late = LateAnswers(audit, mask, figures)
    url = settings.redis_url.get_secret_value()
    hosts = RedisHosts(url, time.time, trust.genuine, late.record, trust.checked)
    streams = RedisHostStreams(_client(url, 1), _client(url, 0), server, time.time, _new_nonce, late.stray)

    def executor(entry: HostEntry) -> Executor | None:
        if party := trust.party(entry.id):
            expected = entry.may_return(time.time())
            seal = ParameterCipher(party.secret).seal
            return StreamedExecutor(party, expected, streams, seal, lines, time.time, time.monotonic, figures)
        if not trust.may_speak_to(entry.id):
            return None
        known = HostSecret(secret, ParameterCipher(secret).seal) if secret else None
        return HostExecutor(entry.id, hosts, known, lines, time.time, figures)

    @asynccontextmanager
    async def joined() -> AsyncIterator[None]:
        async with hosts.joined(), streams.joined():
            yield

    targets = HostTargets(
        hosts, load_profile("host"), executor, trust.labels, trust.grants, projects, limits, time.time
    )
    return Hosts(targets, figures, trust.seal, joined, trust.unsigned)


def _new_nonce() -> str:
    return secrets.token_hex(16)


def _client(url: str, retries: int) -> "Redis":
    from redis.asyncio import ConnectionPool, Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from backend.bus.link import connection_arguments

    return Redis(connection_pool=ConnectionPool(**connection_arguments(url), retry=Retry(NoBackoff(), retries)))


@dataclass(frozen=True, slots=True)
class HostTrust:
    """Which hosts this server trusts, and by which secret: enrolled ones by their own, others by the shared one.

    Every method raises StorageError if the roster cannot be read.
    """

    roster: RosterFile
    shared: str | None
    allow_unsigned: bool

    @property
    def unsigned(self) -> bool:
        """Whether commands without a signature are sent."""
        return self.allow_unsigned and self.shared is None

    def party(self, host: str) -> Party | None:
        """An enrolled host, with its secret."""
        found = self.roster.read().enrolled(host)
        return Party(host, found.secret(self.roster.master())) if found else None

    def labels(self) -> Mapping[str, Labels]:
        """The labels of the enrolled hosts."""
        return {host.id: host.labels for host in self.roster.read().hosts.values() if not host.revoked}

    def grants(self) -> Sequence[Grant]:
        """Who may use which hosts."""
        return self.roster.read().grants

    def may_speak_to(self, host: str) -> bool:
        """Whether the dialects of existing agents are spoken with a host: never with one that was enrolled, even before."""
        found: Enrolled | None = self.roster.read().hosts.get(host)
        return found is None and (self.shared is not None or self.allow_unsigned)

    def genuine(self, host: str, body: Mapping[str, Any]) -> bool:
        """Whether an answer of a host is its own. Existing agents do not sign; a signature that is there must be valid."""
        try:
            if not self.may_speak_to(host):
                return False
        except StorageError:  # an answer of a host that may be revoked
            return False
        return self.shared is None or "auth" not in body or not verify(body, host, self.shared, time.time())

    def checked(self, host: str, fields: Mapping[str, str]) -> bool:
        """Whether an entry of the registry is that of its host: those of enrolled hosts are signed."""
        party = self.party(host)
        return party.check_fields(fields) if party else True

    def seal(self, host: str, text: str) -> str:
        """A parameter, encrypted for a host; as it is where there is no secret."""
        party = self.party(host)
        secret = party.secret if party else self.shared
        return ParameterCipher(secret).seal(text) if secret else text


@dataclass(slots=True)
class RunningTasks:
    """Tasks that nothing waits for, kept until they end."""

    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Start one."""
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


@dataclass(frozen=True, slots=True)
class LateAnswers:
    """Records answers whose execution has ended: what ran there must not be lost. `outputs` are those without an end.

    Of each host as many as LATE_RECORDED allows; all are counted.
    """

    audit: AuditLog
    mask: Callable[[str], str]
    figures: HostFigures = field(default_factory=HostFigures)
    recorded: Windows = field(default_factory=lambda: Windows(time.monotonic))
    started: RunningTasks = field(default_factory=RunningTasks)
    outputs: dict[str, str] = field(default_factory=dict)

    def record(self, late: LateAnswer) -> None:
        """Record an answer."""
        self.figures.late += 1
        if self.recorded.acquire(late.host, LATE_RECORDED.count, LATE_RECORDED.seconds):
            self.started.start(self._record(late))

    def stray(self, host: str, message: Envelope) -> None:
        """Record what an enrolled host reports of an execution that has ended here, once that has ended there too."""
        end, execution = message.body.get("end"), message.body.get("execution")
        if message.kind != "output" or not (isinstance(execution, str) and is_id(execution)):
            return
        try:
            text = b"".join(data for _, data in output_of(message.output)).decode("utf-8", "replace")
        except ValueError:  # it is not what is stored in recordings
            text = ""
        output = (self.outputs.pop(execution, "") + text)[:LATE_SHOWN]
        if not isinstance(end, dict):
            self.outputs[execution] = output
            while len(self.outputs) > LATE_AT_ONCE:
                del self.outputs[next(iter(self.outputs))]
        else:
            answer = Answer(execution, end.get("status") == "succeeded", output, str(end.get("error") or ""), 0)
            self.record(LateAnswer(host, answer))

    async def _record(self, late: LateAnswer) -> None:
        answer, host = late.answer, f"host:{late.host}"
        fields = {
            "execution": answer.id,
            "target": host,
            "success": answer.success,
            "output": self.mask(output_text(answer.output))[:LATE_SHOWN],
            "error": self.mask(answer.error)[:LATE_SHOWN],
        }
        with suppress(StorageError):
            await self.audit.record(Kind.ANSWERED_LATE, host, "redis", fields)
        structlog.get_logger().warning("late answer", execution=answer.id, host=late.host, success=answer.success)
