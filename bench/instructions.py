"""`python -m bench.instructions`: the user instructions of the server for what it does most, held to limits.

They differ by less than a per cent between runs, however busy the machine is, so they show a change that the clock does not.
The limits are what was measured (bench/instructions.json) and ROOM more. They belong to a version of Python and to how it was
built; where another one runs, figures are printed and nothing fails. Exit code 1: something takes more than it may.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO

from bench.counter import Counter, simulated
from bench.output_path import reads
from bench.runners import Caller, cli, project
from bench.servers import GENEROUS, ROOT, gatepost_server
from bench.sockets import Client, completed, gatepost

MEASURED = Path(__file__).with_suffix(".json")
ROOM = 0.06
SAME = 0.01  # by which the fixed work may differ in an interpreter that is the same
WARM, TIMES = 8, 15  # of a command: what is done first is done more slowly
START_BOUND = 600.0  # seconds for a server under valgrind
HASHES = {"PYTHONHASHSEED": "0"}  # sets and dicts are the same in each run
# Valgrind may not know Landlock, so no protection is required.
SETTINGS = GENEROUS | {
    "GATEPOST_PROTECTION_MINIMUM": "L0",
    "GATEPOST_USER_RATE": "1000000/minute",
    **HASHES,
}


@dataclass(frozen=True, slots=True)
class Account:
    """Instructions of what was measured, by its name, and of the fixed work of the interpreter that did it."""

    python: str
    fixed_work: float
    figures: dict[str, float]

    def compares(self, other: "Account") -> bool:
        """Whether the other is of an interpreter that is the same."""
        return self.python == other.python and abs(self.fixed_work / other.fixed_work - 1) <= SAME


def main() -> int:
    """Measure, print and compare."""
    parser = argparse.ArgumentParser(prog="bench.instructions", description=__doc__)
    parser.add_argument("--accept", action="store_true", help="these are the figures from now on")
    parser.add_argument(
        "--profile", type=Path, help="store where the instructions of commands are, for callgrind_annotate"
    )
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        print("bench: valgrind counts the instructions; install it: apt-get install valgrind", file=sys.stderr)
        return 2
    now = measured(options.profile)
    if options.accept:
        MEASURED.write_text(json.dumps(asdict(now), indent=2) + "\n")
    before = Account(**json.loads(MEASURED.read_text()))
    print(table(now, before))
    if not now.compares(before):
        print(
            f"The limits belong to {before.python} as it was built for them, so nothing is compared with this one, {now.python}."
        )
        return 0
    if grown := over(now, before):
        print(refusal(grown), file=sys.stderr)
    return 1 if grown else 0


def table(now: Account, before: Account) -> str:
    """All figures and the most that each may be."""
    rows = [
        f"| {name} | {figure:,.1f} | {limit(before.figures[name]):,.1f} |"
        if name in before.figures
        else f"| {name} | {figure:,.1f} | |"
        for name, figure in now.figures.items()
    ]
    return "\n".join(["| user instructions | measured | most |", "|---|---|---|", *rows])


def limit(figure: float) -> float:
    """The most that something may take that took so much."""
    return figure * (1 + ROOM)


def over(now: Account, before: Account) -> list[str]:
    """What takes more than it may."""
    pairs = [(name, figure, before.figures.get(name)) for name, figure in now.figures.items()]
    return [
        f"{name}: {figure:,.1f} instead of {least:,.1f}, {figure / least - 1:+.1%}"
        for name, figure, least in pairs
        if least is not None and figure > limit(least)
    ]


def refusal(grown: list[str]) -> str:
    """What to say of it."""
    return "\n".join(
        [
            f"These take over {ROOM:.0%} more user instructions than {MEASURED.name} says:",
            *grown,
            "Make them cheaper. If what was gained is worth it, accept the figures, and commit them with the change:",
            "    python -m bench.instructions --accept",
        ]
    )


def measured(profile: Path | None = None) -> Account:
    """All of it."""
    with tempfile.TemporaryDirectory() as name:
        figures = of_server(Path(name), profile)
        fixed_work, output = of_output(Path(name))
    return Account(f"{platform.python_implementation()} {platform.python_version()}", fixed_work, figures | output)


def of_server(folder: Path, profile: Path | None) -> dict[str, float]:
    """What it takes to run a command, in two ways, and to tell a runner that nothing waits."""
    with gatepost_server("true", SETTINGS, simulated(folder, "-m", "bench.simulated"), START_BOUND) as server:
        admin = Caller(server.port, cli(server.data, "token", "create", "--user", "admin", "--name", "bench"))
        _, (runner,) = project(server.port, server.data, admin, "shop", 1)
        place = admin.call("POST", "/api/projects", {"name": "bench"})["id"]
        client, counter = gatepost(server.port), Counter(server.pid)
        body = {"project_id": place, "command": "echo hi"}
        counter.begin()
        figures = {
            "`echo hi` over a socket": each(counter, lambda: echo(client)),
            "`echo hi` over REST": each(counter, lambda: admin.call("POST", "/api/agent/execute", body)),
            "a runner asks for work": each(counter, lambda: runner.call("GET", "/api/runner/pending/")),
        }
        if profile:
            counter.profiled(lambda: echo(client))
            shutil.copy(next(folder.glob("found.*")), profile)
        client.close()
    return figures


def of_output(folder: Path) -> tuple[float, dict[str, float]]:
    """What the fixed work takes, and a byte of each kind of output on its way into a recording."""
    with fed_output(folder) as (counter, feed):
        fixed_work = each(counter, lambda: feed(b""), 3)
        kinds = {
            f"a byte of output: {name}": round(each(counter, partial(feed, data), 3) / len(data), 2)
            for name, data in reads().items()
        }
    return fixed_work, kinds


def each(counter: Counter, action: Callable[[], object], times: int = TIMES) -> float:
    """The median of what it takes to do something: what is done from time to time is not in it."""
    for _ in range(min(WARM, times)):
        action()
    return statistics.median(counter.counted(action) for _ in range(times))


def echo(client: Client) -> None:
    """A command from its request until it is complete."""
    client.send({"command": "echo hi"})
    client.drain(completed, keep=False)


@contextmanager
def fed_output(folder: Path) -> Iterator[tuple[Counter, Callable[[bytes], None]]]:
    """A process through whose path of output texts can be sent."""
    words = simulated(folder, "-m", "bench.fed_output")
    with subprocess.Popen(
        words, cwd=ROOT, env=os.environ | HASHES, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        feed = partial(_feed, process.stdin, process.stdout)
        feed(b"")  # it is ready
        counter = Counter(process.pid)
        counter.begin()
        yield counter, feed
        process.stdin.close()


def _feed(into: IO[bytes], answers: IO[bytes], data: bytes) -> None:
    into.write(b"%d\n%b" % (len(data), data))
    into.flush()
    answers.readline()


if __name__ == "__main__":
    sys.exit(main())
