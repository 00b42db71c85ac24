"""The one path, with real parts: files, processes, windows."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.core.decisions import Decision
from backend.core.executions import Control, Order, Outcome, Request, Status, Stop
from backend.core.gateway import Clock, Execution, Gateway, Refused, Terms
from backend.core.identity import Principal
from backend.core.limits import Rate, Slots
from backend.core.recording import Recorder
from backend.execution.local import LocalExecutor, OutsideProgram
from backend.execution.processes import Processes
from backend.execution.workspace import FolderWorkspace, prepare_workspace
from backend.profiles import load_profile
from backend.storage.limiter import MovingWindow
from backend.storage.recordings import RecordingFolder

ANN = Principal("ann", "10.0.0.1")
BOB = Principal("bob", "10.0.0.1")


class Witness:
    """Writes down what the gateway tells."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def refused(self, request: Request, decision: Decision) -> None:
        self.seen.append(f"refused {decision.rule}")

    def started(self, execution: Execution) -> None:
        self.seen.append("started")

    def ended(self, execution: Execution, outcome: Outcome, seconds: float) -> None:
        self.seen.append(f"ended {outcome.status}")

    def broke(self, execution: Execution, error: Exception) -> None:
        self.seen.append(f"broke {error}")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Gateway]:
    numbers = itertools.count(10)

    def build(**parts: Any) -> Gateway:
        prepare_workspace(tmp_path / "ws")
        standard: dict[str, Any] = {
            "profile": load_profile("terminal"),
            "workspace": FolderWorkspace(tmp_path / "ws"),
            "limiter": MovingWindow(Rate(1000, 60), "t"),
            "slots": Slots(2, 3),
            "recordings": RecordingFolder(tmp_path / "recordings"),
            "executor": LocalExecutor(Processes(), {"pyguard": OutsideProgram(("env",))}),
            "observer": Witness(),
            "terms": Terms(timeout=10, output_limit=100_000, detach_grace=10),
            "clock": Clock(
                time.monotonic, lambda: "2026-01-02T03:04:05Z", lambda: f"01ARZ3NDEKTSV4RRFFQ69G5F{next(numbers)}"
            ),
        }
        return Gateway(**{**standard, **parts})

    return build


async def start(gateway: Gateway, command: str, **fields: Any) -> Execution:
    execution = await gateway.submit(Request(fields.pop("principal", ANN), command, **fields))
    assert isinstance(execution, Execution), execution
    return execution


async def rule_of(gateway: Gateway, command: str, **fields: Any) -> str:
    refused = await gateway.submit(Request(fields.pop("principal", ANN), command, **fields))
    assert isinstance(refused, Refused)
    return refused.decision.rule


async def messages(gateway: Gateway, execution: Execution) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    async def send(block: bytes) -> None:
        seen.extend(map(json.loads, block.splitlines()))

    assert await gateway.follow(execution.id, 0, send)
    return seen


async def test_a_command_is_recorded_from_start_to_end(make: Callable[..., Gateway]) -> None:
    gateway = make()
    execution = await start(gateway, "cat *.txt", id="mine")
    started, output, complete = await messages(gateway, execution)
    assert (started["argv"], started["rule"], started["id"]) == (["cat", "welcome.txt"], "allow.cat", "mine")
    assert output["lines"][0].startswith("This is your workspace")
    assert (complete["status"], complete["exit_code"], complete["seq"]) == ("succeeded", 0, 3)
    assert gateway.observer.seen == ["started", "ended succeeded"]
    assert not gateway.live
    assert not gateway.slots.taken


@pytest.mark.parametrize(
    ("command", "fields", "rule"),
    [
        ("ls;ls", {}, "syntax.operator"),
        ("x" * 1001, {}, "limits.characters"),
        ("echo " + "x " * 50, {}, "limits.arguments"),
        ("ls", {"timeout": 11.0}, "limits.timeout"),
        ("ls", {"cwd": ".."}, "path.outside"),
        ("rm x", {}, "blocked.rm"),
        ("cat /etc/passwd", {}, "path.outside"),
        ("cat leads-out", {}, "path.link"),
    ],
)
async def test_what_is_refused_runs_nothing(
    make: Callable[..., Gateway], command: str, fields: dict[str, Any], rule: str
) -> None:
    gateway = make()
    Path(gateway.workspace.root, "leads-out").symlink_to("/etc/passwd")
    assert await rule_of(gateway, command, **fields) == rule
    assert gateway.observer.seen == [f"refused {rule}"]
    assert not gateway.slots.taken


async def test_the_rate_counts_for_the_principal_and_for_its_address(make: Callable[..., Gateway]) -> None:
    gateway = make(limiter=MovingWindow(Rate(3, 60), "t"))
    assert await rule_of(gateway, "rm x") == "blocked.rm"
    await messages(gateway, await start(gateway, "pwd"))
    await messages(gateway, await start(gateway, "pwd", principal=BOB))
    assert await rule_of(gateway, "pwd") == "limits.rate"
    assert await rule_of(gateway, "pwd", principal=Principal("cid", ANN.address)) == "limits.rate"
    await messages(gateway, await start(gateway, "pwd", principal=Principal("dan", "10.0.0.2")))


