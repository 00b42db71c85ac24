"""What a line starts in the background: an execution of its own, of the same principal, in the same place."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from backend.application.background import Background
from backend.application.submission import CommandSpec
from backend.core.execution.model import CloseInput, Status, Stop, StopReason
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused
from backend.core.execution.sessions import Session
from backend.core.execution.targets import ExecutionLimits
from backend.core.identity import Principal
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.pipelines import LocalPipelines
from backend.executors.local.places import LocalPlaces
from backend.executors.local.run_as import find_owner
from backend.executors.local.workspace_users import WorkspaceUsers
from tests.recipes.house import ANN, BOB, VISITOR, House, build, shared

BOUND = 20.0
OWNER = find_owner("nobody")


@dataclass
class Said:
    """What came of a line."""

    messages: list[dict[str, Any]]

    def text(self, stream: str) -> str:
        return "".join(f"{line}\n" for each in self.messages if each["type"] == stream for line in each["lines"])

    @property
    def complete(self) -> dict[str, Any]:
        return self.messages[-1]

    @property
    def started(self) -> list[str]:
        return [*self.complete.get("background", [])]

    @property
    def rule(self) -> str:
        return next((each["rule"] for each in self.messages if each["type"] == "error"), "")


@dataclass
class Server:
    """A server whose lines run in the cage."""

    house: House
    background: Background
    folder: Path

    @property
    def live(self) -> list[Execution]:
        return [*self.house.service.local.registry.live.values()]

    async def submit(
        self, who: Principal, line: str, session: Session | None = None, *, stdin: bool = False
    ) -> Execution:
        spec = CommandSpec(line, detached=True, session=session, stdin=stdin)
        started = await self.house.service.submit(who, spec)
        assert isinstance(started, Execution), started
        return started

    async def run(self, line: str, who: Principal = ANN, session: Session | None = None) -> Said:
        return await self.end((await self.submit(who, line, session)).id)

    async def end(self, id: str) -> Said:
        """All messages of an execution, once it has ended."""
        messages: list[dict[str, Any]] = []

        async def send(block: bytes) -> None:
            messages.extend(map(json.loads, block.splitlines()))

        async with asyncio.timeout(BOUND):
            assert await self.house.service.follow_started(id, 0, send) is None
        return Said(messages)

    async def until(self, condition: Callable[[list[Execution]], bool]) -> None:
        """Wait until what runs is as it should be."""
        async with asyncio.timeout(BOUND):
            while not condition(self.live):
                await asyncio.sleep(0.01)

    async def status(self, id: str) -> Status:
        record = await self.house.service.history.get(id)
        assert record
        return record.status


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    house, background = build(shared()), Background()
    pipelines = LocalPipelines(CageLauncher(tmp_path / "cage", OWNER), owner=OWNER)
    users = WorkspaceUsers(tmp_path, ("accounts",), OWNER)
    places = LocalPlaces(users, pipelines, house.log, str, time.monotonic, None, background)
    house.resolver.places = places
    house.resolver.visitors_files = places.workspace("visitors")
    background.service = house.service
    yield Server(house, background, tmp_path / f"accounts/{ANN.user.id if ANN.user else ''}")
    async with asyncio.timeout(BOUND):
        await house.gateway.close()


async def test_it_is_an_execution_of_its_own(server: Server) -> None:
    said = await server.run(
        "mkdir sub; cd sub; X='a  b'; export CI=7; printf '%s' \"$X$CI\" > f & echo on; wait; cat f"
    )
    (id,) = said.started
    assert said.text("stdout") == "on\na  b7\n"
    assert said.text("stderr") == f"[1] {id}\n"
    record = await server.house.service.history.get(id)
    assert record
    assert (record.command, record.principal) == ("printf '%s' \"$X$CI\" > f", ANN.name)
    assert (record.status, record.target) == (Status.SUCCEEDED, "local")
    assert server.house.service.local.registry.live == {}


async def test_it_outlives_its_line_and_is_ended_by_its_number(server: Server) -> None:
    session = Session()
    said = await server.run("sleep 30 & (cat) & jobs; echo $!", session=session)
    first, second = said.started
    shown = said.text("stdout").splitlines()
    assert (shown[0], shown[-1]) == (f"[1] {first} running sleep 30", second)
    assert (await server.end(second)).complete["exit_code"] == 0  # its input is empty
    assert (await server.run("kill %1; wait %1; kill %1; echo $?; jobs", session=session)).text("stdout") == "1\n"
    assert (await server.end(first)).complete["status"] == "cancelled"


@pytest.mark.parametrize("name", ["kill $!", "kill -9 %%", "kill -s INT %1", "X=$!; kill -TERM $X 2>/dev/null"])
async def test_a_line_ends_what_it_has_started(server: Server, name: str) -> None:
    said = await server.run(f"sleep 30 & sleep 0.2; {name}; wait %1; echo $?")
    assert said.text("stdout") in {"143\n", "137\n", "130\n"}
    assert said.complete["exit_code"] == 0


async def test_another_account_ends_nothing(server: Server) -> None:
    execution = await server.submit(ANN, "sleep 30")
    for name in (execution.id, f"%{execution.id}", f"%{execution.id[:-1]}", "%1", "%"):
        said = await server.run(f"kill {name}; echo $?", BOB)
        assert said.text("stdout") == "1\n"
        assert said.text("stderr").startswith("kill: ")
    assert await server.status(execution.id) is Status.RUNNING
    assert (await server.run(f"kill %{execution.id}", ANN)).complete["exit_code"] == 0
    assert (await server.end(execution.id)).complete["status"] == "cancelled"


async def test_a_beginning_that_two_have_ends_neither(server: Server) -> None:
    said = await server.run("sleep 30 & sleep 30 & kill %01")
    assert "more than one" in said.text("stderr")
    assert [await server.status(each) for each in said.started] == [Status.RUNNING] * 2
    number = server.house.service.local.registry.live
    assert len(number) == 2


@pytest.mark.parametrize(
    ("line", "stdout"),
    [
        ("false & echo $?; wait $!; echo $?", "0\n1\n"),
        ("true && false & wait %1; echo $?; wait; echo $?", "1\n0\n"),
        ("for i in 1 2; do sh -c true & done; wait; echo $i", "2\n"),
        ("for i in 1 2; do echo $i >> f & wait; done; cat f", "1\n2\n"),
        ("{ echo a; echo b; } > f & wait; cat f", "a\nb\n"),
        ("(echo a > f & wait); cat f; wait %7; echo $?", "a\n127\n"),
        ("if true; then cat nope 2> f & fi; wait; wc -l < f", "1\n"),
        ("echo a > f & echo b\nwait\ncat f", "b\na\n"),
        ("set -e; false & wait; echo on; wait %1; echo no", "on\n"),
        ("(exit 3) & wait %%; echo $?", "3\n"),
        ("X=1; X=2 & echo $X", "1\n"),
    ],
)
async def test_what_a_line_does_meanwhile(server: Server, line: str, stdout: str) -> None:
    said = await server.run(line)
    assert (said.text("stdout"), said.rule) == (stdout, "")


async def test_a_wait_ends_with_its_line(server: Server) -> None:
    execution = await server.submit(ANN, "sleep 30 & wait; echo no")
    await server.until(lambda live: len(live) == 2)
    stop = Stop(StopReason.CANCELLED, ANN.name)
    await server.house.service.instruct(ANN, execution.id, stop)
    said = await server.end(execution.id)
    assert (said.complete["status"], said.text("stdout")) == ("cancelled", "")
    assert await server.status(said.started[0]) is Status.RUNNING


async def test_a_wait_has_the_time_of_its_line(server: Server) -> None:
    server.house.resolver.limits = ExecutionLimits(0.5, 20, 10_000, 10)
    said = await server.run("sleep 30 & wait")
    assert (said.complete["status"], said.rule) == ("timed_out", "limits.timeout")
    assert await server.status(said.started[0]) is Status.RUNNING


@pytest.mark.parametrize(
    "line",
    [
        "while true; do sleep 30 & done",
        "(while true; do (while true; do sleep 30 & done) & done) & wait",
    ],
)
async def test_no_more_run_than_may_at_once(server: Server, line: str) -> None:
    said = await server.run(line)
    await server.until(lambda live: all(each.request.command == "sleep 30" for each in live))
    assert len(server.house.service.local.registry.live) <= 8
    if "wait" not in line:
        assert (said.complete["exit_code"], said.rule) == (126, "limits.concurrency")


async def test_each_is_judged_and_refused_as_any_execution(server: Server) -> None:
    refused = await server.house.service.submit(ANN, CommandSpec("echo a & sudo -c id &"))
    assert isinstance(refused, Refused)
    said = await server.run("echo ../x > n; X=$(cat n); cat $X & echo no")
    assert (said.text("stdout"), said.rule, said.started) == ("", "path.parent", [])
    assert (await server.run("echo a &", replace(ANN, name="user:gone"))).complete["exit_code"] == 0


async def test_what_a_visitor_has_started_ends_after_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.house.resolver.limits = ExecutionLimits(10, 20, 10_000, 0)
    monkeypatch.setattr("backend.core.execution.registry.FIRST_VIEWER", 0)
    line = await server.submit(VISITOR, "sleep 30 & cat; sleep 30 & sleep 30", stdin=True)
    await server.until(lambda live: len(live) == 2)
    (first,) = {each.id for each in server.live} - {line.id}
    await asyncio.sleep(0)  # what needs a viewer would end now
    assert await server.status(first) is Status.RUNNING
    line.add_viewer()
    server.background.leave(VISITOR)
    await server.until(lambda live: [each.id for each in live] == [line.id])
    assert await server.status(first) is Status.CANCELLED
    await server.house.service.instruct(VISITOR, line.id, CloseInput())
    await server.until(lambda _: len(server.house.log.executions.rows) == 3)
    await server.until(lambda live: [each.id for each in live] == [line.id])
