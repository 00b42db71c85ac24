"""The wiring: `create_app(settings)` puts the parts together, `app` is the application of the environment's settings."""

import asyncio
import secrets
import shlex
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from fastapi import FastAPI
from prometheus_client import generate_latest

from backend import __version__
from backend.core.gateway import Clock, Gateway, Terms
from backend.core.limits import Rate, Slots
from backend.core.policy import Profile
from backend.execution.builtins import CLEAR, Builtins, help_text
from backend.execution.local import LocalExecutor, OutsideProgram
from backend.execution.processes import Processes
from backend.execution.workspace import FolderWorkspace, prepare_workspace
from backend.profiles import load_profile
from backend.settings import Settings, SettingsError, load_settings
from backend.storage.limiter import MovingWindow
from backend.storage.recordings import RecordingFolder, Retention
from backend.telemetry import Telemetry, configure_logs
from backend.transports.door import Connections, Door
from backend.transports.http import Facts, add_routes
from backend.transports.terminal import Service, TerminalSocket

NAME = "Gatepost"
PAGE_FOLDER = Path(__file__).parent.parent / "frontend"
PRUNE_EVERY = 3600.0  # seconds between two looks at the age and size of the recordings
TOKEN_FAILURES = Rate(10, 60)
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id() -> str:
    """A ULID: 48 bits of milliseconds and 80 random bits in 26 characters; sorts by time."""
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def utc_now() -> str:
    """The time as ISO 8601 in UTC, milliseconds, with Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def create_app(settings: Settings, *, sole: bool = False) -> FastAPI:
    """The application. Raises SettingsError or ProfileError for settings that cannot be used.

    `sole` says that nothing else in this process starts processes, so that all orphans are the commands'.
    """
    configure_logs(settings.log_level)
    telemetry = Telemetry()
    recordings = _folders(settings)
    gateway = _gateway(settings, load_profile(settings.profile), recordings, telemetry, Processes(sole=sole))
    door = _door(settings)
    app = FastAPI(
        title=NAME,
        version=__version__,
        lifespan=_lifespan(settings, gateway, recordings),
        docs_url=None,
        redoc_url=None,
    )
    facts = Facts(
        name=NAME,
        version=__version__,
        api_key_configured=settings.anthropic_api_key is not None,
        checks={"recordings": recordings.writable, "workspace": settings.workspace_dir.is_dir},
        find_recording=recordings.find,
        figures=(lambda: generate_latest(telemetry.registry).decode()) if settings.metrics else None,
    )
    add_routes(app, facts, door, settings.http_rate, PAGE_FOLDER)
    app.add_middleware(TerminalSocket, gateway=gateway, door=door, service=_service(telemetry))
    return app


def _folders(settings: Settings) -> RecordingFolder:
    """Make the folders; what cannot be made is a wrong setting."""
    try:
        prepare_workspace(settings.workspace_dir)
    except OSError as error:
        raise SettingsError(f"GATEPOST_WORKSPACE: {settings.workspace_dir}: {error.strerror}") from error
    try:
        return RecordingFolder(settings.data_dir.absolute() / "recordings")
    except OSError as error:
        raise SettingsError(f"GATEPOST_DATA_DIR: {settings.data_dir}: {error.strerror}") from error


def _gateway(
    settings: Settings, profile: Profile, recordings: RecordingFolder, telemetry: Telemetry, processes: Processes
) -> Gateway:
    local = LocalExecutor(processes, {"pyguard": _pyguard(settings)})
    return Gateway(
        profile=profile,
        workspace=FolderWorkspace(settings.workspace_dir),
        limiter=MovingWindow(Rate.parse(settings.command_rate), "commands"),
        slots=Slots(settings.concurrent_per_principal, settings.concurrent_total),
        recordings=recordings,
        executor=Builtins({"help": lambda: help_text(profile), "clear": lambda: CLEAR}, otherwise=local),
        observer=telemetry,
        terms=Terms(settings.command_timeout, settings.output_limit, settings.detach_grace),
        clock=Clock(time.monotonic, utc_now, new_id),
    )


def _pyguard(settings: Settings) -> OutsideProgram:
    """pyguard's command line and its keys, which no other program gets."""
    keys = {"ANTHROPIC_API_KEY": settings.anthropic_api_key, "GROQ_API_KEY": settings.groq_api_key}
    return OutsideProgram(
        tuple(shlex.split(settings.pyguard_command)),
        {name: key.get_secret_value() for name, key in keys.items() if key is not None},
    )


def _door(settings: Settings) -> Door:
    return Door(
        connections=Connections(settings.connections_per_address, settings.connections_total),
        allowed_origins=settings.allowed_origins,
        trusted_hops=settings.trusted_proxy_hops,
        token=settings.token,
        token_failures=MovingWindow(TOKEN_FAILURES, "tokens"),
    )


def _service(telemetry: Telemetry) -> Service:
    begun = time.monotonic()
    return Service(
        name=NAME,
        version=__version__,
        uptime=lambda: time.monotonic() - begun,
        new_id=new_id,
        connected=telemetry.connections.inc,
    )


def _lifespan(settings: Settings, gateway: Gateway, recordings: RecordingFolder) -> Any:
    retention = Retention(settings.retention_days * 86400, settings.retention_bytes)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        pruning = asyncio.create_task(_prune(recordings, retention))
        yield
        pruning.cancel()
        await gateway.close()

    return lifespan


async def _prune(recordings: RecordingFolder, retention: Retention) -> None:
    log = structlog.get_logger()
    while True:
        try:
            if gone := await asyncio.to_thread(recordings.prune, retention, time.time()):
                log.info("recordings deleted", count=gone)
        except OSError as error:
            log.error("recordings not deleted", reason=error.strerror)
        await asyncio.sleep(PRUNE_EVERY)


def __getattr__(name: str) -> Any:
    """Make `app` when a server asks for it, so that importing this module reads no settings."""
    if name != "app":
        raise AttributeError(name)
    globals()["app"] = application = create_app(load_settings(), sole=True)
    return application
