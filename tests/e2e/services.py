"""Several servers of one service, each with a data folder of its own, on one PostgreSQL and one Redis."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.accounts import client, new_token
from tests.redis_server import Redis, running_redis
from tests.serving import ANY_PROGRAM, Server, start, wait_until

ENV = {
    **ANY_PROGRAM,
    "GATEPOST_API_RATE": "100000/minute",
    "GATEPOST_USER_RATE": "100000/minute",
    "GATEPOST_CONCURRENT_PER_PRINCIPAL": "100",
    "GATEPOST_SECRET_KEY": "a key that all servers of one service share",
}


@dataclass
class Service:
    """The servers, and what they share. `token` is that of an account that all of them know."""

    folder: Path
    env: dict[str, str]
    redis: Redis
    servers: list[Server]
    token: str

    def start(self, number: int) -> Server:
        """Start a server again."""
        place = self.folder / str(number)
        self.servers[number] = start(place, self.env)
        return self.servers[number]


@contextmanager
def running_service(folder: Path, database_url: str, count: int, env: Mapping[str, str] = ENV) -> Iterator[Service]:
    """So many servers on an empty database."""
    folder.chmod(0o711)
    with running_redis() as redis:
        shared = {**env, "DATABASE_URL": database_url, "REDIS_URL": redis.url}
        places = [folder / str(number) for number in range(count)]
        for place in places:
            (place / "data").mkdir(parents=True)
        servers = [start(places[0], shared)]
        for place in places[1:]:
            # One chain has one key.
            shutil.copy2(places[0] / "data" / "audit.key", place / "data" / "audit.key")
            servers.append(start(place, shared))
        service = Service(folder, shared, redis, servers, new_token(places[0], "ann", shared))
        yield service
        for server in service.servers:
            server.stop()


@asynccontextmanager
async def clients(service: Service) -> AsyncIterator[list[httpx.AsyncClient]]:
    apis = [client(server, service.token) for server in service.servers]
    try:
        yield apis
    finally:
        for api in apis:
            await api.aclose()


async def messages_of(
    api: httpx.AsyncClient, execution: str, after: int = 0, begun: asyncio.Event | None = None
) -> list[dict[str, Any]]:
    """The messages of an execution to its end. `begun` is set when the first one has arrived."""
    headers = {"Last-Event-ID": str(after)} if after else {}
    messages = []
    async with api.stream("GET", f"/api/executions/{execution}/events", headers=headers) as stream:
        assert stream.status_code == 200, await stream.aread()
        async for line in stream.aiter_lines():
            if line.startswith("data: "):
                messages.append(json.loads(line[6:]))
                if begun:
                    begun.set()
    return messages


async def until_said(server: Server, execution: str, text: str = "up") -> None:
    """Wait until a command has written a text. Its command line, which may contain it too, is not searched."""

    def said() -> bool:
        return any(text in line for message in server.recording(execution) for line in message.get("lines", ()))

    await asyncio.to_thread(wait_until, said, text)
