"""An enrolled host in this process: its agent serves jobs from a real Redis, and an executor of a server sends them."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from backend.bus.host_streams import RedisHostStreams
from backend.bus.link import connection_arguments
from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import Dropped
from backend.core.recording.lines import LineAssembler
from backend.executors.host.streamed import StreamedExecutor
from backend.host_agent.front import Front
from backend.host_agent.jobs import Jobs
from backend.runtime.agent_settings import load_agent_settings
from backend.runtime.host_agent import Agent, build_agent, prepared, redis_client
from backend.runtime.settings import load_settings
from tests.redis_server import Redis


@dataclass
class Attached:
    """A host and the way to it."""

    agent: Agent
    jobs: Jobs
    executor: StreamedExecutor
    streams: RedisHostStreams
    listening: "asyncio.Task[None]"
    dropped: list[Dropped] = field(default_factory=list)
    strays: list[tuple[str, Envelope]] = field(default_factory=list)

    async def stop_listening(self) -> None:
        """Read no jobs, as an agent that does not run."""
        self.listening.cancel()
        await asyncio.gather(self.listening, return_exceptions=True)

    def listen(self) -> None:
        """Read jobs."""
        self.listening = asyncio.create_task(self.jobs.listen())


@asynccontextmanager
async def attached(folder: Path, redis: Redis, host: str = "web-01", **settings: Any) -> AsyncIterator[Attached]:
    """A host that runs lines as agents do, and an executor for it. `settings` are those of the agent and of the server."""
    own = {"agent_id": host, "host_secret": "of-this-host", "run_profile": "agent"}
    served = load_settings(data_dir=folder / "data", redis_url=redis.url, **settings)
    agent, party = build_agent(served, load_agent_settings(**own)), Party(host, "of-this-host")
    dropped: list[Dropped] = []
    strays: list[tuple[str, Envelope]] = []
    jobs = Jobs(
        client=redis_client(agent.own.redis_arguments(served)),
        party=party,
        front=Front(agent.service, agent.handlers, time.monotonic),
        now=time.time,
        nonce=lambda: token_hex(16),
        record=dropped.append,
        report=print,
    )
    client, reader = (redis_client(connection_arguments(redis.url)) for _ in range(2))
    streams = RedisHostStreams(
        client, reader, "server-1", time.time, lambda: token_hex(16), lambda *each: strays.append(each)
    )
    executor = StreamedExecutor(party, True, streams, str, LineAssembler, time.time, time.monotonic)
    async with prepared(agent), streams.joined():
        found = Attached(agent, jobs, executor, streams, asyncio.create_task(jobs.listen()), dropped, strays)
        try:
            yield found
        finally:
            await found.stop_listening()
            await jobs.close()
