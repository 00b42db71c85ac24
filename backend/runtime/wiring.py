"""The wiring: `create_app(settings)` puts the parts together, `app` is the application of the environment's settings."""

import math
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI, Request
from limits.aio.storage import Storage
from prometheus_client import generate_latest
from pydantic import TypeAdapter
from slowapi import Limiter

from backend import __version__
from backend.accounts.authentication import Authenticator
from backend.accounts.credentials import Tokens, new_runner_key, secret_hash
from backend.accounts.shared_holders import SharedHolders
from backend.application.background import Background
from backend.application.django_targets import DjangoTargets
from backend.application.executions import ExecutionService
from backend.application.hooks import PER_ACCOUNT, HookCalls, HookService
from backend.application.host_targets import HostTargets
from backend.application.local_executions import LocalExecutions
from backend.application.notifications import StoredSubjects
from backend.application.queue_runner import QueueRunner
from backend.application.runner_keys import KeyAdministration
from backend.application.runners import Runners, is_django
from backend.application.schedule_runner import ScheduleRunner
from backend.application.schedules import Bounds, ScheduleService
from backend.application.submission import Submission
from backend.application.target_resolver import LocalPlaces, TargetResolver
from backend.bus.memory import MemoryBus
from backend.core.dataclasses import dataclass, replace
from backend.core.errors import StorageError
from backend.core.execution.bus import ExecutionBus
from backend.core.execution.gateway import Gateway, Rates
from backend.core.execution.lifecycle import Clock, Lifecycle
from backend.core.execution.model import Job
from backend.core.execution.sessions import Sessions
from backend.core.execution.targets import ExecutionLimits
from backend.core.identity import Principal
from backend.core.limits import Rate, RateLimiter, Slots, share_of_accounts
from backend.core.policy.profile import Profile, ProfileError
from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from backend.core.recording.retention import SHARE, RecordingShares, Retention
from backend.core.times import DAY_MS
from backend.policies.loader import check_folder, load_profile
from backend.runtime.clock import new_id, now_ms, utc_now
from backend.runtime.command_line import verb
from backend.runtime.egress import egress_proxies
from backend.runtime.hosts import Hosts, build_hosts
from backend.runtime.lifespan import Server, lifespan
from backend.runtime.local_executor import local_places, output_lines, visitors_files
from backend.runtime.logs import configure_logs
from backend.runtime.masking import MaskedAuditLog
from backend.runtime.notifications import build_notifications, build_notifier, build_senders
from backend.runtime.persistence import Stores, open_stores
from backend.runtime.preflight import EntryCheck, Guard, build_guard
from backend.runtime.programs import OutsidePrograms, outside_programs
from backend.runtime.retention import RecordingRetention
from backend.runtime.runners import Django, build_django
from backend.runtime.schedules import schedule_runner
from backend.runtime.settings import Settings, SettingsError, load_settings
from backend.runtime.telemetry import HostCollector, Telemetry
from backend.runtime.tokens import access_tokens, name_digest
from backend.storage.limiter import PAGE_WINDOWS, MovingWindow, is_reachable, moving_window, shared_storage
from backend.transports.agent_api import Agents, Capabilities, agent_routes
from backend.transports.dependencies import Access
from backend.transports.django_api import DjangoService, django_routes
from backend.transports.executions_api import Executions, execution_routes
from backend.transports.health import HealthChecks, health_routes
from backend.transports.hooks_api import BODY_LIMITS, HookRoutes, hook_routes
from backend.transports.hooks_api import PREFIX as HOOKS
from backend.transports.hosts_api import HostService, host_routes
from backend.transports.large_bodies import LargeBodies
from backend.transports.login_api import Login, login_routes
from backend.transports.notifications_api import NotificationRoutes, notification_routes
from backend.transports.openapi import describe
from backend.transports.page_files import PageFiles
from backend.transports.pages import ForeignPages, Visitors, add_page_files, page_routes
from backend.transports.problems import add_problems
from backend.transports.projects_api import ProjectService, project_routes
from backend.transports.recordings_api import recording_routes
from backend.transports.routing import add_routes
from backend.transports.runner_api import LARGER_BODIES, RunnerGate, runner_routes
from backend.transports.runner_api import PREFIX as RUNNERS
from backend.transports.schedules_api import ScheduleRoutes, schedule_routes
from backend.transports.security import Connections, Rejections, Security
from backend.transports.terminal_socket import ServiceInfo, TerminalSocket

