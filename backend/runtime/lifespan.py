"""The lifespan of a server: migrate, recover, serve with background jobs, stop in order."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI

from backend.accounts.credentials import new_login_link, secret_hash
from backend.application.executions import ExecutionService
from backend.application.queue_runner import QueueRunner
from backend.core.execution.gateway import Gateway
from backend.core.execution.model import StopReason
from backend.core.identity import Role
from backend.runtime.background import cut_audit_often, heartbeat_often, prune_often, recover_often, run_queue_often
from backend.runtime.clock import now_ms
from backend.runtime.persistence import Stores
from backend.runtime.settings import Settings

FIRST_ADMIN = "admin"
FIRST_LINK_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Server:
    """What a server starts and ends."""

    settings: Settings
    stores: Stores
    gateway: Gateway
    service: ExecutionService
    queue_runner: QueueRunner


def lifespan(server: Server) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """The lifespan of the application."""

    @asynccontextmanager
    async def run(_: FastAPI) -> AsyncIterator[None]:
        stores, service = server.stores, server.service
        try:
            await _prepare(stores)
            async with service.bus.joined(service.owner, service.folder, service.local):
                jobs = _begin_jobs(server)
                yield
                await server.gateway.close()  # its leases are still extended meanwhile
                await _end_jobs(jobs)
            await stores.write_rest()
        finally:
            await stores.close()

    return run


async def _prepare(stores: Stores) -> None:
    await stores.database.migrate()
    await stores.audit.prepare()
    stores.locks.hold()
    await stores.recovery.run_once()
    stores.login_link = await _first_admin(stores)


def _begin_jobs(server: Server) -> list[asyncio.Task[None]]:
    settings, stores, registry = server.settings, server.stores, server.gateway.lifecycle.registry
    work = (
        heartbeat_often(stores, lambda lost: registry.stop(lost, StopReason.LEASE_LOST)),
        recover_often(stores),
        run_queue_often(server.queue_runner),
        prune_often(settings, stores),
        cut_audit_often(settings, stores),
    )
    return [asyncio.create_task(job) for job in work]


async def _end_jobs(jobs: list[asyncio.Task[None]]) -> None:
    """Wait for their end, so that none of them uses a database that is closed."""
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)


async def _first_admin(stores: Stores) -> str:
    """On a server without accounts, create an administrator; returns the secret of its login link, else nothing."""
    if await stores.identities.users():
        return ""
    admin = await stores.identities.add_user(FIRST_ADMIN, Role.ADMIN)
    if admin is None:
        return ""
    secret = new_login_link(secrets.token_bytes)
    await stores.identities.add_link(secret_hash(secret), admin.id, now_ms() + FIRST_LINK_MS)
    return secret
