"""The two buses, and servers for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.bus import incoming, link, requests
from backend.bus.memory import MemoryBus
from backend.bus.redis import RedisBus
from tests.bus.servers import BOUND, Local, NewBus
from tests.redis_server import Redis, running_redis


@pytest.fixture
def redis() -> Iterator[Redis]:
    with running_redis() as running:
        yield running


@pytest.fixture(params=["memory", "redis"])
def new_bus(request: pytest.FixtureRequest) -> NewBus:
    """Makes the bus of one more server."""
    if request.param == "memory":
        hub = MemoryBus()
        return lambda: hub
    redis: Redis = request.getfixturevalue("redis")
    return lambda: RedisBus(redis.url, lambda _: None)


@pytest.fixture
def local(tmp_path: Path) -> Local:
    return Local(tmp_path / "local")


@pytest.fixture
def other(tmp_path: Path) -> Local:
    return Local(tmp_path / "other")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds for what happens many times at once on a busy machine: here it is about the many, not about the time."""
    for module, name in ((link, "PATIENCE"), (incoming, "ANSWER_BOUND"), (requests, "INSTRUCT_BOUND")):
        monkeypatch.setattr(module, name, BOUND / 2)