NAME = "Gatepost"
JOB: TypeAdapter[Job] = TypeAdapter(Job)
PAGE_FOLDER = Path(__file__).parents[2] / "frontend"
BODY_LIMIT = 256 * 1024  # bytes
TOKEN_FAILURES = Rate(10, 60)
LOGIN_ATTEMPTS = Rate(10, 300)
LOGIN_ATTEMPTS_ON_NAME = Rate(100, 300)  # many enough that other clients do not easily lock a user out
AUDITED_REJECTIONS = Rate(60, 60)


@dataclass(frozen=True, slots=True)
class House:
    """The parts that the fronts use."""

    settings: Settings
    stores: Stores
    guard: Guard
    telemetry: Telemetry
    counters: Storage | None
    resolver: TargetResolver
    gateway: Gateway
    service: ExecutionService
    hosts: Hosts
    schedule_runner: ScheduleRunner
    django: Django
    queue_runner: QueueRunner
    runners: Runners
    background: Background

    def leave(self, visitor: Principal) -> None:
        """The connection of a visitor has ended."""
        self.resolver.leave(visitor)
        self.background.leave(visitor)

    def window(self, rate: Rate, name: str) -> RateLimiter:
        """A limit, shared by all servers if Redis is configured."""
        return moving_window(rate, name, self.counters)


def create_app(settings: Settings, *, greets: bool = True) -> FastAPI:
    """The application, which says on standard error where it is reached if it `greets`. Raises SettingsError or ProfileError for settings that cannot be used."""
    programs = outside_programs(settings)
    masks = Masks.of((*settings.masked_values, *programs.secrets), (*DEFAULT_PATTERNS, *settings.masked_patterns))
    configure_logs(settings.log_level, masks.text)
    house = _build(settings, programs, masks)
    tokens = access_tokens(settings)
    security = _security(house, tokens)
    app = FastAPI(
        title=NAME,
        version=__version__,
        lifespan=lifespan(_server(house), greets=greets),
        docs_url=None,
        redoc_url=None,
        max_body_size=BODY_LIMIT,
    )
    audit = MaskedAuditLog(house.stores.audit, masks.text)
    access = Access(
        security=security,
        audit=audit,
        requests=house.window(Rate.parse(settings.api_rate), "api"),
        rejections=Rejections(audit, MovingWindow(AUDITED_REJECTIONS)),
        mask=masks.text,
    )
    info = _service_info(house.telemetry)
    limiter, files = _limiter(app, security), PageFiles(PAGE_FOLDER)
    add_problems(app, access.rejected, LARGER_BODIES | BODY_LIMITS)
    account_of = partial(_account_of_runner, house, security)
    app.add_middleware(LargeBodies, access=access, runners=RUNNERS, account_of=account_of, signed=HOOKS)
    _add_routes(app, house, access, info, limiter, files)
    add_routes(app, login_routes(access, _login(house, tokens), limiter, settings.http_rate))
    describe(app)
    app.add_middleware(ForeignPages, origins=settings.allowed_origins)
    add_page_files(app, files)
    app.add_middleware(
        TerminalSocket,
        executions=house.service,
        security=security,
        rejections=access.rejections,
        info=info,
        left=house.leave,
    )
    return app


async def _account_of_runner(house: House, security: Security, request: Request) -> str | None:
    """The owner of the project of a runner, None without a valid key. Raises StorageError."""
    secret = security.bearer(request.scope)
    key = await house.stores.runners.key_by_secret(secret_hash(secret)) if secret else None
    project = await house.stores.projects.get(key.project) if key and key.is_valid(now_ms()) else None
    return project.owner_id if project else None


