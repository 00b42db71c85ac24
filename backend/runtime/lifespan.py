"""The lifespan of a server: migrate, recover, welcome, serve with background jobs, stop in order.

The order of a stop: no new commands; what runs is ended, while its viewers receive the end; connections are closed;
background jobs end; what waits is written; the database is closed.
"""

import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

import structlog
from fastapi import FastAPI

from backend.accounts.credentials import new_login_link, secret_hash
from backend.application.executions import ExecutionService
from backend.application.notifier import Notifier
from backend.application.queue_runner import QueueRunner
from backend.application.runners import Runners
from backend.application.schedule_runner import ScheduleRunner
from backend.core.dataclasses import dataclass
from backend.core.execution.gateway import Gateway
from backend.core.execution.model import StopReason
from backend.core.identity import Role
from backend.core.threads import started_threads
from backend.runtime.background import heartbeat_often, prune_often, recover_often, retry_often, supervised
from backend.runtime.clock import now_ms
from backend.runtime.event_loop import calm_collector
from backend.runtime.hosts import Hosts
from backend.runtime.persistence import Stores
from backend.runtime.preflight import Guard
from backend.runtime.retention import RecordingRetention
from backend.runtime.server_background import (
    cut_audit_often,
    forget_runs_often,
    notify_often,
    prune_accounts_often,
    run_queue_often,
    run_schedules_often,
    summarise_often,
    take_up_often,
)
from backend.runtime.settings import Settings
from backend.runtime.web_server import LoopErrors, WebServer, find_web_server
from backend.runtime.welcome import welcome

FIRST_ADMIN = "admin"
FIRST_LINK_MS = 24 * 3600 * 1000
THREADS = min(32, (os.cpu_count() or 1) + 4)  # for everything without threads of its own; the default of Python


@dataclass(frozen=True, slots=True)
class Server:
    """What a server starts and ends."""

    settings: Settings
    stores: Stores
    guard: Guard
    gateway: Gateway
    service: ExecutionService
    queue_runner: QueueRunner
    schedule_runner: ScheduleRunner
    notifier: Notifier
    retention: RecordingRetention
    hosts: Hosts
    runners: Runners

    async def close(self) -> None:
        """End what clients and runners wait for."""
        self.runners.close()
        await self.gateway.close()


def lifespan(server: Server, *, greets: bool) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The lifespan of the application."""

    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        calm_collector()
        asyncio.get_running_loop().set_default_executor(started_threads(THREADS, "service"))
        stores, service, web_server = server.stores, server.service, find_web_server()
        asyncio.get_running_loop().set_exception_handler(LoopErrors(_warn).report)
        try:
            login_link = await _prepare(stores, server.settings.admin_password)
            async with service.bus.joined(service.owner, service.folder, service.local), server.hosts.joined():
                greeting = [asyncio.create_task(_welcome(server, web_server, login_link))] if greets else []
                jobs = [*_begin_jobs(server), *greeting]
                try:
                    with web_server.stopped_after(server.close):
                        yield
                    await server.close()  # its leases are still extended meanwhile
                finally:
                    await server.guard.rooms.close()
                    await _end_jobs(jobs)
            await stores.write_rest()
        finally:
            await stores.close()

    return run


def _warn(reason: str) -> None:
    structlog.get_logger().warning("out of resources", reason=reason)


async def _prepare(stores: Stores, password: str | None) -> str:
    """Returns the secret of the first administrator's login link, if it was created now."""
    await stores.database.migrate()
    await stores.audit.prepare()
    stores.locks.hold()
    await stores.recovery.run_once()
    return await _first_admin(stores, password)


async def _welcome(server: Server, web_server: WebServer, login_link: str) -> None:
    """Print where to go as soon as the server listens there."""
    address = await web_server.address()
    with suppress(OSError):  # standard error may be a file on a full disk
        print(welcome(address, login_link, _held(server.guard)), file=sys.stderr, flush=True)


def _held(guard: Guard) -> str:
    """Why no command can run, nothing if one can."""
    refusal = guard.refusal()
    if refusal is None:
        return ""
    return f"{refusal.reason}\n{guard.protection.failures() if guard.unprotected() else refusal.hint}\n"


def _begin_jobs(server: Server) -> list[asyncio.Task[None]]:
    settings, stores, registry = server.settings, server.stores, server.gateway.lifecycle.registry
    work: dict[str, Callable[[], Coroutine[None, None, None]]] = {
        "heartbeat": partial(heartbeat_often, stores, lambda lost: registry.stop(lost, StopReason.LEASE_LOST)),
        "retry": partial(retry_often, stores),
        "recover": partial(recover_often, stores),
        "queue": partial(run_queue_often, server.queue_runner),
        "notify": partial(notify_often, server.notifier),
        "schedules": partial(run_schedules_often, server.schedule_runner),
        "prune": partial(prune_often, settings, stores),
        "prune accounts": partial(prune_accounts_often, settings, stores),
        "figures": partial(summarise_often, stores),
        "runners": partial(forget_runs_often, stores),
        "take up": partial(take_up_often, server.runners),
        "recordings": server.retention.keep,
        "cut audit": partial(cut_audit_often, settings, stores),
    }
    return [asyncio.create_task(supervised(name, job)) for name, job in work.items()]


async def _end_jobs(jobs: list[asyncio.Task[None]]) -> None:
    """Wait for their end, so that none of them uses a database that is closed."""
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)


async def _first_admin(stores: Stores, password: str | None) -> str:
    """On a server without accounts, create an administrator; returns the secret of its login link.

    Nothing is returned where there are accounts, or where the administrator has a password.
    """
    if await stores.identities.users():
        return ""
    hashed = await stores.passwords.hash(password) if password else None
    admin = await stores.identities.add_user(FIRST_ADMIN, Role.ADMIN, password_hash=hashed)
    if admin is None or hashed:
        return ""
    secret = new_login_link(secrets.token_bytes)
    await stores.identities.add_link(secret_hash(secret), admin.id, now_ms() + FIRST_LINK_MS)
    return secret
