"""The wiring: `create_app(settings)` puts the fronts over the house, `app` is the application of the environment's settings."""

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
from prometheus_client import generate_latest
from slowapi import Limiter

from backend import __version__
from backend.accounts.authentication import Authenticator
from backend.accounts.credentials import Tokens, new_runner_key, secret_hash
from backend.application.activity import Activity
from backend.application.hooks import PER_ACCOUNT, HookCalls, HookService
from backend.application.notifications import StoredSubjects
from backend.application.projects import ProjectService
from backend.application.runner_keys import KeyAdministration
from backend.application.schedules import ScheduleLimits, ScheduleService
from backend.core.errors import StorageError
from backend.core.limits import Rate, share_of_accounts
from backend.core.policy.profile import ProfileError
from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from backend.runtime.clock import new_id, now_ms
from backend.runtime.command_line import verb
from backend.runtime.house import House, build_house, server_of
from backend.runtime.lifespan import lifespan
from backend.runtime.logs import configure_logs
from backend.runtime.notifications import build_notifications
from backend.runtime.preflight import EntryCheck
from backend.runtime.programs import outside_programs
from backend.runtime.settings import Settings, SettingsError, load_settings
from backend.runtime.telemetry import HostCollector, Telemetry
from backend.runtime.tokens import access_tokens, name_digest
from backend.storage.limiter import PAGE_WINDOWS, MovingWindow, is_reachable
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
from backend.transports.projects_api import ProjectRoutes, project_routes
from backend.transports.recordings_api import recording_routes
from backend.transports.routing import add_routes
from backend.transports.runner_api import LARGER_BODIES, RunnerGate, runner_routes
from backend.transports.runner_api import PREFIX as RUNNERS
from backend.transports.schedules_api import ScheduleRoutes, schedule_routes
from backend.transports.security import Connections, Rejections, Security
from backend.transports.terminal_socket import ServiceInfo, TerminalSocket

NAME = "Gatepost"
PAGE_FOLDER = Path(__file__).parents[2] / "frontend"
BODY_LIMIT = 256 * 1024  # bytes
TOKEN_FAILURES = Rate(10, 60)
LOGIN_ATTEMPTS = Rate(10, 300)
LOGIN_ATTEMPTS_ON_NAME = Rate(100, 300)  # many enough that other clients do not easily lock a user out
AUDITED_REJECTIONS = Rate(60, 60)


def create_app(settings: Settings, *, greets: bool = True) -> FastAPI:
    """The application, which says on standard error where it is reached if it `greets`. Raises SettingsError or ProfileError for settings that cannot be used."""
    programs = outside_programs(settings)
    masks = Masks.of((*settings.masked_values, *programs.secrets), (*DEFAULT_PATTERNS, *settings.masked_patterns))
    configure_logs(settings.log_level, masks.text)
    house = build_house(settings, programs, masks)
    tokens = access_tokens(settings)
    security = _security(house, tokens)
    app = FastAPI(
        title=NAME,
        version=__version__,
        lifespan=lifespan(server_of(house), greets=greets),
        docs_url=None,
        redoc_url=None,
        max_body_size=BODY_LIMIT,
    )
    access = _access(house, security, masks)
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


def _access(house: House, security: Security, masks: Masks) -> Access:
    return Access(
        security=security,
        audit=house.audit,
        requests=house.window(Rate.parse(house.settings.api_rate), "api"),
        rejections=Rejections(house.audit, MovingWindow(AUDITED_REJECTIONS)),
        mask=masks.text,
    )


async def _account_of_runner(house: House, security: Security, request: Request) -> str | None:
    """The owner of the project of a runner, None without a valid key. Raises StorageError."""
    secret = security.bearer(request.scope)
    key = await house.stores.runners.key_by_secret(secret_hash(secret)) if secret else None
    project = await house.stores.projects.get(key.project) if key and key.is_valid(now_ms()) else None
    return project.owner_id if project else None


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
    projects = _projects(house, access)
    hosts = HostService(access, service, house.hosts.targets, house.hosts.seal, house.gateway.slots.per_principal)
    add_routes(
        app,
        runner_routes(_runner_gate(house, access)),  # first: polls are most of all requests
        health_routes(_health(house, access.security.connections)),
        page_routes(info, _visitors(house.settings), limiter, rate, files),
        recording_routes(access, service, limiter, rate),
        agent_routes(Agents(access, _capabilities(house), service, Activity(stores.history, now_ms))),
        execution_routes(Executions(access, service), limiter, rate),
        project_routes(ProjectRoutes(access, projects, stores.identities)),
        schedule_routes(_schedules(house, access)),
        notification_routes(_notifications(house, access)),
        hook_routes(_hooks(house, access)),
        django_routes(_django_service(house, access, projects)),
        host_routes(hosts),
    )


def _projects(house: House, access: Access) -> ProjectService:
    stores, profiles = house.stores, house.resolver
    return ProjectService(
        store=stores.projects,
        users=stores.identities,
        profiles=profiles,
        audit=access.audit,
        add_command=verb("user add NAME"),
        hosts=house.settings.egress,
        holds_hosts=profiles.holds_hosts,
    )


def _schedules(house: House, access: Access) -> ScheduleRoutes:
    settings, stores = house.settings, house.stores
    service = ScheduleService(
        store=stores.schedules,
        judge=house.service,
        users=stores.identities,
        start=house.schedule_runner.start_ready,
        audit=access.audit,
        bounds=ScheduleLimits(settings.schedules_per_account, settings.schedule_interval),
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