def _build(settings: Settings, programs: OutsidePrograms, masks: Masks) -> House:
    stores = open_stores(settings)
    telemetry = Telemetry(time.monotonic)
    counters = shared_storage(settings.redis_url.get_secret_value()) if settings.redis_url else None
    guard = build_guard(settings)
    guard.rooms.proxies = egress_proxies(settings, MaskedAuditLog(stores.audit, masks.text))

    if settings.profiles:
        check_folder(settings.profiles)

    def profile(name: str) -> Profile:
        loaded = load_profile(name, settings.profiles).without(programs.missing)
        return loaded.in_rooms() if guard.protection.meets("L3") else loaded

    limits = _execution_limits(settings)
    hosts = build_hosts(
        settings, stores.owner, limits, stores.audit, stores.projects, output_lines(settings, masks), masks.text
    )
    stores = replace(
        stores, recovery=replace(stores.recovery, goes_on=lambda target: hosts.goes_on(target) or is_django(target))
    )
    django = build_django(stores, limits, output_lines(settings, masks))
    places = local_places(settings, guard, masks, stores, programs, background := Background())
    resolver = _resolver(settings, stores, guard, places, profile, hosts.targets, django.targets)
    mask = hosts.mask(settings, masks)
    gateway = _gateway(settings, stores, telemetry, counters, guard, mask, django.wakeups.wake)
    service = background.service = _service(settings, stores, gateway, resolver)
    queue_runner = QueueRunner(gateway, resolver, stores.ownership, stores.identities, JOB.validate_json)
    runner = schedule_runner(stores, gateway, service)
    return House(
        settings,
        stores,
        guard,
        telemetry,
        counters,
        resolver,
        gateway,
        service,
        hosts,
        runner,
        django,
        queue_runner,
        django.runners(stores, queue_runner, MaskedAuditLog(stores.audit, masks.text), masks.text),
        background,
    )


def _resolver(
    settings: Settings,
    stores: Stores,
    guard: Guard,
    places: LocalPlaces,
    profile: Callable[[str], Profile],
    hosts: HostTargets | None,
    django: DjangoTargets,
) -> TargetResolver:
    return TargetResolver(
        visitors_profile=profile(settings.profile),
        visitors_files=visitors_files(settings, guard),
        projects=stores.projects,
        places=places,
        limits=_execution_limits(settings),
        load_profile=profile,
        hosts=hosts,
        holds_hosts=guard.rooms.make is not None,
        django=django,
    )


def _execution_limits(settings: Settings) -> ExecutionLimits:
    longest = max(settings.command_timeout, settings.longest_timeout)
    return ExecutionLimits(settings.command_timeout, longest, settings.output_limit, settings.detach_grace)


