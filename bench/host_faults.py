"""What can go wrong between a server and its hosts, and what becomes of the commands meanwhile, counted.

Each command appends a line to a file of its host, so that it is known what ran, and how often.
"""

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.host_rig import End, Rig, rig
from bench.servers import ROOT

AT_ONCE = 16
CUT = 3.0  # seconds
FULL = 8  # commands while the disk of the host is full
DISK = 400 << 20  # bytes of that disk
SKEW = 600  # seconds
CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    int (*next)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int result = next(id, now);
    if (id == CLOCK_REALTIME) now->tv_sec += SKEW;
    return result;
}
"""


@dataclass(frozen=True)
class Fault:
    """Something that is spoilt `times` times, spread over the commands.

    Where an agent is `killed`, what it ran at that moment is lost, and is reported as lost. With `apart`, the hosts are in
    network namespaces.
    """

    name: str
    spoil: Callable[[Rig, int], None]
    times: int = 1
    hosts: int = 1
    servers: int = 1
    killed: bool = False
    apart: bool = False


@dataclass(frozen=True)
class Tally:
    """What became of commands: `ran` counts the runs of each, by its name."""

    ends: Sequence[End]
    ran: Counter[str]

    @property
    def twice(self) -> int:
        return sum(count > 1 for count in self.ran.values())

    @property
    def interrupted(self) -> int:
        """Commands that an agent ran as it was killed."""
        return sum(end.status == "lost" and end.command in self.ran for end in self.ends)

    @property
    def lost(self) -> list[End]:
        """Commands that have no end, were not begun, or whose end is not what happened."""
        return [end for end in self.ends if not self._is_true(end)]

    def _is_true(self, end: End) -> bool:
        return end.status == ("succeeded" if end.command in self.ran else "") or end.status == "lost"


def faults(commands: int, only: str = "") -> bool:
    """Print how many commands were lost or ran twice under each fault; False if there were any."""
    print("| fault | commands | ends | interrupted | lost | ran twice | |\n|---|---|---|---|---|---|---|")
    drills = [*(lambda fault=fault: _drill(fault, commands) for fault in FAULTS), _full_disk, _wrong_clock]
    names = [*(fault.name for fault in FAULTS), FULL_DISK, WRONG_CLOCK]
    results = [drill() for name, drill in zip(names, drills, strict=True) if only in name]  # whatever failed
    return all(results)


def _drill(fault: Fault, commands: int) -> bool:
    """Run commands while something is spoilt."""
    with rig(fault.hosts, fault.servers, commands, apart=fault.apart) as made:
        ends: list[End] = []
        names = list(made.agents)

        def one(number: int) -> None:
            ends.append(made.run(names[number % fault.hosts], number, made.ports[number % fault.servers]))

        with ThreadPoolExecutor(AT_ONCE) as threads:
            running = [threads.submit(one, number) for number in range(commands)]
            for count in range(fault.times):
                while len(ends) < (count + 1) * commands // (fault.times + 2) and not all(map(_done, running)):
                    time.sleep(0.01)
                fault.spoil(made, count)
            for each in running:
                each.result()
        tally = Tally(ends, sum((made.runs(host) for host in names), Counter[str]()))
    interrupted = sum(end.status == "lost" for end in ends)
    good = not (tally.lost or tally.twice) and (fault.killed or not interrupted)
    return _report(fault.name, tally, good)


def _done(future: object) -> bool:
    return bool(future.done())  # type: ignore[attr-defined]


def _report(name: str, tally: Tally, good: bool) -> bool:
    ends = ", ".join(f"{count} {status}" for status, count in Counter(end.status for end in tally.ends).items())
    figures = f"{tally.interrupted} | {len(tally.lost)} | {tally.twice}"
    print(f"| {name} | {len(tally.ends)} | {ends} | {figures} | {'ok' if good else 'MISSED'} |", flush=True)
    for reason, count in Counter(f"{end.status}: {end.reason}" for end in tally.lost).items():
        print(f"<!-- {count} x {reason} -->", flush=True)
    return good


def _cut(made: Rig, _: int) -> None:
    for network in made.networks:
        network.cut(CUT)


def _kill_agent(made: Rig, _: int) -> None:
    made.ready()
    made.agents["web-1"].again()


def _halt(made: Rig, _: int) -> None:
    made.redis.halt(CUT)


FAULTS = (
    Fault("Redis killed and started again empty, 10 times", lambda made, _: made.redis.again(), times=10),
    Fault("agent killed 20 times", _kill_agent, times=20, killed=True),
    Fault("server killed 5 times", lambda made, _: made.servers[0].again(), times=5),
    Fault("network of two hosts cut for 3 s, 3 times", _cut, times=3, hosts=2, apart=True),
    Fault("Redis silent for 3 s, 3 times", _halt, times=3),
    Fault("two servers and three agents, one server killed", lambda made, _: made.servers[1].again(), 1, 3, 2),
)
FULL_DISK = "disk of the host full"
WRONG_CLOCK = "clock of the host 10 minutes ahead"


def _full_disk() -> bool:
    """Commands are refused while it is full, and run before and afterwards; what was recorded stays."""
    with rig(commands=3 * FULL, disk=DISK) as made:
        before = [made.run("web-1", number) for number in range(FULL)]
        filler = made.folder / "web-1" / "data" / "filler"
        subprocess.run(["fallocate", "-l", str(DISK - _used(filler.parent) - (4 << 20)), str(filler)], check=True)
        during = [made.run("web-1", number) for number in range(FULL, 2 * FULL)]
        filler.unlink()
        after = [made.run("web-1", number) for number in range(2 * FULL, 3 * FULL)]
        tally = Tally([*before, *after], made.runs("web-1"))
    refused = sum(end.status == "failed" and "disk" in end.reason for end in during)
    print(f"<!-- while it was full: {Counter(end.reason for end in during)} -->")
    return _report(
        f"{FULL_DISK}: {refused} of {FULL} refused", tally, not (tally.lost or tally.twice) and refused == FULL
    )


def _used(folder: Path) -> int:
    return shutil.disk_usage(folder).used


def _wrong_clock() -> bool:
    """Nothing runs, and the server and `agent --check` say why."""
    with rig(commands=1) as made, _skewed(made.folder) as library:
        agent = made.agents["web-1"]
        agent.end()
        agent.env["LD_PRELOAD"] = str(library)
        agent.start()
        made.ahead()
        end = made.run("web-1", 0)
        checked = subprocess.run(
            [*agent.words, "--check"], cwd=ROOT, env=agent.env, capture_output=True, text=True, check=False
        )
        said = [line for line in checked.stdout.splitlines() if "clock" in line]
        tally = Tally([], made.runs("web-1"))
    print(f"<!-- server: {end.reason} -->\n<!-- agent --check: {' '.join(said)} -->")
    good = end.status == "failed" and "clock" in end.reason and not tally.ran and bool(said)
    return _report(WRONG_CLOCK, tally, good)


@contextmanager
def _skewed(folder: Path) -> Iterator[Path]:
    """A library that sets the clock of a process ahead."""
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(CLOCK)
    words = ["cc", "-shared", "-fPIC", f"-DSKEW={SKEW}", "-o", str(library), str(source), "-ldl"]
    subprocess.run(words, check=True)
    yield library
