"""The one path, with real parts: files, processes, windows."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from backend.application.local_executions import LocalExecutions
from backend.core.audit.attempts import Attempt, Completion
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution.gateway import REFUSAL_BOUND, Gateway, Rates
from backend.core.execution.instructions import Instructions
from backend.core.execution.lifecycle import Clock, Lifecycle
from backend.core.execution.model import Delivery, Job, Outcome, Status, Stop, StopReason, Write
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Request
from backend.core.execution.targets import OWN, ExecutionLimits, Target
from backend.core.identity import Principal, Role
from backend.core.limits import Rate, Slots
from backend.core.policy.admit import Scope
from backend.core.ports import ActorLike, QueuedExecution
from backend.core.recording.reader import Send
from backend.core.recording.writer import RecordingWriter
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.outside import OutsideProgram
from backend.executors.local.pipelines import LocalPipelines
from backend.executors.local.places import LocalPlaces
from backend.executors.local.run_as import find_owner, give_folder
from backend.executors.local.workspace import FolderView, prepare_workspace
from backend.executors.local.workspace_users import WorkspaceUsers
from backend.policies.loader import load_profile
from backend.storage.limiter import MovingWindow
from backend.storage.memory.executions import MemoryExecutions
from backend.storage.recordings import FileRecordings

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

    def ended(self, execution: Execution, completion: Completion) -> None:
        self.seen.append(f"ended {completion.status}")

    def handed_over(self, execution: Execution) -> None: ...

    def on_crash(self, execution: str, error: Exception) -> None:
        self.seen.append(f"broke {error}")

    def on_audit_failure(self, execution: str, error: StorageError) -> None:
        self.seen.append(f"unwritten {error}")


class Book:
    """A ledger that is a list; with `full` it takes nothing more."""

    def __init__(self) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.full = False

    async def refuse(self, attempt: Attempt) -> None:
        self._write("refused", attempt.id, attempt.decision.rule)

    async def open(self, attempt: Attempt) -> None:
        self._write("opened", attempt.id, attempt.command)

    async def step(
        self, execution: str, actor: ActorLike, argvs: tuple[tuple[str, ...], ...], decision: Decision
    ) -> None:
        self._write("step", execution, argvs)

    async def enqueue(self, attempt: Attempt, job: str) -> None:
        self._write("queued", attempt.id, job)

    async def claim(self, execution: str) -> bool:
        self._write("claimed", execution)
        return True

    async def queued(self, targets: Collection[str], limit: int) -> Sequence[QueuedExecution]:
        return ()

    async def waiting(self, execution: str) -> QueuedExecution | None:
        return None

    async def hand_over(self, execution: str) -> bool:
        self._write("handed over", execution)
        return True

    async def cancel_queued(self, execution: str, completion: Completion) -> bool:
        return False

    async def close(self, attempt: Attempt, completion: Completion) -> bool:
        self._write("closed", attempt.id, str(completion.status))
        return True

    async def retry_unwritten(self) -> int:
        return 0

    def _write(self, *line: Any) -> None:
        if self.full:
            raise StorageError("The disk is full.")
        self.lines.append(line)


@dataclass
class House:
    """A gateway with the target that requests go to, and the recordings of what runs there."""

    gateway: Gateway
    target: Target

    @property
    def live(self) -> dict[str, Execution]:
        return self.gateway.lifecycle.registry.live

    @property
    def observer(self) -> Any:
        return self.gateway.lifecycle.observer

    @property
    def ledger(self) -> Any:
        return self.gateway.lifecycle.log

    @property
    def recordings(self) -> Any:
        return self.gateway.lifecycle.recordings

    async def follow(self, execution: str, after_seq: int, send: Send) -> bool:
        local = LocalExecutions(self.gateway.lifecycle.registry, self.recordings, MemoryExecutions())
        return await local.follow_here(execution, after_seq, send)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.gateway, name)


class Broken:
    """An executor that fails."""

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        raise RuntimeError("broken")


class Deaf:
    """An executor that reads no input and ends when it is asked to."""

    async def run(self, job: Job, output: RecordingWriter, instructions: Instructions) -> Outcome:
        while not instructions.reason:
            await asyncio.sleep(0)
        return Outcome(Status.CANCELLED, None)


LIMITS = ExecutionLimits(timeout=10, longest=20, output_limit=100_000, detach_grace=10)


@pytest.fixture
def make(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., House]:
    numbers = itertools.count(10)
    owner = find_owner("nobody")
    cage = CageLauncher(tmp_path_factory.getbasetemp() / "cage", owner)

    def build(profile: str = "terminal", terms: ExecutionLimits = LIMITS, **parts: Any) -> House:
        prepare_workspace(tmp_path / "ws")
        give_folder(tmp_path / "ws", owner)
        limiter = MovingWindow(Rate(1000, 60))
        book, mask = Book(), lambda text: text.replace("hunter2", "[masked]")
        pipelines = LocalPipelines(cage, {"pyguard": OutsideProgram(("env",))}, owner=owner)
        places = LocalPlaces(WorkspaceUsers(tmp_path, ("accounts",), owner), pipelines, book, mask, time.monotonic)
        clock = Clock(
            time.monotonic, lambda: "2026-01-02T03:04:05Z", lambda: f"01ARZ3NDEKTSV4RRFFQ69G5F{next(numbers)}"
        )
        judge, files = load_profile(profile), FolderView(tmp_path / "ws")
        executor = parts.pop("executor", places.executor(judge, files, network=False))
        standard: dict[str, Any] = {
            "rates": Rates(limiter, limiter, limiter),
            "refusals": book,
            "slots": Slots(2, 3),
            "lifecycle": Lifecycle(book, book, str, FileRecordings(tmp_path / "recordings"), Witness(), clock, mask),
            "protected": lambda: None,
        }
        target = Target(OWN, judge, files, executor, terms)
        return House(Gateway(**{**standard, **parts}), target)

    return build


def visitors_only(limiter: MovingWindow) -> Rates:
    return Rates(limiter, MovingWindow(Rate(1000, 60)), MovingWindow(Rate(2, 60)))


async def start(gateway: House, command: str, **fields: Any) -> Execution:
    execution = await gateway.submit(Request(fields.pop("principal", ANN), gateway.target, command, **fields))
    assert isinstance(execution, Execution), execution
    return execution


async def rule_of(gateway: House, command: str, **fields: Any) -> str:
    refused = await gateway.submit(Request(fields.pop("principal", ANN), gateway.target, command, **fields))
    assert isinstance(refused, Refused)
    return refused.decision.rule


async def messages(gateway: House, execution: Execution) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    async def send(block: bytes) -> None:
        seen.extend(map(json.loads, block.splitlines()))

    assert await gateway.follow(execution.id, 0, send)
    return seen


async def test_a_command_is_recorded_from_start_to_end(make: Callable[..., House]) -> None:
    gateway = make()
    execution = await start(gateway, "cat *.txt", client_ref="mine")
    started, output, complete = await messages(gateway, execution)
    assert (started["argv"], started["rule"], started["id"]) == (["cat", "welcome.txt"], "allow.cat", "mine")
    assert output["lines"][0].startswith("This is the folder")
    assert (complete["status"], complete["exit_code"], complete["seq"]) == ("succeeded", 0, 3)
    assert gateway.observer.seen == ["started", "ended succeeded"]
    assert not gateway.live
    assert not gateway.slots.taken


async def test_an_attempt_whose_judgement_breaks_is_refused_and_recorded(make: Callable[..., House]) -> None:
    class Broken(FolderView):
        def for_line(self) -> FolderView:
            raise RecursionError("too deep")

    gateway = make()
    gateway.target = replace(gateway.target, files=Broken(Path(gateway.target.files.root)))
    assert await rule_of(gateway, "cat welcome.txt") == "server.failed"
    explained = await gateway.explain(Request(ANN, gateway.target, "cat *"))
    assert isinstance(explained, Decision)
    assert explained.rule == "server.failed"
    assert gateway.observer.seen[:2] == ["broke too deep", "refused server.failed"]
    assert gateway.ledger.lines[-1][0] == "refused"


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
    make: Callable[..., House], command: str, fields: dict[str, Any], rule: str
) -> None:
    gateway = make()
    Path(gateway.target.files.root, "leads-out").symlink_to("/etc/passwd")
    assert await rule_of(gateway, command, **fields) == rule
    assert gateway.observer.seen == [f"refused {rule}"]
    assert not gateway.slots.taken


async def test_a_refusal_does_not_wait_long_for_an_audit_that_does_not_answer(make: Callable[..., House]) -> None:
    never = asyncio.Event()

    class Silent(Book):
        async def refuse(self, attempt: Attempt) -> None:
            await never.wait()

    gateway = make(refusals=Silent())
    async with asyncio.timeout(REFUSAL_BOUND + 2):
        assert await rule_of(gateway, "rm x") == "blocked.rm"
    never.set()


async def test_the_rate_counts_for_the_principal_and_for_its_address(make: Callable[..., House]) -> None:
    gateway = make(rates=visitors_only(MovingWindow(Rate(3, 60))))
    assert await rule_of(gateway, "rm x") == "blocked.rm"
    await messages(gateway, await start(gateway, "pwd"))
    await messages(gateway, await start(gateway, "pwd", principal=BOB))
    assert await rule_of(gateway, "pwd") == "limits.rate"
    assert await rule_of(gateway, "pwd", principal=Principal("cid", ANN.address)) == "limits.rate"
    await messages(gateway, await start(gateway, "pwd", principal=Principal("dan", "10.0.0.2")))


async def test_checks_are_counted_apart_and_explaining_is_one_of_them(make: Callable[..., House]) -> None:
    gateway = make(rates=visitors_only(MovingWindow(Rate(1, 60))))
    assert [left.remaining for left in await gateway.rates.left(ANN)] == [1, 2]
    await messages(gateway, await start(gateway, "pwd", dry_run=True))
    assert [left.remaining for left in await gateway.rates.left(ANN)] == [1, 1]
    await gateway.explain(Request(ANN, gateway.target, "pwd"))
    for decision in (
        await gateway.explain(Request(ANN, gateway.target, "pwd")),
        (await gateway.submit(Request(BOB, gateway.target, "pwd", dry_run=True))).decision,
    ):
        assert (decision.rule, decision.reason[:16]) == ("limits.rate", "Too many checks:")
        assert 0 < decision.retry_after <= 60
    await messages(gateway, await start(gateway, "pwd"))
    commands, checks = await gateway.rates.left(BOB)
    assert (commands.remaining, checks.remaining) == (0, 0)
    assert 0 < commands.reset <= 60


async def test_places_are_for_each_and_for_all(make: Callable[..., House]) -> None:
    gateway = make()
    running = [await start(gateway, "pyguard sleep 30") for _ in range(2)]
    assert await rule_of(gateway, "pwd") == "limits.concurrency"
    running.append(await start(gateway, "pyguard sleep 30", principal=BOB))
    assert await rule_of(gateway, "pwd", principal=Principal("cid", "x")) == "limits.busy"
    for execution in running:
        execution.instructions.stop(StopReason.CANCELLED)
        assert (await messages(gateway, execution))[-1]["status"] == "cancelled"
    assert not gateway.slots.taken


async def test_a_dry_run_judges_and_starts_nothing(make: Callable[..., House]) -> None:
    gateway = make()
    execution = await start(gateway, "pyguard touch made.txt", dry_run=True)
    started, complete = await messages(gateway, execution)
    assert (started["dry_run"], complete["dry_run"], complete["exit_code"]) == (True, True, None)
    assert not Path(gateway.target.files.root, "made.txt").exists()


async def test_a_command_that_nobody_watches_is_stopped(make: Callable[..., House]) -> None:
    gateway = make(terms=ExecutionLimits(timeout=30, longest=30, output_limit=1000, detach_grace=0.05))
    execution = await start(gateway, "pyguard sleep 30")
    assert execution.task
    await asyncio.wait_for(execution.task, 60)
    problem, complete = (await messages(gateway, execution))[-2:]
    assert (problem["rule"], complete["status"]) == ("limits.detach", "cancelled")


async def test_a_viewer_keeps_it_alive_until_the_last_one_goes(make: Callable[..., House]) -> None:
    gateway = make(terms=ExecutionLimits(timeout=30, longest=30, output_limit=1000, detach_grace=0.05))
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
    await asyncio.wait_for(execution.task, 60)
    assert execution.instructions.reason is StopReason.ABANDONED


async def test_time_and_output_are_bounded(make: Callable[..., House]) -> None:
    gateway = make()
    slow, loud = await start(gateway, "pyguard sleep 30", timeout=0.2), await start(gateway, "pyguard yes")
    problem, complete = (await messages(gateway, slow))[-2:]
    assert (problem["rule"], complete["exit_code"], complete["timed_out"]) == ("limits.timeout", 124, True)
    truncated, complete = (await messages(gateway, loud))[-2:]
    assert (truncated["type"], truncated["limit_bytes"], complete["truncated"]) == ("truncated", 100_000, True)


async def test_whatever_breaks_an_execution_ends_on_record(make: Callable[..., House]) -> None:
    gateway = make(executor=Broken())
    problem, complete = (await messages(gateway, await start(gateway, "pwd")))[-2:]
    assert (problem["rule"], complete["status"], complete["exit_code"]) == ("server.failed", "failed", 125)
    assert gateway.observer.seen == ["started", "broke broken", "ended failed"]
    assert not gateway.slots.taken


async def test_what_has_ended_accepts_no_input(make: Callable[..., House]) -> None:
    gateway = make(executor=Deaf())
    execution = await start(gateway, "pwd", stdin=True)
    assert await execution.instructions.deliver(Write(b"x")) is Delivery.DELIVERED
    assert await execution.instructions.deliver(Stop(StopReason.CANCELLED)) is Delivery.DELIVERED
    await messages(gateway, execution)
    assert await execution.instructions.deliver(Write(b"x")) is Delivery.CLOSED
    assert not execution.instructions.stdin.waiting


async def test_without_a_recording_nothing_runs(make: Callable[..., House]) -> None:
    gateway = make()
    gateway.recordings.folder.rmdir()
    assert await rule_of(gateway, "pyguard touch made.txt") == "recording.unavailable"
    assert not Path(gateway.target.files.root, "made.txt").exists()
    assert not gateway.slots.taken


async def test_an_unknown_execution_cannot_be_followed(make: Callable[..., House]) -> None:
    async def send(_: bytes) -> None:
        raise AssertionError

    assert not await make().follow("01ARZ3NDEKTSV4RRFFQ69G5FAV", 0, send)


async def test_closing_stops_everything_and_lets_nothing_in(make: Callable[..., House]) -> None:
    gateway = make()
    running = [await start(gateway, "pyguard sleep 30") for _ in range(2)]
    await asyncio.wait_for(gateway.close(), 60)
    for execution in running:
        problem, complete = (await messages(gateway, execution))[-2:]
        assert (problem["rule"], complete["status"]) == ("server.stopping", "cancelled")
    assert await rule_of(gateway, "pwd") == "server.stopping"


def test_the_first_reason_to_stop_stays() -> None:
    control = Instructions(stdin=False)
    control.stop(StopReason.CANCELLED)
    control.stop(StopReason.TIMED_OUT)
    assert control.reason is StopReason.CANCELLED


def test_an_outcome_is_a_value() -> None:
    outcome = Outcome(Status.SUCCEEDED, 0)
    assert replace(outcome, exit_code=0) == outcome


async def test_what_cannot_be_audited_does_not_run(make: Callable[..., House]) -> None:
    gateway = make()
    gateway.ledger.full = True
    assert await rule_of(gateway, "pyguard touch made.txt") == "storage.unavailable"
    assert not Path(gateway.target.files.root, "made.txt").exists()
    assert not gateway.slots.taken
    assert not list(gateway.recordings.folder.iterdir())
    assert gateway.observer.seen[-1] == "unwritten The disk is full."


async def test_the_ledger_is_told_before_and_after(make: Callable[..., House]) -> None:
    gateway = make()
    execution = await start(gateway, "echo hunter2")
    assert execution.task
    await execution.task
    refused = await gateway.submit(Request(ANN, gateway.target, "rm hunter2"))
    assert gateway.ledger.lines == [
        ("opened", execution.id, "echo [masked]"),
        ("closed", execution.id, "succeeded"),
        ("refused", refused.execution, "blocked.rm"),
    ]


async def test_who_may_only_look_runs_nothing(make: Callable[..., House]) -> None:
    viewer = Principal("user:eve", "10.0.0.1", Role.VIEWER.permissions)
    assert await rule_of(make(), "ls", principal=viewer) == "role.forbidden"


async def test_where_the_kernel_cannot_hold_commands_none_run(make: Callable[..., House]) -> None:
    weak = Decision.deny("protection.unavailable", "L1 here, L2 is wanted.")
    assert await rule_of(make(protected=lambda: weak), "ls") == "protection.unavailable"


async def lines_of(gateway: House, command: str, **fields: Any) -> tuple[list[str], dict[str, Any]]:
    told = await messages(gateway, await start(gateway, command, **fields))
    lines = [line for message in told if message["type"] == "stdout" for line in message["lines"]]
    return lines, told[-1]


@pytest.mark.parametrize(
    ("command", "lines", "code"),
    [
        ("echo a && echo b || echo c", ["a", "b"], 0),
        ("cat no && echo b || echo c", ["c"], 0),
        ("cat no || cat no2 || echo c; echo d", ["c", "d"], 0),
        ("cat no; cat no2", [], 1),
        ("mkdir -p x/y && cd x && ls && cd y && pwd | wc -l", ["y", "1"], 0),
        ("cd nowhere && echo b", [], 1),
        ("cd nowhere && echo b || echo c", ["c"], 0),
        ("touch b1 b2 && ls b*", ["b1", "b2"], 0),
        ("echo x > n && cat n >> n2 && cat < n2", ["x"], 0),
        ("echo z | grep q | wc -l", ["0"], 0),
        ("TZ=UTC date +%Z", ["UTC"], 0),
    ],
)
async def test_operators_mean_what_they_mean_in_a_shell(
    make: Callable[..., House], command: str, lines: list[str], code: int
) -> None:
    said, complete = await lines_of(make("agent"), command)
    assert (said, complete["exit_code"]) == (lines, code)


@pytest.mark.parametrize("command", ["touch made && rm ../x", "touch made | sudo ls", "touch made; sudo x"])
async def test_a_line_is_judged_whole_before_anything_runs(make: Callable[..., House], command: str) -> None:
    gateway = make("agent")
    assert isinstance(await gateway.submit(Request(ANN, gateway.target, command)), Refused)
    assert not Path(gateway.target.files.root, "made").exists()


async def test_a_step_is_judged_again_when_its_turn_comes(make: Callable[..., House]) -> None:
    """A link that an earlier step put there is seen: here it is made by a program that the profile lets do anything."""
    gateway = make()
    script = """perl -e 'symlink("/etc" . "/passwd", "sub/link")'"""
    profile = replace(gateway.target.profile, operators=frozenset({";"}))
    scope = Scope(profile, gateway.target.files, network=False)
    executor: Any = gateway.target.executor
    executor = replace(executor, target=scope)
    target = replace(gateway.target, profile=profile, executor=executor)
    Path(gateway.target.files.root, "sub").mkdir()
    give_folder(Path(gateway.target.files.root, "sub"), find_owner("nobody"))
    request = Request(ANN, target, f"pyguard {script}; cat sub/*")
    execution = await gateway.submit(request)
    assert isinstance(execution, Execution)
    problem, complete = (await messages(gateway, execution))[-2:]
    assert (problem["rule"], complete["exit_code"]) == ("path.link", 126)


async def test_metadata_only_keeps_no_output(make: Callable[..., House]) -> None:
    lines, complete = await lines_of(make(), "echo secret", metadata_only=True)
    assert (lines, complete["stdout_bytes"], complete["exit_code"]) == ([], 7, 0)


async def test_a_detached_command_needs_no_viewer(make: Callable[..., House]) -> None:
    gateway = make(terms=ExecutionLimits(timeout=30, longest=30, output_limit=1000, detach_grace=0.01))
    execution = await start(gateway, "pyguard sleep 0.2", detached=True)
    assert execution.task
    await asyncio.wait_for(execution.task, 60)
    assert execution.instructions.reason is None


async def test_the_verdict_is_explained_without_running(make: Callable[..., House]) -> None:
    gateway = make()
    plan = await gateway.explain(Request(ANN, gateway.target, "cat *.txt"))
    assert plan.argvs == (("cat", "welcome.txt"),)
    assert (await gateway.explain(Request(ANN, gateway.target, "rm x"))).rule == "blocked.rm"
    assert not gateway.observer.seen


async def test_links_that_take_long_to_follow_stop_no_other_client(make: Callable[..., House]) -> None:
    gateway = make("agent")
    folder, target = Path(gateway.target.files.root), "links"
    (folder / target).mkdir()
    # A mount somewhere lets the kernel walk a path again, and it counts the links of both walks to its 40.
    for number in range(19):
        (folder / f"l{number}").symlink_to("links/../" * 440 + target)
        target = f"l{number}"
    line = "cat " + " ".join(f"{target}/{number}" for number in range(100))
    judging, turns = asyncio.create_task(gateway.explain(Request(ANN, gateway.target, line))), 0
    while not judging.done():
        await asyncio.sleep(0)
        turns += 1
    assert judging.result().rule == "limits.links"
    assert turns > 20


async def test_a_line_that_is_cancelled_starts_no_further_step(make: Callable[..., House]) -> None:
    gateway = make("agent")
    execution = await start(gateway, "tail -f welcome.txt; touch made || touch made2")
    execution.instructions.stop(StopReason.CANCELLED, "user:ann")
    complete = (await messages(gateway, execution))[-1]
    assert complete["status"] == "cancelled"
    assert not list(Path(gateway.target.files.root).glob("made*"))


async def test_a_step_with_other_words_is_written_before_it_runs(make: Callable[..., House]) -> None:
    gateway = make("agent")
    execution = await start(gateway, "touch q1 q2; echo q*; echo same")
    assert execution.task
    await execution.task
    assert [line[0] for line in gateway.ledger.lines] == ["opened", "step", "closed"]
    assert gateway.ledger.lines[1][2] == (("echo", "q1", "q2"),)


async def test_a_step_that_cannot_be_audited_keeps_what_the_earlier_ones_wrote_and_used(
    make: Callable[..., House],
) -> None:
    gateway = make("agent")

    async def fail(*_: Any) -> None:
        raise StorageError("The disk is full.")

    gateway.ledger.step = fail
    execution = await start(gateway, "touch q1; echo one; echo q*")
    output, problem, complete = (await messages(gateway, execution))[-3:]
    assert (output["lines"], problem["rule"]) == (["one"], "storage.unavailable")
    assert (complete["status"], complete["exit_code"], complete["stdout_bytes"]) == ("failed", 125, 4)
    assert complete["written_bytes"] is not None
    assert complete["protection"]


async def test_an_end_that_cannot_be_audited_is_an_end_all_the_same(make: Callable[..., House]) -> None:
    gateway = make()
    execution = await start(gateway, "pyguard sleep 0.1")
    gateway.ledger.full = True
    assert execution.task
    await execution.task
    assert gateway.ledger.lines == [("opened", execution.id, "pyguard sleep 0.1")]
    assert "unwritten The disk is full." in gateway.observer.seen
    assert (await messages(gateway, execution))[-1]["status"] == "succeeded"
    assert not gateway.slots.taken


@pytest.mark.parametrize("command", ["cat /hunter2/x", "ls --hunter2", "cat < hunter2", "cd hunter2 && ls"])
async def test_no_secret_comes_back_in_a_reason_or_an_error(make: Callable[..., House], command: str) -> None:
    gateway = make("agent")
    result = await gateway.submit(Request(ANN, gateway.target, command))
    if isinstance(result, Refused):
        assert "hunter2" not in result.decision.reason + result.decision.hint
        assert "[masked]" in result.decision.reason
    else:
        told = json.dumps(await messages(gateway, result))
        assert "[masked]: No such" in told
        assert "hunter2" not in told
