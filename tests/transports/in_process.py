"""A server of tests.recipes.house behind real sockets, in this process: its fronts are those of the product."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI
from slowapi import Limiter

from backend.accounts.authentication import Authenticator
from backend.accounts.credentials import Tokens, new_api_token, secret_hash
from backend.core.identity import Permission, Principal, Role
from backend.core.limits import Rate
from backend.storage.limiter import MovingWindow
from backend.storage.memory.audit_log import MemoryAuditLog
from backend.storage.memory.identities import MemoryIdentities
from backend.transports.dependencies import Access
from backend.transports.problems import add_problems
from backend.transports.recordings_api import recording_routes
from backend.transports.security import Connections, Rejections, Security
from backend.transports.terminal_socket import ServiceInfo, TerminalSocket
from tests.client import BOUND
from tests.recipes.house import House, Shared


class Checks(Authenticator):
    """Counts how often a token was checked again."""

    count = 0

    async def is_valid(self, principal: Principal) -> bool:
        self.count += 1
        return await super().is_valid(principal)

    async def until(self, count: int) -> None:
        """Wait for so many checks more."""
        expected = self.count + count
        async with asyncio.timeout(BOUND):
            while self.count < expected:
                await asyncio.sleep(0)


@dataclass
class Front:
    """A server that listens."""

    port: int
    identities: MemoryIdentities
    checks: Checks
    audit: MemoryAuditLog
    secrets: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws/terminal"

    async def token(self, name: str, *scopes: Permission, profile: str = "agent") -> str:
        """The API token of a new account."""
        user = await self.identities.add_user(name, Role.OPERATOR, profile)
        assert user
        secret = new_api_token(lambda size: name.encode().ljust(size, b"-")[:size])
        await self.identities.add_token(user.id, "t", scopes or Role.OPERATOR.permissions, secret_hash(secret), None)
        return secret


@asynccontextmanager
async def served(common: Shared, house: House, **options: Any) -> AsyncIterator[Front]:
    """Listen with the terminal and the route of recordings; `options` are those of uvicorn."""
    identities = MemoryIdentities(common.clock, common.new_id)
    checks = Checks(identities, Tokens(b"k" * 64, lambda: 0.0, common.new_id), common.clock, time.monotonic)
    object.__setattr__(house.service, "tokens", checks)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        app = _app(common, house, checks)
        settings = {"http": "h11", "ws": "websockets-sansio", "lifespan": "off", "log_config": None} | options
        server = uvicorn.Server(uvicorn.Config(app, **settings))
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield Front(listening.getsockname()[1], identities, checks, common.audit)
        finally:
            server.should_exit = True
            await serving


def _app(common: Shared, house: House, checks: Checks) -> FastAPI:
    window = MovingWindow(Rate(10_000, 60))
    security = Security(Connections(100, 100), (), 0, True, None, checks, window, common.new_id)
    rejections = Rejections(common.audit, window)
    access = Access(security, common.audit, window, rejections, str)
    app = FastAPI()
    limiter = app.state.limiter = Limiter(key_func=lambda request: "all")
    add_problems(app, access.rejected)
    app.include_router(recording_routes(access, house.service, limiter, "10000/minute"))
    info: dict[str, Any] = {
        "name": "Gatepost",
        "version": "0",
        "uptime": lambda: 60.0,
        "connected": print,
        "warn": print,
    }
    app.add_middleware(
        TerminalSocket,
        executions=house.service,
        security=security,
        rejections=rejections,
        info=ServiceInfo(**info),
        left=lambda _: None,
    )
    return app