def _gateway(
    settings: Settings,
    stores: Stores,
    telemetry: Telemetry,
    counters: Storage | None,
    guard: Guard,
    mask: Callable[[str], str],
    enqueued: Callable[[str], None],
) -> Gateway:
    return Gateway(
        rates=Rates(
            moving_window(Rate.parse(settings.command_rate), "commands", counters),
            moving_window(Rate.parse(settings.user_rate), "user-commands", counters),
            moving_window(Rate.parse(settings.check_rate), "checks", counters),
        ),
        slots=Slots(
            settings.concurrent_per_principal,
            settings.concurrent_total,
            share_of_accounts(settings.concurrent_total, settings.accounts_share),
        ),
        refusals=stores.executions,
        lifecycle=Lifecycle(
            log=stores.executions,
            queue=stores.ownership,
            encode=lambda job: JOB.dump_json(job).decode(),
            recordings=stores.recordings,
            observer=telemetry,
            clock=Clock(time.monotonic, utc_now, new_id),
            mask=mask,
            enqueued=enqueued,
            # Every command may write what the limit of output permits, however little is stored.
            shares=RecordingShares(max(settings.retention_bytes // SHARE, settings.output_limit)),
        ),
        protected=guard.refusal,
    )


def _service(settings: Settings, stores: Stores, gateway: Gateway, resolver: TargetResolver) -> ExecutionService:
    return ExecutionService(
        submission=Submission(gateway, resolver, stores.keys, new_id),
        history=stores.history,
        projects=stores.projects,
        tokens=_open_sockets_check(settings, stores),
        queue=stores.ownership,
        local=LocalExecutions(gateway.lifecycle.registry, stores.recordings, stores.history, raw=settings.raw_output),
        bus=_bus(settings),
        owner=stores.owner,
        folder=stores.folder,
        sessions=Sessions(time.monotonic),
    )


def _open_sockets_check(settings: Settings, stores: Stores) -> Authenticator:
    """Judges the tokens of sockets that are open, of which an account may have many."""
    holders = SharedHolders(stores.identities, time.monotonic)
    return Authenticator(holders, access_tokens(settings), now_ms, time.monotonic)


def _bus(settings: Settings) -> ExecutionBus:
    if settings.redis_url is None:
        return MemoryBus()
    from backend.bus.redis import RedisBus  # with its library, which other servers do without

    log = structlog.get_logger()
    return RedisBus(settings.redis_url.get_secret_value(), lambda report: log.warning("bus", report=report))


def _server(house: House) -> Server:
    return Server(
        house.settings,
        house.stores,
        house.guard,
        house.gateway,
        house.service,
        house.queue_runner,
        house.schedule_runner,
        build_notifier(house.stores, house.service, build_senders(house.settings)),
        _retention(house),
        house.hosts,
        house.runners,
    )


def _retention(house: House) -> RecordingRetention:
    settings, stores = house.settings, house.stores
    retention = Retention(int(settings.retention_days * DAY_MS), settings.retention_bytes)
    shares = house.gateway.lifecycle.shares
    return RecordingRetention(stores.recordings, stores.history, stores.audit, shares, retention, stores.clock)


def _security(house: House, tokens: Tokens) -> Security:
    settings = house.settings
    return Security(
        connections=Connections(
            settings.connections_per_address,
            settings.connections_total,
            share_of_accounts(settings.connections_total, settings.accounts_share),
        ),
        allowed_origins=settings.allowed_origins,
        trusted_hops=settings.trusted_proxy_hops,
        visitors=settings.visitors,
        visitor_token=settings.token,
        authenticator=Authenticator(house.stores.identities, tokens, now_ms, time.monotonic),
        token_failures=house.window(TOKEN_FAILURES, "tokens"),
        new_id=new_id,
        visitor_idle=settings.visitor_idle,
        host_names=_names_of_machine() | set(settings.host_names),
    )


def _names_of_machine() -> frozenset[str]:
    """Its names in a local network, which no name server of an attacker answers for."""
    name = socket.gethostname().lower()
    short = name.partition(".")[0]
    return frozenset({name, short, f"{short}.local"})


def _limiter(app: FastAPI, security: Security) -> Limiter:
    """The limits of addresses."""
    app.state.limiter = Limiter(
        key_func=lambda request: security.address(request.scope),
        strategy="moving-window",
        headers_enabled=True,
        storage_uri=PAGE_WINDOWS,
    )
    limiter: Limiter = app.state.limiter
    return limiter


def _add_routes(
    app: FastAPI, house: House, access: Access, info: ServiceInfo, limiter: Limiter, files: PageFiles
) -> None:
    service, stores, rate = house.service, house.stores, house.settings.http_rate
    profiles, add_command = house.resolver, verb("user add NAME")
    projects = ProjectService(
        access, stores.projects, stores.identities, profiles, add_command, house.settings.egress, profiles.holds_hosts
    )
    hosts = HostService(access, service, house.hosts.targets, house.hosts.seal, house.gateway.slots.per_principal)
    add_routes(
        app,
        runner_routes(_runner_gate(house, access)),  # first: polls are most of all requests
        health_routes(_health(house, access.security.connections)),
        page_routes(info, _visitors(house.settings), limiter, rate, files),
        recording_routes(access, service, limiter, rate),
        agent_routes(Agents(access, _capabilities(house), service, stores.history, now_ms)),
        execution_routes(Executions(access, service), limiter, rate),
        project_routes(projects),
        schedule_routes(_schedules(house, access)),
        notification_routes(_notifications(house, access)),
        hook_routes(_hooks(house, access)),
        django_routes(_django_service(house, access, projects)),
        host_routes(hosts),
    )


def _schedules(house: House, access: Access) -> ScheduleRoutes:
    settings, stores = house.settings, house.stores
    service = ScheduleService(
        store=stores.schedules,
        judge=house.service,
        users=stores.identities,
        start=house.schedule_runner.start_ready,
        audit=access.audit,
        bounds=Bounds(settings.schedules_per_account, settings.schedule_interval),
        now_ms=now_ms,
        new_id=new_id,
    )
    return ScheduleRoutes(access, service, stores.identities, now_ms)


def _notifications(house: House, access: Access) -> NotificationRoutes:
    stores = house.stores
    subjects = StoredSubjects(stores.history, stores.projects, stores.schedules)
    service = build_notifications(stores.notifications, subjects, access.audit, house.settings)
    return NotificationRoutes(access, service, stores.identities)


def _hooks(house: House, access: Access) -> HookRoutes:
    store, users = house.stores.hooks, house.stores.identities
    service = HookService(store, house.service, access.audit, PER_ACCOUNT, now_ms, new_id, secrets.token_bytes)
    calls = HookCalls(
        store=store,
        service=house.service,
        users=users,
        audit=access.audit,
        calls=access.requests,
        failures=access.security.token_failures,
        now_ms=now_ms,
        randomness=secrets.token_bytes,
    )
    return HookRoutes(access, service, calls, users)


def _django_service(house: House, access: Access, projects: ProjectService) -> DjangoService:
    runners = house.stores.runners
    keys = KeyAdministration(runners, access.audit, lambda: new_runner_key(secrets.token_bytes), secret_hash, now_ms)
    return DjangoService(access, house.django.targets, runners, keys, projects)


def _runner_gate(house: House, access: Access) -> RunnerGate:
    return RunnerGate(access, house.runners, secret_hash, access.security.token_failures, time.time)


def _visitors(settings: Settings) -> Visitors:
    if not settings.visitors:
        return "refused"
    return "token" if settings.token else "admitted"


def _login(house: House, tokens: Tokens) -> Login:
    return Login(
        accounts=house.stores.identities,
        tokens=tokens,
        passwords=house.stores.passwords,
        secret_hash=secret_hash,
        name_digest=name_digest(house.settings),
        attempts=house.window(LOGIN_ATTEMPTS, "logins"),
        attempts_on_name=house.window(LOGIN_ATTEMPTS_ON_NAME, "login-names"),
        link_command=verb("user link NAME"),
    )


def _health(house: House, connections: Connections) -> HealthChecks:
    settings, stores, guard = house.settings, house.stores, house.guard
    ready: dict[str, Callable[[], Awaitable[bool]]] = {
        "database": stores.database.check,
        "workspace": EntryCheck(guard.launcher, str(house.resolver.visitors_files.root)),
    }
    if house.counters:
        ready |= {"redis": partial(is_reachable, house.counters), "bus": house.service.bus.check}
    return HealthChecks(
        api_key_configured=settings.anthropic_api_key is not None,
        connections=connections,
        checks={"recordings": stores.recordings.writable},
        stores=ready,
        protection={
            **guard.protection.as_json(),
            "minimum": guard.launcher.minimum,
            "command": verb("protection"),
        },
        protected=guard.unprotected() is None,
        warnings=("unsigned_hosts",) if house.hosts.unsigned else (),
        metrics=_metrics(house) if settings.metrics else None,
    )


def _metrics(house: House) -> Callable[[], Awaitable[str]]:
    """What renders the metrics; those of hosts where there are any."""
    hosts, registry = HostCollector(house.hosts.figures), house.telemetry.registry
    if house.hosts.targets:
        registry.register(hosts)

    async def render() -> str:
        try:
            hosts.online, hosts.offline = await house.hosts.count()
        except StorageError:  # Redis is away
            hosts.online = hosts.offline = math.nan
        return generate_latest(registry).decode()

    return render


def _capabilities(house: House) -> Capabilities:
    async def always() -> bool:
        return True

    return Capabilities(
        refusal=house.gateway.unavailable,
        recordings=house.stores.recordings.writable,
        database=house.stores.database.check,
        counters=house.counters.check if house.counters else always,
    )


def _service_info(telemetry: Telemetry) -> ServiceInfo:
    begun = time.monotonic()
    return ServiceInfo(
        name=NAME,
        version=__version__,
        uptime=lambda: time.monotonic() - begun,
        connected=telemetry.connections.inc,
        warn=lambda reason: structlog.get_logger().warning("connection refused", reason=reason),
    )


def __getattr__(name: str) -> Any:
    """Make `app` when a server asks for it, so that importing this module reads no settings.

    Raises SystemExit for settings that cannot be used: a web server would print any other error as a traceback.
    """
    if name != "app":
        raise AttributeError(name)
    try:
        globals()["app"] = application = create_app(load_settings())
    except (SettingsError, ProfileError) as error:
        raise SystemExit(f"gatepost: {error}") from error
    return application
