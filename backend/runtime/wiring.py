"""The wiring: `create_app(settings)` puts the parts together, `app` is the application of the environment's settings."""

import asyncio
import hashlib
import os
import secrets
import shlex
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI
from limits.aio.storage import Storage
from prometheus_client import generate_latest
from slowapi import Limiter

from backend import __version__
from backend.accounts.authentication import Authenticator
from backend.accounts.credentials import Tokens, new_login_link, secret_hash
from backend.application.target_resolver import Places
from backend.core.errors import GatepostError
from backend.core.execution.gateway import Clock, Gateway, Rates, Terms
from backend.core.execution.targets import Target
from backend.core.identity import Role
from backend.core.limits import Rate, Slots
from backend.core.policy.profile import Profile
from backend.core.quota import Quota
from backend.core.recording.lines import LineAssembler
from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from backend.core.recording.terminal_filter import TerminalFilter
from backend.executors.local.builtins import CLEAR, Builtins, help_text
from backend.executors.local.confinement import RUNNABLE
from backend.executors.local.pipelines import LocalExecutor, OutsideProgram
from backend.executors.local.run_as import closed_parent, give_folder
from backend.executors.local.workspace import FolderWorkspace, prepare_workspace
from backend.executors.local.workspace_usage import UsageMonitors
from backend.policies.loader import load_profile
from backend.runtime.background import cut_audit_often, prune_often, recover_often
from backend.runtime.clock import new_id, now_ms, utc_now
from backend.runtime.persistence import Stores, open_stores
from backend.runtime.preflight import Guard, build_guard
from backend.runtime.recovery import recover
from backend.runtime.settings import Settings, SettingsError, data_exposed, load_settings
from backend.runtime.telemetry import Telemetry, configure_logs
from backend.storage.keys import load_or_make
from backend.storage.limiter import MovingWindow, shared_storage
from backend.transports.agent_api import Agents, agent_routes
from backend.transports.dependencies import Access
from backend.transports.executions_api import Executions, execution_routes
from backend.transports.login_api import Login, auth_routes
from backend.transports.pages import BODY_LIMIT, Facts, add_routes
from backend.transports.projects_api import ProjectService, project_routes
from backend.transports.security import Connections, Door, Rejections
from backend.transports.starting import Starter
from backend.transports.terminal_socket import Service, TerminalSocket

NAME = "Gatepost"
PAGE_FOLDER = Path(__file__).parents[2] / "frontend"
TOKEN_FAILURES = Rate(10, 60)
LOGIN_ATTEMPTS = Rate(10, 300)
LOGIN_ATTEMPTS_ON_NAME = Rate(100, 300)  # so many that strangers do not easily keep somebody out
AUDITED_REJECTIONS = Rate(60, 60)
SHARED_FOLDER = Path("/var/lib/gatepost")
FIRST_ADMIN = "admin"
FIRST_LINK_MS = 24 * 3600 * 1000


def create_app(settings: Settings) -> FastAPI:
    """The application. Raises SettingsError or ProfileError for settings that cannot be used."""
    configure_logs(settings.log_level)
    telemetry = Telemetry(time.monotonic)
    stores = open_stores(settings)
    counters = shared_storage(settings.redis_url.get_secret_value()) if settings.redis_url else None
    profile = load_profile(settings.profile)
    guard = build_guard(settings)
    gateway = _gateway(settings, stores, telemetry, counters, guard)
    places = _places(settings, profile, stores, gateway, guard.owner)
    tokens = _tokens(settings)
    door = _door(settings, stores, counters, tokens)
    app = FastAPI(
        title=NAME,
        version=__version__,
        lifespan=_lifespan(settings, stores, gateway),
        docs_url=None,
        redoc_url=None,
        max_body_size=BODY_LIMIT,
    )
    app.state.stores, app.state.guard = stores, guard
    access = _access(settings, door, places, stores, counters)
    limiter = add_routes(
        app,
        _facts(settings, stores, telemetry, guard, places, gateway, counters),
        door,
        access,
        settings.http_rate,
        PAGE_FOLDER,
    )
    _add_api(app, settings, stores, gateway, access, limiter, counters, tokens)
    app.add_middleware(
        TerminalSocket,
        gateway=gateway,
        door=door,
        directory=places,
        rejections=access.rejections,
        service=_service(telemetry),
    )
    return app


