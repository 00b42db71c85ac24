"""Two servers of one service in memory, and what tests ask of them."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from backend.application.executions import ExecutionService
from backend.application.submission import CommandSpec
from backend.core.audit.attempts import Record
from backend.core.execution.model import Status
from backend.core.execution.registry import Execution
from backend.core.execution.targets import OWN, TargetRef
from backend.core.identity import Principal
from backend.core.recording.transcript import Slice
from tests.recipes.house import ANN, House, Shared, build, shared

STREAMS = frozenset({"stdout", "stderr"})


@dataclass(slots=True)
class Servers:
    """`here` runs what a test starts; `there` is another server of the same service."""

    common: Shared
    here: House
    there: House

    async def start(
        self, line: str = "cat 9", who: Principal = ANN, target: TargetRef = OWN, *, stdin: bool = False
    ) -> str:
        """Start a command here; its id."""
        started = await self.here.service.submit(who, CommandSpec(line, target, stdin=stdin, detached=True))
        assert isinstance(started, Execution)
        return started.id

    async def ended(self, id: str) -> None:
        """Wait for the end of a command that runs here."""
        if live := self.here.service.local.registry.find(id):
            assert live.task
            await live.task

    def status(self, id: str) -> Status:
        """The state on record."""
        return self.common.executions.rows[id].status

    def kinds(self, id: str) -> list[str]:
        """The events of an execution."""
        return [event.kind for event in self.common.audit.events if event.fields.get("execution") == id]


@pytest.fixture
async def servers() -> AsyncIterator[Servers]:
    """Two servers that reach each other."""
    common = shared()
    here, there = build(common), build(common)
    async with here.joined(), there.joined():
        yield Servers(common, here, there)
        common.executions.outage = None
        for each in (here, there):
            await each.gateway.close()


async def view(service: ExecutionService, who: Principal, id: str) -> Record:
    """A record that exists for the caller."""
    found = await service.view(who, id)
    assert isinstance(found, Record)
    return found


def part(offset: int = 0, limit: int = 1 << 20) -> Slice:
    """A slice of all output."""
    return Slice(STREAMS, offset, limit)
