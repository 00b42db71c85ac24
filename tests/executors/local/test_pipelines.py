"""Commands as processes: what they see, how they end, what is left of them."""

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from backend.core.decisions import Decision
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import CloseInput, Delivery, Outcome, Signal, SignalName, Status, StopReason, Write
from backend.core.execution.pipeline import Pipeline
from backend.core.language.parser import Command, ExpandedRedirect, Invocation, parse
from backend.core.recording.batches import read_batch
from backend.core.recording.digest import RecordingDigest
from backend.core.recording.reader import Send
from backend.core.recording.writer import Recorder
from backend.executors.local import pipelines
from backend.executors.local.cage_server import find_server
from backend.executors.local.cgroups import detect_groups
from backend.executors.local.launcher import POLLING, CageLauncher, CageLimits, cage_environment
from backend.executors.local.outside import OutsideProgram
from backend.executors.local.pipelines import LocalPipelines, _limit
from backend.executors.local.run_as import find_owner, give_folder
from tests.needs import caged_python

OWNER = find_owner("nobody")


class Log:
    """Keeps what is recorded in memory."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def append(self, line: bytes) -> None:
        batch = read_batch(line[:-1])
        self.messages += map(json.loads, batch.messages() if batch else [line])

    def end(self, lines: bytes = b"") -> None:
        self.append(lines)

    def seal(self, line: bytes) -> RecordingDigest:
        raise NotImplementedError

    def discard(self) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        raise NotImplementedError

    async def copy(self, send: Send, begin: int = 0, end: int | None = None) -> int:
        raise NotImplementedError

    async def follow(self, after_seq: int, send: Send) -> None:
        raise NotImplementedError

    def text(self, stream: str) -> str:
        mine = [message for message in self.messages if message["type"] == stream]
        return "".join(message["line"] + ("" if message.get("partial") else "\n") for message in mine)


class Bench:
    """One executor that runs Python as `x`."""

    def __init__(
        self, folder: Path, code: str, environment: dict[str, str] | None = None, limits: CageLimits | None = None
    ) -> None:
        python, readable = caged_python()
        program = OutsideProgram((python, "-c", code), environment or {})
        launcher = CageLauncher(folder.parent / "cage", OWNER, limits or CageLimits())
        self.cage = launcher.usable_cage()
        memory = launcher.limits.memory
        self.executor = LocalPipelines(launcher, {"x": program}, readable, owner=OWNER, memory=memory)
        give_folder(folder, OWNER)
        self.folder = folder
        self.log = Log()

    async def run(self, instructions: Instructions | None = None, **order: Any) -> Outcome:
        wanted = {"timeout": 20.0, "output_limit": 1 << 24, "stdin": False, **order}
        pipeline = wanted.pop("pipeline", (Invocation(wanted.pop("argv", ("x",))),))
        recorder = Recorder("01ARZ3NDEKTSV4RRFFQ69G5FAV", self.log, asyncio.get_running_loop().time)
        instructions = instructions or Instructions(stdin=wanted["stdin"])
        place: dict[str, Any] = {"root": str(self.folder), "cwd": str(self.folder)}
        asked = Pipeline("01ARZ3NDEKTSV4RRFFQ69G5FAV", pipeline, **place, **wanted)
        return await self.executor.run(asked, recorder, instructions)

    async def line(self, line: str, *, pipefail: bool = False) -> Outcome:
        """Run one pipeline as it is written."""
        script = parse(line, frozenset({"|", ">", ">>", "<", "2>&1"}), assignments=True)
        assert not isinstance(script, Decision)
        return await self.run(pipeline=tuple(map(invocation, script.steps[0].commands)), pipefail=pipefail)


def invocation(command: Command) -> Invocation:
    assignments = tuple((each.name, each.value.text) for each in command.assignments)
    opened = (ExpandedRedirect(each.operator, each.descriptor, each.target.text) for each in command.redirects)
    return Invocation(command.argv, assignments, tuple(opened))


@pytest.mark.parametrize(
    ("code", "status", "exit_code", "name"),
    [
        ("pass", Status.SUCCEEDED, 0, None),
        ("raise SystemExit(7)", Status.FAILED, 7, None),
        ("import os; os.kill(os.getpid(), 9)", Status.FAILED, 137, "SIGKILL"),
        ("import os; os.kill(os.getpid(), 15)", Status.FAILED, 143, "SIGTERM"),
    ],
)
async def test_the_end_is_told_as_a_shell_tells_it(
    tmp_path: Path, code: str, status: Status, exit_code: int, name: str | None
) -> None:
    outcome = await Bench(tmp_path, code).run()
    assert (outcome.status, outcome.exit_code, outcome.signal) == (status, exit_code, name)


async def test_a_program_that_is_not_there_is_127(tmp_path: Path) -> None:
    outcome = await Bench(tmp_path, "").run(argv=("no-such-program",))
    assert (outcome.status, outcome.exit_code, outcome.rule) == (Status.FAILED, 127, "program.missing")


async def test_a_program_of_the_project_is_named_by_its_path_or_found_among_its_tools(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "")
    tools = tmp_path / "node_modules" / ".bin"
    tools.mkdir(parents=True)
    for file, text in ((tmp_path / "run.sh", "#!/bin/sh\necho run $1\n"), (tools / "tool", "#!/bin/sh\necho tool\n")):
        file.write_text(text)
        file.chmod(0o755)
    (tools / "echo").symlink_to("tool")
    for argv in (("./run.sh", "1"), (f"{tmp_path}/run.sh", "2"), ("tool",), ("timeout", "9", "tool"), ("echo", "own")):
        assert (await bench.run(argv=argv)).exit_code == 0
    assert bench.log.text("stdout") == "run 1\nrun 2\ntool\ntool\nown\n"
    assert (await bench.run(argv=("./nope",))).rule == "program.missing"


@pytest.mark.parametrize(
    ("code", "limits", "rule"),
    [
        ("while True: pass", {"cpu_seconds": 1}, "limits.cpu"),
        (
            "import signal; signal.signal(25, signal.SIG_DFL); open('big', 'wb').write(bytes(9000))",
            {"file_size": 4096},
            "limits.file_size",
        ),
        ("import os; os.kill(os.getpid(), 9)", {}, ""),
        ("import os; x = bytearray(100 << 20); os.abort()", {"memory": 128 << 20}, "limits.memory"),
        ("import os; os.abort()", {}, ""),
    ],
)
async def test_the_limit_that_ended_a_command_is_named(
    tmp_path: Path, code: str, limits: dict[str, int], rule: str
) -> None:
    bench = Bench(tmp_path, code, limits=CageLimits(**limits))
    outcome = await bench.run()
    assert (outcome.status, outcome.rule) == (Status.FAILED, rule)
    assert ("GATEPOST_" in outcome.problem) == bool(rule)


@pytest.mark.parametrize(
    "code",
    [
        "kept = [bytearray(1 << 20) for _ in range(1000)]",
        "import os, sys; pid = os.fork(); pid or [bytearray(1 << 20) for _ in range(1000)]; sys.exit(os.wait()[1] != 0)",
    ],
)
async def test_who_needs_more_memory_is_told_so(tmp_path: Path, code: str) -> None:
    """Also a program that would end by itself if it got no more, and one whose child needed it."""
    if not any("memory" in branch.controllers for branch in detect_groups().branches):
        pytest.skip("no control group limits memory here")
    outcome = await Bench(tmp_path, code, limits=CageLimits(memory=64 << 20, memory_total=64 << 20)).run()
    assert (outcome.status, outcome.rule) == (Status.FAILED, "limits.memory")


@pytest.mark.parametrize(
    ("exit_code", "met", "rule"),
    [
        (137, {"memory"}, "limits.memory"),
        (137, {"memory", "pids"}, "limits.memory"),
        (137, set(), ""),
        (1, {"memory"}, "limits.memory"),
        (1, {"pids"}, "limits.processes"),
        (0, {"pids", "memory"}, ""),
        (152, set(), "limits.cpu"),
        (153, set(), "limits.file_size"),
    ],
)
def test_what_the_kernel_reports_decides_which_limit_it_was(exit_code: int, met: set[str], rule: str) -> None:
    assert _limit(exit_code, frozenset(met)) == rule


async def test_node_is_told_its_heap(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "import os; print(os.environ['NODE_OPTIONS'])", limits=CageLimits(memory=400 << 20))
    await bench.run()
    assert bench.log.text("stdout") == "--max-old-space-size=300\n"


async def test_the_streams_are_kept_apart_and_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)")
    outcome = await bench.run()
    assert (bench.log.text("stdout"), bench.log.text("stderr")) == ("out\n", "err\n")
    assert (outcome.stdout_bytes, outcome.stderr_bytes) == (4, 4)


async def test_a_command_sees_only_the_listed_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_SECRET", "canary")
    bench = Bench(tmp_path, "import os, json; print(json.dumps(dict(os.environ)))", {"KEY": "mine"})
    await bench.run()
    seen = json.loads(bench.log.text("stdout"))
    wanted = {"PATH", "PWD", "LC_CTYPE", "TERM", "PYTHONUNBUFFERED", "GATEPOST_EXECUTION_ID", "KEY"}
    wanted |= {"NODE_OPTIONS", "GIT_EDITOR", "GIT_CEILING_DIRECTORIES"}
    assert set(seen) == wanted | set(cage_environment(str(tmp_path))) | set(POLLING)
    assert seen["HOME"] == str(tmp_path)
    assert "canary" not in str(seen)


async def test_a_command_inherits_no_descriptor(tmp_path: Path) -> None:
    leaked = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    bench = Bench(tmp_path, "import os; print(sorted(map(int, os.listdir('/proc/self/fd'))))")
    await bench.run()
    os.close(leaked)
    assert bench.log.text("stdout") == "[0, 1, 2, 3]\n"  # 3 is the listing itself


async def test_a_stubborn_command_is_killed_after_the_grace(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, lambda *_: print('no')); print('up'); [time.sleep(1) for _ in range(60)]"
    bench = Bench(tmp_path, code)
    begun = asyncio.get_running_loop().time()
    outcome = await bench.run(timeout=1.0)
    assert (outcome.status, outcome.exit_code, outcome.signal) == (Status.TIMED_OUT, 124, "SIGKILL")
    assert "no" in bench.log.text("stdout")
    assert 2.5 < asyncio.get_running_loop().time() - begun < 30


async def test_output_over_the_limit_ends_the_command(tmp_path: Path) -> None:
    bench, instructions = Bench(tmp_path, "while True: print('y' * 100)"), Instructions(stdin=False)
    outcome = await bench.run(instructions, output_limit=100_000)
    assert (outcome.status, instructions.reason) == (Status.FAILED, StopReason.OUTPUT_LIMIT)
    assert len(bench.log.text("stdout")) == 100_000


async def test_input_is_passed_on_until_its_end(tmp_path: Path) -> None:
    bench, instructions = Bench(tmp_path, "import sys; print(len(sys.stdin.read()))"), Instructions(stdin=True)
    running = asyncio.create_task(bench.run(instructions, stdin=True))
    for _ in range(20):
        while instructions.stdin.write(b"z" * 50_000) is not Delivery.DELIVERED:
            await asyncio.sleep(0)
    instructions.stdin.close()
    assert (await running).status is Status.SUCCEEDED
    assert bench.log.text("stdout") == "1000000\n"
    assert instructions.stdin.write(b"more") is Delivery.CLOSED


async def test_input_that_no_program_can_receive_any_more_is_answered_as_closed(tmp_path: Path) -> None:
    code = "import os, time; os.read(0, 1); os.close(0); print('closed'); time.sleep(60)"
    bench, instructions = Bench(tmp_path, code), Instructions(stdin=True)
    running = asyncio.create_task(bench.run(instructions, stdin=True))
    assert await instructions.deliver(Write(b"a")) is Delivery.DELIVERED
    async with asyncio.timeout(20):
        while not bench.log.text("stdout"):
            await asyncio.sleep(0)
    assert await instructions.deliver(Write(b"b")) is Delivery.CLOSED
    assert await instructions.deliver(CloseInput()) is Delivery.CLOSED
    instructions.stop(StopReason.CANCELLED)
    assert (await running).status is Status.CANCELLED


async def test_input_that_nobody_reads_is_bounded(tmp_path: Path) -> None:
    bench, instructions = Bench(tmp_path, "import time; time.sleep(60)"), Instructions(stdin=True)
    running = asyncio.create_task(bench.run(instructions, stdin=True))
    taken = 0
    while instructions.stdin.write(b"z" * 65536) is Delivery.DELIVERED:
        taken += 1
        await asyncio.sleep(0)
    assert taken < 40
    instructions.stop(StopReason.CANCELLED)
    assert (await running).status is Status.CANCELLED


async def test_a_command_that_cannot_begin_since_its_cage_hangs_times_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "STOP_GRACE", 0.1)
    monkeypatch.setattr(pipelines, "BEGIN_BOUND", 0.1)
    bench = Bench(tmp_path, "print('ran')")
    await bench.run()
    server = find_server(bench.cage)
    os.kill(server.pid, signal.SIGSTOP)
    async with asyncio.timeout(20):
        assert (await bench.run(timeout=0.1)).status is Status.TIMED_OUT
    assert (await bench.run()).status is Status.SUCCEEDED
    assert bench.log.text("stdout") == "ran\nran\n"


async def test_a_line_that_is_never_ended_comes_in_time(tmp_path: Path) -> None:
    code = "import sys, time; sys.stdout.write('10%'); sys.stdout.flush(); time.sleep(0.6); print(' done')"
    bench = Bench(tmp_path, code)
    await bench.run()
    first, second = (message for message in bench.log.messages if message["type"] == "stdout")
    assert (first["line"], first["partial"], second["line"]) == ("10%", True, " done")
    assert second["ms"] - first["ms"] >= 400


async def test_bytes_that_are_not_text_are_replaced(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "import os; os.write(1, b'a\\xffb\\n')")
    await bench.run()
    assert bench.log.text("stdout") == "a\ufffdb\n"


@pytest.mark.parametrize(
    ("line", "exit_code", "stdout", "stderr"),
    [
        ("printf 'b\\na\\n' | sort | head -1", 0, "a\n", ""),
        ("printf x > f", 0, "", ""),
        ("cat < given | wc -c", 0, "6\n", ""),
        ("cat missing 2>&1 | wc -l", 0, "1\n", ""),
        ("cat missing | wc -l", 0, "0\n", "cat: missing: No such file or directory\n"),
        ("cat missing > /dev/null 2>&1", 1, "", ""),
        ("cat missing 2>&1 > /dev/null", 1, "cat: missing: No such file or directory\n", ""),
        ("cat missing 2> errors", 1, "", ""),
        ("seq 1 100000 | head -1", 0, "1\n", ""),
        ("A=1 B='two words' printenv A B", 0, "1\ntwo words\n", ""),
        ("cat < missing", 1, "", "missing: No such file or directory\n"),
        ("cat < missing | wc -l", 0, "0\n", "missing: No such file or directory\n"),
        ("seq 3 | cat > missing/f", 1, "", "missing/f: No such file or directory\n"),
        ("seq 3 | cat < missing | wc -l", 0, "0\n", "missing: No such file or directory\n"),
        ("seq 3 | cat missing", 1, "", "cat: missing: No such file or directory\n"),
        ("cat < out", 1, "", "out: Invalid cross-device link\n"),
        ("cat < /etc/passwd", 1, "", "/etc/passwd: It is outside the workspace\n"),
        ("cat < .", 1, "", ".: Invalid argument\n"),
        ("echo x > roots", 1, "", "roots: Permission denied\n"),
    ],
)
async def test_pipelines_and_redirections(tmp_path: Path, line: str, exit_code: int, stdout: str, stderr: str) -> None:
    (tmp_path / "given").write_text("given\n")
    (tmp_path / "out").symlink_to("/etc/passwd")
    (tmp_path / "roots").write_text("the service's")
    (tmp_path / "roots").chmod(0o444)
    bench = Bench(tmp_path, "")
    outcome = await bench.line(line)
    assert (bench.log.text("stdout"), bench.log.text("stderr")) == (stdout, stderr)
    assert outcome.exit_code == exit_code
    assert (tmp_path / "roots").read_text() == "the service's"


@pytest.mark.parametrize(
    ("line", "exit_code"),
    [
        ("cat missing | wc -l", 1),
        ("seq 1 100000 | head -1", 0),
        ("timeout 9 seq 1 100000 | head -1", 0),  # says 141 instead of ending by SIGPIPE
        ("cat < missing | wc -l", 1),
        ("cat missing | grep x given | wc -l", 1),
        ("seq 3 | wc -l", 0),
    ],
)
async def test_with_pipefail_any_program_that_fails_decides(tmp_path: Path, line: str, exit_code: int) -> None:
    (tmp_path / "given").write_text("given\n")
    outcome = await Bench(tmp_path, "").line(line, pipefail=True)
    assert outcome.exit_code == exit_code


async def test_files_are_made_emptied_and_continued(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "")
    for line in ("echo one > f", "echo two >> f", "echo three > g", "echo 3 > g", "cat missing 2>> f"):
        await bench.line(line)
    assert (tmp_path / "f").read_text() == "one\ntwo\ncat: missing: No such file or directory\n"
    assert (tmp_path / "g").read_text() == "3\n"
    assert OWNER is None or (tmp_path / "f").stat().st_uid == OWNER[0]


async def test_a_signal_reaches_every_program_of_a_pipeline(tmp_path: Path) -> None:
    bench, instructions = Bench(tmp_path, "import time; print('up'); time.sleep(60)"), Instructions(stdin=False)
    running = asyncio.create_task(bench.run(instructions, pipeline=(Invocation(("x",)), Invocation(("cat",)))))
    while not bench.log.text("stdout"):
        await asyncio.sleep(0.01)
    assert await instructions.deliver(Signal(SignalName.USR1)) is Delivery.DELIVERED
    outcome = await running
    assert (outcome.exit_code, outcome.signal) == (138, "SIGUSR1")


async def test_what_a_command_used_and_what_held_it_is_told(tmp_path: Path) -> None:
    outcome = await Bench(tmp_path, "sum(range(3_000_000)); b'x' * 50_000_000").run()
    assert outcome.usage.cpu_ms > 10
    assert outcome.usage.peak_memory_bytes > 40_000_000
    assert outcome.usage.protection == "L2"
