"""What every executor of lines keeps, here and on a host: the same assertions over both."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from backend.core.decisions import Decision
from backend.core.execution.executor import Executor
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import (
    Actor,
    CloseInput,
    Delivery,
    Job,
    Outcome,
    Signal,
    SignalName,
    Status,
    Stop,
    StopReason,
    Write,
)
from backend.core.execution.sequence import Sequence
from backend.core.hosts.commands import HostCommand
from backend.core.policy.admit import PolicyTarget, Scope, admit
from backend.core.policy.files import Unseen
from backend.core.recording.writer import Recorder
from backend.executors.local.builtins import Builtins
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.pipelines import LocalPipelines
from backend.executors.local.places import BUILTINS
from backend.executors.local.run_as import find_owner, give_folder
from backend.executors.local.workspace import FolderView
from backend.policies.loader import load_profile
from backend.runtime.clock import new_id
from tests.client import BOUND
from tests.executors.local.test_pipelines import Log
from tests.host_agent.attached import attached
from tests.redis_server import running_redis

OWNER = find_owner("nobody")
LONGEST_READ = 128 * 1024  # bytes by which a limit may be exceeded: what was read at once
pytestmark = pytest.mark.asyncio(loop_scope="module")  # all of them use one agent


class NoSteps:
    """Keeps no record of steps."""

    async def step(self, *_: Any) -> None: ...


@dataclass
class Place:
    """A folder where an executor runs lines. `remote`: they are the parameter of a command of a host."""

    executor: Executor
    policy: PolicyTarget
    folder: Path
    remote: bool

    def begin(self, line: str, *, prepare: Any = None, **asked: Any) -> "Run":
        """Run a line; `prepare` is called when it has been judged."""
        command = HostCommand("run", {"line": line}).line if self.remote else line
        plan = admit(command, self.policy, ".")
        assert not isinstance(plan, Decision), plan
        if prepare:
            prepare()
        wanted = {"timeout": 20.0, "output_limit": 1 << 20, "stdin": False, **asked}
        job = Job(new_id(), "", Actor("user:ann", "127.0.0.1"), command, plan, **wanted)
        log, instructions = Log(), Instructions(stdin=job.stdin)
        recorder = Recorder(job.execution, log, monotonic)
        task = asyncio.ensure_future(self.executor.run(job, recorder, instructions))
        return Run(task, log, instructions)

    async def run(self, line: str, **asked: Any) -> tuple[Outcome, Log]:
        begun = self.begin(line, **asked)
        return await begun.outcome(), begun.log


@dataclass
class Run:
    """A line that runs."""

    task: "asyncio.Future[Outcome]"
    log: Log
    instructions: Instructions

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(BOUND):
            return await self.task

    async def says(self, text: str) -> None:
        """Wait until its output contains a text."""
        async with asyncio.timeout(BOUND):
            while text not in self.log.text("stdout"):
                assert not self.task.done(), self.task.result()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def here(folder: Path) -> AsyncIterator[Place]:
    """This machine."""
    work = folder / "work"
    work.mkdir()
    give_folder(work, OWNER)
    profile, files = load_profile("agent"), FolderView(work)
    pipelines = LocalPipelines(CageLauncher(folder / "cage", OWNER), owner=OWNER)
    runner, policy = Builtins(BUILTINS, profile, otherwise=pipelines), Scope(profile, files, False)
    yield Place(Sequence(policy, runner, NoSteps(), str, monotonic), policy, work, remote=False)


@asynccontextmanager
async def on_host(folder: Path) -> AsyncIterator[Place]:
    """A host, whose agent judges the lines again."""
    with running_redis() as redis:
        async with attached(folder, redis) as host:
            profile = load_profile("host").with_extra(["run"])
            policy = Scope(profile, Unseen(PurePosixPath("/")), False)
            yield Place(host.executor, policy, folder / "data" / "lines", remote=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[here, on_host], ids=["local", "host"])
async def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    folder = tmp_path_factory.mktemp("place")
    folder.chmod(0o711)
    async with request.param(folder) as found:
        yield found


async def test_a_line_ends_as_its_last_command_and_its_output_is_complete(place: Place) -> None:
    outcome, log = await place.run("echo one && ls missing; seq 2 3; grep -q nothing missing")
    assert (outcome.status, outcome.exit_code, outcome.problem) == (Status.FAILED, 2, "")
    assert log.text("stdout") == "one\n2\n3\n"
    assert "missing" in log.text("stderr")
    assert outcome.stdout_bytes == 8
    assert outcome.stderr_bytes == len(log.text("stderr"))
    assert outcome.usage.protection in {"L1", "L2", "L3"}
    outcome, log = await place.run("printf 'no end'")
    assert (outcome.status, outcome.exit_code, log.text("stdout")) == (Status.SUCCEEDED, 0, "no end")


async def test_much_output_comes_in_order_and_is_bounded(place: Place) -> None:
    outcome, log = await place.run("seq 1 20000")
    assert outcome.status is Status.SUCCEEDED
    assert log.text("stdout") == "".join(f"{number}\n" for number in range(1, 20001))
    outcome, log = await place.run("seq 1 100000", output_limit=10_000)
    assert outcome.status is Status.FAILED
    assert outcome.stdout_bytes >= 10_000  # with what came before it was stopped
    assert len(log.text("stdout")) <= 10_000 + LONGEST_READ
    assert "".join(f"{number}\n" for number in range(1, 100001)).startswith(log.text("stdout")[:10_000])
    assert len(log.text("stdout")) >= 9_990


async def test_a_cancel_and_a_timeout_end_what_runs(place: Place) -> None:
    run = place.begin("echo begins; tail -f /dev/null")
    await run.says("begins\n")
    assert await run.instructions.deliver(Stop(StopReason.CANCELLED)) is Delivery.DELIVERED
    outcome = await run.outcome()
    assert outcome.status is Status.CANCELLED
    outcome, log = await place.run("echo begins; tail -f /dev/null", timeout=1.0)
    assert (outcome.status, outcome.exit_code) == (Status.TIMED_OUT, 124)
    assert log.text("stdout") == "begins\n"


async def test_a_signal_reaches_what_runs_and_is_answered_by_it(place: Place) -> None:
    (place.folder / "log").write_text("begins\n")
    run = place.begin("tail -f log")
    await run.says("begins\n")
    assert await run.instructions.deliver(Signal(SignalName.INT)) is Delivery.DELIVERED
    outcome = await run.outcome()
    assert (outcome.status, outcome.exit_code, outcome.signal) == (Status.FAILED, 130, "SIGINT")
    assert await run.instructions.deliver(Signal(SignalName.INT)) is Delivery.NOT_RUNNING


async def test_standard_input_arrives_and_ends(place: Place) -> None:
    run = place.begin("cat", stdin=True)
    assert await run.instructions.deliver(Write(b"one\n")) is Delivery.DELIVERED
    await run.says("one\n")
    sent = "".join(f"{number}\n" for number in range(15_000))
    assert await run.instructions.deliver(Write(sent.encode())) is Delivery.DELIVERED
    assert await run.instructions.deliver(CloseInput()) is Delivery.DELIVERED
    outcome = await run.outcome()
    assert (outcome.status, run.log.text("stdout")) == (Status.SUCCEEDED, f"one\n{sent}")
    assert await run.instructions.deliver(Write(b"late")) is Delivery.CLOSED


async def test_input_that_nothing_reads_is_bounded(place: Place) -> None:
    (place.folder / "log").write_text("begins\n")
    run = place.begin("tail -f log", stdin=True)
    await run.says("begins\n")
    answers = set()
    async with asyncio.timeout(BOUND):
        while Delivery.NOT_READING not in answers:
            answers.add(await run.instructions.deliver(Write(bytes(1 << 19))))
            await asyncio.sleep(0.01)
    assert answers == {Delivery.DELIVERED, Delivery.NOT_READING}
    await run.instructions.deliver(Stop(StopReason.CANCELLED))
    assert (await run.outcome()).status is Status.CANCELLED


async def test_what_the_policy_of_the_place_refuses_does_not_run(place: Place) -> None:
    """The file is judged again when its turn comes, and has become a link that leads out."""
    (place.folder / "note").write_text("harmless")

    def changed() -> None:
        (place.folder / "note").unlink()
        (place.folder / "note").symlink_to("/etc/passwd")

    outcome, log = await place.run("echo first && cat note", prepare=changed)
    assert (outcome.status, outcome.exit_code) == (Status.FAILED, 126)
    assert outcome.problem
    assert outcome.rule.startswith("files.") or outcome.rule.startswith("path")
    assert "root:" not in log.text("stdout")