def _facts(
    settings: Settings,
    stores: Stores,
    telemetry: Telemetry,
    guard: Guard,
    places: Places,
    gateway: Gateway,
    counters: Storage | None,
) -> Facts:
    return Facts(
        name=NAME,
        version=__version__,
        api_key_configured=settings.anthropic_api_key is not None,
        checks={
            "recordings": stores.recordings.writable,
            "workspace": lambda: os.path.isdir(places.visitors.workspace.root),
        },
        stores={"database": stores.database.check, **({"redis": counters.check} if counters else {})},
        protection={**guard.protection.as_json(), "minimum": settings.protection_minimum},
        protected=guard.unprotected() is None,
        find_recording=gateway.recording,
        figures=(lambda: generate_latest(telemetry.registry).decode()) if settings.metrics else None,
    )


def _gateway(
    settings: Settings, stores: Stores, telemetry: Telemetry, counters: Storage | None, guard: Guard
) -> Gateway:
    masks = Masks.of(settings.masked_values, (*DEFAULT_PATTERNS, *settings.masked_patterns))
    local = LocalExecutor(
        guard.launcher,
        {"pyguard": _pyguard(settings)},
        readable=(*settings.readable, *_pyguard_folders(settings)),
        lines=_lines(settings, masks),
        owner=guard.owner,
        meters=UsageMonitors(Quota(settings.workspace_limit, settings.workspace_files, settings.disk_margin)),
    )
    return Gateway(
        rates=Rates(
            MovingWindow(Rate.parse(settings.command_rate), "commands", counters),
            MovingWindow(Rate.parse(settings.user_rate), "user-commands", counters),
        ),
        slots=Slots(settings.concurrent_per_principal, settings.concurrent_total),
        ledger=stores.ledger,
        recordings=stores.recordings,
        executor=Builtins({"help": help_text, "clear": lambda _: CLEAR}, otherwise=local),
        observer=telemetry,
        terms=Terms(
            settings.command_timeout,
            max(settings.command_timeout, settings.longest_timeout),
            settings.output_limit,
            settings.detach_grace,
        ),
        clock=Clock(time.monotonic, utc_now, new_id),
        mask=masks.text,
        protected=guard.refusal,
        raw=settings.raw_output,
    )


def _lines(settings: Settings, masks: Masks) -> Callable[[], LineAssembler]:
    """What cuts a stream of output into lines: what a terminal would act on goes first, so that it hides no secret."""
    if settings.raw_output:
        return lambda: LineAssembler(masks.stream())
    return lambda: LineAssembler(TerminalFilter(), masks.stream())


def _pyguard(settings: Settings) -> OutsideProgram:
    """pyguard's command line and its keys, which no other program gets."""
    keys = {"ANTHROPIC_API_KEY": settings.anthropic_api_key, "GROQ_API_KEY": settings.groq_api_key}
    return OutsideProgram(
        tuple(shlex.split(settings.pyguard_command)),
        {name: key.get_secret_value() for name, key in keys.items() if key is not None},
    )


def _pyguard_folders(settings: Settings) -> list[str]:
    """Where pyguard's own files lie, which it has to read."""
    words = shlex.split(settings.pyguard_command)
    return [os.path.dirname(word) for word in words if os.path.isabs(word) and os.path.isfile(word)]


