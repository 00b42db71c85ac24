"""Commands as processes: what they see, how they end, what is left of them."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.core.executions import Control, Order, Outcome, Status, Stop
from backend.core.recording import Recorder, read_batch
from backend.execution.local import LocalExecutor, OutsideProgram
from backend.execution.processes import Processes


class Log:
    """Keeps what is recorded in memory."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def append(self, line: bytes) -> None:
        batch = read_batch(line[:-1])
        self.messages += map(json.loads, batch.messages() if batch else [line])

    end = append

    async def follow(self, after_seq: int, send: object) -> None:
        raise NotImplementedError

    def text(self, stream: str) -> str:
        mine = [message for message in self.messages if message["type"] == stream]
        return "".join(message["line"] + ("" if message.get("partial") else "\n") for message in mine)


class Bench:
    """One executor that runs Python as `x`."""

    def __init__(self, folder: Path, code: str, environment: dict[str, str] | None = None) -> None:
        program = OutsideProgram((sys.executable, "-c", code), environment or {})
        self.executor = LocalExecutor(Processes(), {"x": program})
        self.folder = folder
        self.log = Log()

    async def run(self, control: Control | None = None, **order: Any) -> Outcome:
        wanted = {"timeout": 20.0, "output_limit": 1 << 24, "stdin": False, "argv": ("x",), **order}
        recorder = Recorder("01ARZ3NDEKTSV4RRFFQ69G5FAV", self.log, asyncio.get_running_loop().time)
        control = control or Control(stdin=wanted["stdin"])
        return await self.executor.run(
            Order(execution="01ARZ3NDEKTSV4RRFFQ69G5FAV", cwd=str(self.folder), **wanted), recorder, control
        )


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
    wanted = {"PATH", "HOME", "PWD", "LC_CTYPE", "TERM", "PYTHONUNBUFFERED", "GATEPOST_EXECUTION_ID", "KEY"}
    assert set(seen) == wanted
    assert "canary" not in str(seen)


async def test_a_command_inherits_no_descriptor(tmp_path: Path) -> None:
    leaked = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    bench = Bench(tmp_path, "import os; print(sorted(map(int, os.listdir('/proc/self/fd')))[:4])")
    await bench.run()
    os.close(leaked)
    assert bench.log.text("stdout") == "[0, 1, 2, 3]\n"  # 3 is the listing itself
    assert not any(f"{leaked}," in message.get("line", "") for message in bench.log.messages if leaked > 3)


async def test_a_stubborn_command_is_killed_after_the_grace(tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, lambda *_: print('no')); print('up'); [time.sleep(1) for _ in range(60)]"
    bench = Bench(tmp_path, code)
    begun = asyncio.get_running_loop().time()
    outcome = await bench.run(timeout=1.0)
    assert (outcome.status, outcome.exit_code, outcome.signal) == (Status.TIMED_OUT, 124, "SIGKILL")
    assert "no" in bench.log.text("stdout")
    assert 2.5 < asyncio.get_running_loop().time() - begun < 8


async def test_output_over_the_limit_ends_the_command(tmp_path: Path) -> None:
    bench, control = Bench(tmp_path, "while True: print('y' * 100)"), Control(stdin=False)
    outcome = await bench.run(control, output_limit=100_000)
    assert (outcome.status, control.reason) == (Status.FAILED, Stop.OUTPUT_LIMIT)
    assert len(bench.log.text("stdout")) == 100_000


async def test_input_is_passed_on_until_its_end(tmp_path: Path) -> None:
    bench, control = Bench(tmp_path, "import sys; print(len(sys.stdin.read()))"), Control(stdin=True)
    running = asyncio.create_task(bench.run(control, stdin=True))
    for _ in range(20):
        while not control.stdin.put(b"z" * 50_000):
            await asyncio.sleep(0)
    control.stdin.close()
    assert (await running).status is Status.SUCCEEDED
    assert bench.log.text("stdout") == "1000000\n"
    assert not control.stdin.put(b"more")


async def test_input_that_nobody_reads_is_bounded(tmp_path: Path) -> None:
    bench, control = Bench(tmp_path, "import time; time.sleep(60)"), Control(stdin=True)
    running = asyncio.create_task(bench.run(control, stdin=True))
    taken = 0
    while control.stdin.put(b"z" * 65536):
        taken += 1
        await asyncio.sleep(0)
    assert taken < 40
    control.stop(Stop.CANCELLED)
    assert (await running).status is Status.CANCELLED


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
