"""Commands that take all they can get: they are ended by their limits, and the service answers meanwhile."""

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from backend.executors.local.outside import SEARCH_PATH
from tests.client import Message, output, terminal
from tests.conftest import end
from tests.e2e.open_gate import give, open_policy
from tests.needs import need
from tests.serving import Server, processes_of, start

GROWTH = 20 << 20  # bytes that the service may take while it is flooded
SLOWEST = 20.0  # seconds of half of the answers; the floods and the service share few cores with whatever else runs
LARGEST_FILE = (1 << 30) + (1 << 22)  # bytes; the kernel counts a page twice that is written out in between
SAMPLES = 5  # answers that are waited for at least

SCRIPTS = {
    "bomb.sh": "bomb() { bomb | bomb & }; bomb; wait",
    "spin.py": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "line.py": "import os\nfor _ in range(1 << 14): os.write(1, b'x' * 65536)",
    "hog.py": "kept = []\nwhile True: kept.append(bytearray(1 << 24))",
    "errors.py": "import os\nfor _ in range(1600): os.write(2, (b'y' * 63 + b'\\n') * 1024)",
    "disk.py": "import sys\nfile = open('big', 'wb', buffering=0)\nwhile True: file.write(bytes(1 << 20))",
    "burn.py": "while True: pass",
    "sleepers.sh": "while setsid sleep 600 & do :; done",
}


@dataclass(frozen=True)
class Flood:
    """Lines that run at once, and how each has to end."""

    lines: tuple[str, ...]
    ends: Callable[[Message], bool]
    seconds: float = 30.0


def _timed_out(end: Message) -> bool:
    return bool(end["timed_out"])


def _too_much(end: Message) -> bool:
    return bool(end["truncated"])


ENDS = {1, 137}  # what gets no more memory ends itself; a control group has it killed
FLOODS = {
    "shell bomb": Flood(("bash bomb.sh",), lambda end: end["exit_code"] is not None, 2),
    "fork bomb": Flood(("python3 spin.py",), _timed_out, 2),
    "sleepers": Flood(("bash sleepers.sh",), lambda end: end["status"] in {"failed", "timed_out"}, 2),
    "yes": Flood(("yes",), _too_much),
    "endless line": Flood(("python3 line.py",), _too_much),
    "memory": Flood(("python3 hog.py",), lambda end: end["exit_code"] in ENDS and end["peak_memory_bytes"] < 3 << 30),
    "errors": Flood(("python3 errors.py",), _too_much),
    "disk": Flood(("python3 disk.py",), lambda end: end["exit_code"] == 1 and end["written_bytes"] <= LARGEST_FILE),
    "processor": Flood(("python3 burn.py",) * 4, _timed_out, 2),
}


@dataclass
class Watch:
    """Answers of the service while something floods it: seconds of each, and the most memory it had."""

    server: Server
    health: list[float] = field(default_factory=list)
    echo: list[float] = field(default_factory=list)
    memory: int = 0

    async def ask(self, over: Callable[[], bool]) -> None:
        """Until it is over."""
        async with terminal(self.server) as visitor:
            while not over() or len(self.echo) < SAMPLES:
                self.health.append(await _timed(lambda: asyncio.to_thread(self.server.get, "/health")))
                self.echo.append(await _timed(lambda: self._echo(visitor.run("echo on"))))
                self.memory = max(self.memory, self.server.resident())

    async def _echo(self, reply: Awaitable[list[Message]]) -> None:
        messages = await reply
        assert (output(messages), messages[-1]["status"]) == ("on\n", "succeeded"), messages

    def __str__(self) -> str:
        return f"health {_spread(self.health)}, another's echo {_spread(self.echo)}"


async def _timed(action: Callable[[], Awaitable[object]]) -> float:
    begun = time.monotonic()
    await action()
    return time.monotonic() - begun


def _spread(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    return f"p50 {ordered[len(ordered) // 2] * 1e3:.1f} p99 {p99 * 1e3:.1f} ms"


async def _flood(server: Server, line: str, seconds: float) -> Message:
    async with terminal(server, "gatepost.v1.batch") as attacker:
        return (await attacker.run(line, 60, timeout=seconds))[-1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    need(shutil.which("python3", path=SEARCH_PATH), "python3 for commands")
    folder = tmp_path_factory.mktemp("floods")
    # A user of its own: what the bombs take of its processes is missed by nothing else that runs here.
    own = {"GATEPOST_RUN_AS": "games"} if os.getuid() == 0 else {}
    started = start(folder, open_policy(folder) | {"GATEPOST_COMMAND_RATE": "1000/minute", **own})
    for name, text in SCRIPTS.items():
        give(started, name, text)
    yield started
    end(started)


@pytest.mark.parametrize("name", FLOODS)
async def test_the_service_answers_while_a_command_takes_all_it_can(server: Server, name: str) -> None:
    flood, watch = FLOODS[name], Watch(server)
    await _flood(server, "echo warm", 5)
    before = server.resident()
    floods = [asyncio.create_task(_flood(server, line, flood.seconds)) for line in flood.lines]
    await watch.ask(lambda: all(task.done() for task in floods))
    outcomes = await asyncio.gather(*floods)
    grown = watch.memory - before
    print(f"{name}: {watch}, grown by {grown / 2**20:.1f} MiB")
    assert all(map(flood.ends, outcomes)), outcomes
    assert grown < GROWTH
    assert statistics.median(watch.health) < SLOWEST
    assert statistics.median(watch.echo) < SLOWEST
    assert processes_of(server) == []
    assert server.get("/health").status == 200