async def test_places_are_for_each_and_for_all(make: Callable[..., Gateway]) -> None:
    gateway = make()
    running = [await start(gateway, "pyguard sleep 30") for _ in range(2)]
    assert await rule_of(gateway, "pwd") == "limits.concurrency"
    running.append(await start(gateway, "pyguard sleep 30", principal=BOB))
    assert await rule_of(gateway, "pwd", principal=Principal("cid", "x")) == "limits.busy"
    for execution in running:
        execution.control.stop(Stop.CANCELLED)
        assert (await messages(gateway, execution))[-1]["status"] == "cancelled"
    assert not gateway.slots.taken


async def test_a_dry_run_judges_and_starts_nothing(make: Callable[..., Gateway]) -> None:
    gateway = make()
    execution = await start(gateway, "pyguard touch made.txt", dry_run=True)
    started, complete = await messages(gateway, execution)
    assert (started["dry_run"], complete["dry_run"], complete["exit_code"]) == (True, True, None)
    assert not Path(gateway.workspace.root, "made.txt").exists()


async def test_a_command_that_nobody_watches_is_stopped(make: Callable[..., Gateway]) -> None:
    gateway = make(terms=Terms(timeout=30, output_limit=1000, detach_grace=0.05))
    execution = await start(gateway, "pyguard sleep 30")
    assert execution.task
    await asyncio.wait_for(execution.task, 10)
    problem, complete = (await messages(gateway, execution))[-2:]
    assert (problem["rule"], complete["status"]) == ("limits.detach", "cancelled")


async def test_a_viewer_keeps_it_alive_until_the_last_one_goes(make: Callable[..., Gateway]) -> None:
    gateway = make(terms=Terms(timeout=30, output_limit=1000, detach_grace=0.05))
    execution = await start(gateway, "pyguard sleep 30")
    viewers = [asyncio.create_task(messages(gateway, execution)) for _ in range(2)]
    while execution.viewers < 2:
        await asyncio.sleep(0)
    viewers[0].cancel()
    while execution.viewers > 1:
        await asyncio.sleep(0)
    assert execution.abandon is None
    viewers[1].cancel()
    assert execution.task
    await asyncio.wait_for(execution.task, 10)
    assert execution.control.reason is Stop.ABANDONED


async def test_time_and_output_are_bounded(make: Callable[..., Gateway]) -> None:
    gateway = make()
    slow, loud = await start(gateway, "pyguard sleep 30", timeout=0.2), await start(gateway, "pyguard yes")
    problem, complete = (await messages(gateway, slow))[-2:]
    assert (problem["rule"], complete["exit_code"], complete["timed_out"]) == ("limits.timeout", 124, True)
    truncated, complete = (await messages(gateway, loud))[-2:]
    assert (truncated["type"], truncated["limit_bytes"], complete["truncated"]) == ("truncated", 100_000, True)


async def test_whatever_breaks_an_execution_ends_on_record(make: Callable[..., Gateway]) -> None:
    class Broken:
        async def run(self, order: Order, recorder: Recorder, control: Control) -> Outcome:
            raise RuntimeError("broken")

    gateway = make(executor=Broken())
    problem, complete = (await messages(gateway, await start(gateway, "pwd")))[-2:]
    assert (problem["rule"], complete["status"], complete["exit_code"]) == ("server.failed", "failed", 125)
    assert gateway.observer.seen == ["started", "broke broken", "ended failed"]
    assert not gateway.slots.taken


async def test_without_a_recording_nothing_runs(make: Callable[..., Gateway]) -> None:
    gateway = make()
    gateway.recordings.folder.rmdir()
    assert await rule_of(gateway, "pyguard touch made.txt") == "recording.unavailable"
    assert not Path(gateway.workspace.root, "made.txt").exists()
    assert not gateway.slots.taken


async def test_an_unknown_execution_cannot_be_followed(make: Callable[..., Gateway]) -> None:
    async def send(_: bytes) -> None:
        raise AssertionError

    assert not await make().follow("01ARZ3NDEKTSV4RRFFQ69G5FAV", 0, send)


async def test_closing_stops_everything_and_lets_nothing_in(make: Callable[..., Gateway]) -> None:
    gateway = make()
    running = [await start(gateway, "pyguard sleep 30") for _ in range(2)]
    await asyncio.wait_for(gateway.close(), 10)
    for execution in running:
        problem, complete = (await messages(gateway, execution))[-2:]
        assert (problem["rule"], complete["status"]) == ("server.stopping", "cancelled")
    assert await rule_of(gateway, "pwd") == "server.stopping"


def test_the_first_reason_to_stop_stays() -> None:
    control = Control(stdin=False)
    control.stop(Stop.CANCELLED)
    control.stop(Stop.TIMED_OUT)
    assert control.reason is Stop.CANCELLED


def test_an_outcome_is_a_value() -> None:
    outcome = Outcome(Status.SUCCEEDED, 0)
    assert replace(outcome, exit_code=0) == outcome
