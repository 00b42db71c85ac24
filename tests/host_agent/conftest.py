"""A Redis and agents for tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host_agent.agents import Agent, Backend, start_agent
from tests.redis_server import Redis, running_redis

StartAgent = Callable[..., Agent]


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with running_redis() as running:
        yield running


@pytest.fixture
def backend(redis: Redis) -> Backend:
    return Backend.on(redis)


@pytest.fixture
def new_agent(redis: Redis, tmp_path: Path) -> Iterator[StartAgent]:
    """Starts agents that accept unsigned commands, and ends them."""
    started: list[Agent] = []

    def begin(host: str = "web-01", **env: str) -> Agent:
        unsigned = {} if "COCKPIT_SHARED_SECRET" in env else {"GATEPOST_ALLOW_UNSIGNED_HOSTS": "true"}
        started.append(agent := start_agent(tmp_path / host, redis, host, **unsigned, **env))
        Backend.on(redis).listening(agent)
        return agent

    yield begin
    for agent in started:
        agent.stop()
