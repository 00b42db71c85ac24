"""The wiring of `agent`: the gateway of a server, with the commands of a host as its only target, and Redis as its front."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from backend import __version__
from backend.application.executions import ExecutionService
from backend.application.local_executions import LocalExecutions
from backend.application.submission import Submission
from backend.bus.memory import MemoryBus
from backend.core.dataclasses import dataclass, replace
from backend.core.execution.gateway import Gateway, Rates
from backend.core.execution.lifecycle import Clock, Lifecycle
from backend.core.execution.model import StopReason
from backend.core.execution.sequence import Sequence, StepLog
from backend.core.execution.sessions import Sessions
from backend.core.hosts.envelope import Party
from backend.core.hosts.messages import Command, Dropped, SeenIds, read_command, sign
from backend.core.hosts.registry import HostEntry
from backend.core.identity import Principal
from backend.core.limits import Budget, Rate, Slots, Windows
from backend.core.policy.admit import Scope
from backend.core.quota import Quota
from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from backend.core.recording.retention import RecordingShares, Retention
from backend.core.times import DAY_MS
from backend.executors.local.builtins import Builtins
from backend.executors.local.outside import OutsideProgram, program_folders
from backend.executors.local.pipelines import LocalPipelines
from backend.executors.local.places import BUILTINS
from backend.executors.local.run_as import give_folder
from backend.executors.local.workspace import FolderView, prepare_workspace
from backend.executors.local.workspace_usage import UsageMonitors
from backend.host_agent.builtin import Configured, builtin_handlers
from backend.host_agent.daemon import Daemon
from backend.host_agent.executor import HandlerExecutor
from backend.host_agent.front import Front
from backend.host_agent.handlers import Handler, LineHandler, by_name, handlers_of_file, installed_handlers
from backend.host_agent.jobs import TWIN, Jobs
from backend.host_agent.link import Link
from backend.host_agent.outbox import Outbox
from backend.host_agent.targets import HostTargets, Lines
from backend.policies.loader import load_profile
from backend.runtime.agent_settings import AgentSettings
from backend.runtime.background import heartbeat_often, prune_often, recover_often, retry_often, supervised
from backend.runtime.clock import new_id, utc_now
from backend.runtime.command_line import verb
from backend.runtime.host_secrets import SENSITIVE_PATTERNS, ParameterCipher
from backend.runtime.ledger import Ledger, open_ledger
from backend.runtime.local_executor import output_lines
from backend.runtime.logs import LoggingObserver, configure_logs
from backend.runtime.preflight import Guard, build_guard
from backend.runtime.retention import RecordingRetention
from backend.runtime.settings import Settings, SettingsError, data_exposed
from backend.runtime.stored_jobs import encode_job

RUNNING = 64
AUDITED_DROPS = 60  # a minute; of a flood only the beginning
UNSIGNED = "Commands are not signed: every client of this Redis can run the commands of this host."


class Unlimited:
    """Senders send as often as they like: how many commands run at once, and how many wait, is limited by the front."""

    rate = Rate(1_000_000, 1)

    async def hit(self, key: str) -> float:
        return 0.0

    async def wait(self, key: str) -> float:
        return 0.0

    async def left(self, key: str) -> Budget:
        return Budget(self.rate, self.rate.count, 0.0)


class Untokened:
    """Those who send commands have no tokens, whose end would end what they view."""

    async def is_valid(self, principal: Principal) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Agent:
    """The parts of an agent."""

    settings: Settings
    own: AgentSettings
    stores: Ledger
    guard: Guard
    gateway: Gateway
    service: ExecutionService
    handlers: Mapping[str, Handler]


def run_agent(settings: Settings, own: AgentSettings) -> None:
    """Serve until SIGTERM. Raises SettingsError or HandlersError for what cannot be used."""
    configure_logs(settings.log_level, _masks(settings, own).text)
    asyncio.run(_serve(build_agent(settings, own)))


def secret_of(settings: Settings) -> str | None:
    """The secret that commands of existing backends are signed with."""
    return settings.cockpit_shared_secret.get_secret_value() if settings.cockpit_shared_secret else None


def speaks_dialects(settings: Settings) -> bool:
    """Whether commands of existing backends are accepted."""
    return secret_of(settings) is not None or settings.allow_unsigned_hosts


def check_trust(settings: Settings, own: AgentSettings) -> None:
    """Raises SettingsError where no command could be accepted."""
    if not (own.secret or speaks_dialects(settings)):
        raise SettingsError(
            f"GATEPOST_HOST_SECRET: set it to what `{verb('host enroll NAME')}` prints on your server, or "
            "COCKPIT_SHARED_SECRET to the secret that an existing backend signs with. To accept unsigned commands from "
            "every client of Redis, set GATEPOST_ALLOW_UNSIGNED_HOSTS=true."
        )


def build_agent(settings: Settings, own: AgentSettings) -> Agent:
    """Put the parts together. Raises SettingsError or HandlersError."""
    check_trust(settings, own)
    handlers = find_handlers(settings, own)
    stores, guard = open_ledger(settings), build_guard(settings, rooms=False)
    masks = _masks(settings, own)
    gateway = _gateway(settings, stores, guard, masks)
    targets = _targets(settings, own, handlers, guard, stores.executions, masks)
    service = ExecutionService(
        submission=Submission(gateway, targets, stores.keys, new_id),
        history=stores.history,
        projects=stores.projects,
        tokens=Untokened(),
        queue=stores.ownership,
        local=LocalExecutions(gateway.lifecycle.registry, stores.recordings, stores.history, raw=settings.raw_output),
        bus=MemoryBus(),
        owner=stores.owner,
        folder=stores.folder,
        sessions=Sessions(time.monotonic),
    )
    return Agent(settings, own, stores, guard, gateway, service, handlers)


def _masks(settings: Settings, own: AgentSettings) -> Masks:
    return Masks.of(
        (*settings.masked_values, *own.masked_values),
        (*DEFAULT_PATTERNS, *SENSITIVE_PATTERNS, *settings.masked_patterns),
    )


def find_handlers(settings: Settings, own: AgentSettings) -> dict[str, Handler]:
    """The handlers of this host. Raises HandlersError."""
    folder = _program_folder(settings)
    configured = Configured(own.repositories, own.containers, own.command_timeout, own.docker_timeout, str(folder))
    lines = [LineHandler("run", settings.command_timeout)] if own.run_profile else []
    marked = handlers_of_file(Path(own.handlers)) if own.handlers else []
    return by_name([*builtin_handlers(configured), *lines, *marked, *installed_handlers()])


def _program_folder(settings: Settings) -> Path:
    return settings.data_dir.absolute() / "workspace"


def _gateway(settings: Settings, stores: Ledger, guard: Guard, masks: Masks) -> Gateway:
    return Gateway(
        rates=Rates(Unlimited(), Unlimited(), Unlimited()),
        slots=Slots(RUNNING, RUNNING),
        refusals=stores.executions,
        lifecycle=Lifecycle(
            log=stores.executions,
            queue=stores.ownership,
            encode=encode_job,
            recordings=stores.recordings,
            observer=LoggingObserver(time.monotonic),
            clock=Clock(time.monotonic, utc_now, new_id),
            mask=masks.text,
            # All commands are those of one server or backend, so each may write what there is room for.
            shares=RecordingShares(max(settings.retention_bytes, settings.output_limit)),
        ),
        protected=guard.refusal,
    )


def _targets(
    settings: Settings, own: AgentSettings, handlers: Mapping[str, Handler], guard: Guard, steps: StepLog, masks: Masks
) -> HostTargets:
    pipelines = LocalPipelines(
        guard.launcher,
        {"docker": OutsideProgram((own.docker_command,), readable=program_folders((own.docker_command,)))},
        readable=settings.readable,
        lines=output_lines(settings, masks),
        owner=guard.owner,
    )
    ciphers = [ParameterCipher(secret) for secret in (own.secret, secret_of(settings)) if secret]
    profile = load_profile("host")
    return HostTargets(
        profile.with_extra(sorted(handlers.keys() - profile.programs.keys())),
        HandlerExecutor(handlers, pipelines, partial(_opened, ciphers) if ciphers else None),
        handlers,
        _lines(settings, own, replace(pipelines, outside={}, rooms=guard.rooms), steps, masks),
        settings.output_limit,
    )


def _lines(
    settings: Settings, own: AgentSettings, pipelines: LocalPipelines, steps: StepLog, masks: Masks
) -> Lines | None:
    """Where the command `run` runs lines. Raises SettingsError or ProfileError."""
    if not own.run_profile:
        return None
    profile = load_profile(own.run_profile).without_background()
    folder = own.run_folder or settings.data_dir / "lines"
    if own.run_folder and (exposed := data_exposed(settings.data_dir, [("AGENT_RUN_FOLDER", own.run_folder)])):
        raise SettingsError(exposed)
    quota = Quota(settings.workspace_limit, settings.workspace_files, settings.disk_margin)
    runner = replace(pipelines, monitors=UsageMonitors(quota))
    try:
        prepare_workspace(folder)
        give_folder(folder, pipelines.owner)
    except OSError as error:
        raise SettingsError(f"AGENT_RUN_FOLDER: {folder}: {error.strerror}") from error
    files = FolderView(folder.absolute())
    programs = Builtins(BUILTINS, profile, otherwise=runner)
    return Lines(profile, files, Sequence(Scope(profile, files, False), programs, steps, masks.text, time.monotonic))


def _opened(ciphers: list[ParameterCipher], token: str) -> str:
    """A sensitive parameter that was encrypted with one of the secrets. Raises ValueError."""
    for cipher in ciphers[:-1]:
        with suppress(ValueError):
            return cipher.decrypt(token)
    return ciphers[-1].decrypt(token)


async def _serve(agent: Agent) -> None:
    async with prepared(agent):
        log = structlog.get_logger()
        front = Front(agent.service, agent.handlers, time.monotonic)
        audited = partial(Windows(time.monotonic).acquire, "dropped", AUDITED_DROPS, 60)
        longest = max(handler.timeout for handler in agent.handlers.values())
        daemon = Daemon(front, agent.stores.audit, audited, _reader(agent), finish_for=longest)
        link = _link(agent, front, daemon)
        try:
            link.outbox.load()
        except OSError as error:
            raise SettingsError(f"GATEPOST_DATA_DIR: {link.outbox.path}: {error.strerror}") from error
        if speaks_dialects(agent.settings) and secret_of(agent.settings) is None:
            log.warning("unsigned commands", reason=UNSIGNED)
        log.info("agent started", host=agent.own.host, commands=sorted(agent.handlers))
        await daemon.run(link, _jobs(agent, front, daemon, link), dialects=speaks_dialects(agent.settings))
        log.info("agent stopped", host=agent.own.host)


def _reader(agent: Agent) -> Any:
    host, secret, seen = agent.own.host, secret_of(agent.settings), SeenIds()

    def read(data: bytes) -> Command | Dropped:
        return read_command(data, host, secret, time.time(), seen)

    return read


def _link(agent: Agent, front: Front, daemon: Daemon) -> Link:
    own, secret, begun = agent.own, secret_of(agent.settings), time.time()

    def seal(body: dict[str, Any]) -> Mapping[str, Any]:
        return sign({**body, "host": own.host}, secret, int(time.time())) if secret else body

    def entry() -> HostEntry:
        return HostEntry(
            id=own.host,
            online=not daemon.stopping.is_set(),
            last_heartbeat=time.time(),
            version=__version__,
            capabilities=tuple(sorted(agent.handlers)),
            started_at=begun,
            commands_executed=front.executed,
        )

    def fields() -> dict[str, str]:
        plain = entry().fields()
        return {**plain, "signature": Party(own.host, own.secret).sign_fields(plain)} if own.secret else plain

    link = Link(
        client=redis_client(own.redis_arguments(agent.settings)),
        host=own.host,
        interval=own.heartbeat_interval,
        fields=fields,
        receive=lambda data: daemon.receive(lambda: link, data),
        seal=seal,
        encode=lambda body: json.dumps(body).encode(),
        outbox=_outbox(agent.settings),
        now=lambda: int(time.time()),
        report=lambda report: structlog.get_logger().warning("redis", report=report),
    )
    return link


def _jobs(agent: Agent, front: Front, daemon: Daemon, link: Link) -> Jobs | None:
    """What receives the jobs of an enrolled host."""
    if agent.own.secret is None:
        return None
    return Jobs(
        client=redis_client(agent.own.redis_arguments(agent.settings)),
        party=Party(agent.own.host, agent.own.secret),
        front=front,
        now=time.time,
        nonce=lambda: secrets.token_hex(16),
        record=partial(_dropped, daemon),
        back=link.announce_now,
        report=lambda report: structlog.get_logger().warning("redis", report=report),
    )


def _dropped(daemon: Daemon, message: Dropped) -> None:
    """Record a message that gets no answer. The operator must know of a wrong clock, or of another agent: both have the secret."""
    if message.reason == TWIN:
        hint = "Give each host an id and a secret of its own: enroll it. A copy of a machine must not keep those of the first."
        structlog.get_logger().warning("message dropped", reason=message.reason, hint=hint)
    if message.reason.startswith("it is stale"):
        hint = "Set the clocks of this host and of the server by NTP; `agent --check` compares that of Redis."
        structlog.get_logger().warning("message dropped", reason=message.reason, hint=hint)
    daemon.dropped(message)


def _outbox(settings: Settings) -> Outbox:
    log = structlog.get_logger()
    path = settings.data_dir.absolute() / "answers.jsonl"
    return Outbox(path, time.time, lambda report: log.warning("answers", report=report))


def redis_client(arguments: Mapping[str, Any]) -> Redis:
    """Every exchange is tried once: what calls it tries again, after a pause."""
    alive: dict[str, Any] = {} if "path" in arguments else {"socket_keepalive": True}
    return Redis(connection_pool=ConnectionPool(**arguments, **alive, retry=Retry(NoBackoff(), 0)))


@asynccontextmanager
async def prepared(agent: Agent) -> AsyncIterator[None]:
    """The stores ready for use, with their background jobs; as for a server."""
    folder = _program_folder(agent.settings)
    settings, stores, lifecycle = agent.settings, agent.stores, agent.gateway.lifecycle
    keep = Retention(int(settings.retention_days * DAY_MS), settings.retention_bytes)
    retention = RecordingRetention(
        stores.recordings, stores.history, stores.audit, lifecycle.shares, keep, stores.clock
    )
    work: dict[str, Callable[[], Coroutine[None, None, None]]] = {
        "heartbeat": partial(
            heartbeat_often, stores, lambda lost: lifecycle.registry.stop(lost, StopReason.LEASE_LOST)
        ),
        "retry": partial(retry_often, stores),
        "recover": partial(recover_often, stores),
        "prune": partial(prune_often, settings, stores),
        "recordings": retention.keep,
    }
    try:
        await stores.database.migrate()
        await stores.audit.prepare()
        stores.locks.hold()
        await stores.recovery.run_once()
        folder.mkdir(mode=0o755, exist_ok=True)
        give_folder(folder, agent.guard.owner)
        jobs = [asyncio.create_task(supervised(name, job)) for name, job in work.items()]
        yield
        await agent.gateway.close()
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)
        await stores.write_rest()
    finally:
        await stores.close()