def _places(
    settings: Settings, profile: Profile, stores: Stores, gateway: Gateway, owner: tuple[int, int] | None
) -> Places:
    def prepare(folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        give_folder(folder, owner)

    base = _workspaces(settings, owner)
    _check_closed(settings)
    workspace = settings.workspace_dir if settings.workspace else base / "workspace"
    try:
        prepare_workspace(workspace)
        give_folder(workspace, owner)
    except OSError as error:
        raise SettingsError(f"GATEPOST_WORKSPACE: {workspace}: {error.strerror}") from error
    if closed := closed_parent(workspace, owner):
        raise SettingsError(f"GATEPOST_WORKSPACE: {settings.run_as} may not pass through {closed}; chmod o+x {closed}")
    return Places(
        visitors=Target(profile, FolderWorkspace(workspace)),
        projects=stores.projects,
        history=stores.history,
        folder=base,
        prepare=prepare,
        live_owner=lambda id: found.request.principal if (found := gateway.find(id)) else None,
    )


def _check_closed(settings: Settings) -> None:
    """Raises SettingsError where the data folder lies in one that all commands read, or that pyguard has to read."""
    folders = [
        *(("GATEPOST_DATA_DIR", folder) for folder in RUNNABLE),
        *(("PYGUARD_COMMAND", folder) for folder in _pyguard_folders(settings)),
    ]
    if exposed := data_exposed(settings.data_dir, folders):
        raise SettingsError(exposed)


def _workspaces(settings: Settings, owner: tuple[int, int] | None) -> Path:
    """Where workspaces lie: in the data folder, unless who commands run as cannot get there (in root's home)."""
    data = settings.data_dir.absolute()
    closed = closed_parent(data / "workspace", owner)
    if closed is None:
        return data
    elsewhere = SHARED_FOLDER / hashlib.sha256(os.fsencode(data)).hexdigest()[:12]
    elsewhere.mkdir(parents=True, exist_ok=True, mode=0o755)
    reason = f"{settings.run_as} may not pass through {closed}"
    structlog.get_logger().warning("workspaces lie elsewhere", folder=str(elsewhere), reason=reason)
    return elsewhere


def _door(settings: Settings, stores: Stores, counters: Storage | None, tokens: Tokens) -> Door:
    return Door(
        connections=Connections(settings.connections_per_address, settings.connections_total),
        allowed_origins=settings.allowed_origins,
        trusted_hops=settings.trusted_proxy_hops,
        visitors=settings.visitors,
        visitor_token=settings.token,
        authenticator=Authenticator(stores.identities, tokens, now_ms),
        token_failures=MovingWindow(TOKEN_FAILURES, "tokens", counters),
    )


def _tokens(settings: Settings) -> Tokens:
    """The access tokens, with the key that is set or with one of this data folder."""
    if settings.secret_key:
        key = settings.secret_key.get_secret_value().encode()
    else:
        try:
            key = load_or_make(settings.data_dir.absolute() / "tokens.key", lambda: secrets.token_bytes(32))
        except GatepostError as error:
            raise SettingsError(f"GATEPOST_DATA_DIR: {error}") from error
    try:
        return Tokens(key, time.time, new_id, settings.token_lifetime)
    except ValueError as error:
        raise SettingsError(f"GATEPOST_SECRET_KEY: {error}") from error


def _access(settings: Settings, door: Door, places: Places, stores: Stores, counters: Storage | None) -> Access:
    return Access(
        door=door,
        directory=places,
        audit=stores.ledger,
        requests=MovingWindow(Rate.parse(settings.api_rate), "api", counters),
        rejections=Rejections(stores.ledger, MovingWindow(AUDITED_REJECTIONS, "rejections")),
    )


def _add_api(
    app: FastAPI,
    settings: Settings,
    stores: Stores,
    gateway: Gateway,
    access: Access,
    limiter: Limiter,
    counters: Storage | None,
    tokens: Tokens,
) -> None:
    login = Login(
        accounts=stores.identities,
        check_password=stores.passwords.check,
        secret_hash=secret_hash,
        issue=tokens.issue,
        attempts=MovingWindow(LOGIN_ATTEMPTS, "logins", counters),
        attempts_on_name=MovingWindow(LOGIN_ATTEMPTS_ON_NAME, "login-names", counters),
    )
    starter = Starter(gateway, stores.keys, new_id)
    app.include_router(auth_routes(access, login, limiter, settings.http_rate))
    app.include_router(agent_routes(Agents(access, gateway, starter, stores.history, now_ms)))
    app.include_router(execution_routes(Executions(access, gateway, starter, stores.history)))
    app.include_router(project_routes(ProjectService(access, stores.projects, stores.identities)))


def _service(telemetry: Telemetry) -> Service:
    begun = time.monotonic()
    return Service(
        name=NAME,
        version=__version__,
        uptime=lambda: time.monotonic() - begun,
        new_id=new_id,
        connected=telemetry.connections.inc,
    )


def _lifespan(settings: Settings, stores: Stores, gateway: Gateway) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        try:
            await stores.database.migrate()
            await stores.ledger.prepare()
            await recover(stores.history, stores.recordings, stores.ledger)
            stores.login_link = await _first_admin(stores)
            work = (prune_often(settings, stores), cut_audit_often(settings, stores), recover_often(stores))
            chores = [asyncio.create_task(chore) for chore in work]
            yield
            for chore in chores:
                chore.cancel()
            await gateway.close()
            await stores.ledger.close_writer()
        finally:
            await stores.database.close()
            stores.passwords.close()

    return lifespan


async def _first_admin(stores: Stores) -> str:
    """On a server without accounts make an administrator; the ticket of its login link, else nothing."""
    if await stores.identities.users():
        return ""
    admin = await stores.identities.add_user(FIRST_ADMIN, Role.ADMIN)
    if admin is None:
        return ""
    ticket = new_login_link(secrets.token_bytes)
    await stores.identities.add_link(secret_hash(ticket), admin.id, now_ms() + FIRST_LINK_MS)
    return ticket


def __getattr__(name: str) -> Any:
    """Make `app` when a server asks for it, so that importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = application = create_app(load_settings())
    return application
