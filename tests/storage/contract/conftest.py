"""Each contract is tested in memory, on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from backend.storage.identities import SqlIdentities
from backend.storage.memory.identities import MemoryIdentities
from backend.storage.memory.projects import MemoryProjects
from backend.storage.projects import SqlProjects
from tests.storage.conftest import Clock, migrated_database
from tests.storage.contract.worlds import MemoryWorld, Server, SqlWorld, World


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, new_id: Callable[[], str]
) -> AsyncIterator[World]:
    """A service without servers."""
    if request.param == "memory":
        yield MemoryWorld(clock, new_id)
        return
    async with migrated_database(request, tmp_path) as url:
        made = SqlWorld(url, clock, new_id)
        yield made
        await made.close()


@pytest.fixture
async def server(world: World) -> Server:
    """One server of the service."""
    return await world.server("A" * 26)


@pytest.fixture
def identities(world: World) -> SqlIdentities | MemoryIdentities:
    return world.identities


@pytest.fixture
def projects(world: World) -> SqlProjects | MemoryProjects:
    return world.projects
