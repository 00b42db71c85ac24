"""`python -m bench.hosts [speed | faults] [--commands N]`: enrolled hosts over a real Redis, as Markdown tables.

`speed` measures the way to a host and back; `faults` kills what can be killed and counts the commands that were lost or
ran twice. Both start a Redis, servers and agents of their own.
"""

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.__main__ import machine
from bench.host_driver import AT_ONCE, Driver
from bench.host_faults import faults
from bench.host_rig import Rig, rig
from bench.sockets import BATCH, completed, gatepost

LINES = 1_000_000
CLIENTS = 32


def speed(rounds: int) -> None:
    """Print how fast a host answers, and what its agent takes while it has nothing to do."""
    print("| measure | figure | goal |\n|---|---|---|")
    with rig() as made:
        more = f"Authorization: Bearer {made.token}\r\n"
        client = gatepost(made.ports[0], more)
        times = [_timed(client, "@web-1 echo hi") for _ in range(rounds * 100)]
        print(f"| echo round trip, p50 | {statistics.median(times) * 1000:.1f} ms | 5 ms |", flush=True)
        local = [_timed(client, "echo hi") for _ in range(rounds * 100)]
        print(f"| the same on the server | {statistics.median(local) * 1000:.1f} ms | |", flush=True)
        client.close()
        _rates(made, more, rounds * 200)
        here = _streamed(made, more, f"seq 1 {LINES}", rounds)
        there = _streamed(made, more, f"@web-1 run 'seq 1 {LINES}'", rounds)
        print(f"| `seq 1 {LINES}` | {there:.1f} s, on the server {here:.1f} s: {here / there:.2f} | 0.5 |", flush=True)
        _idle(made)


def _rates(made: Rig, more: str, commands: int) -> None:
    """How many echoes a second go through one server, and what the agent takes where its jobs come from a bare driver."""
    agent = made.agents["web-1"].env
    driver = Driver.of(agent["REDIS_URL"], "web-1", agent["GATEPOST_HOST_SECRET"])
    ways: dict[str, Callable[[], float]] = {
        f"echo, {CLIENTS} at once through one server": lambda: _rate(made, more, commands),
        f"echo, {AT_ONCE} at once from a bare driver": lambda: driver.rate(commands),
    }
    for name, measure in ways.items():
        before = _processor(made)
        print(f"| {name} | {measure():.0f} a second | 1000 |", flush=True)
        spent = ", ".join(
            f"{process} {(ticks - before[process]) * 1000 / _HERTZ / commands:.2f} ms"
            for process, ticks in _processor(made).items()
        )
        print(f"| processor time for each of them | {spent} | |", flush=True)


def _timed(client: Any, command: str) -> float:
    begun = time.perf_counter()
    client.send({"command": command})
    tail = client.drain(completed)
    assert b'"status":"succeeded"' in tail[-1024:], tail[-1024:]
    return time.perf_counter() - begun


def _streamed(made: Rig, more: str, command: str, rounds: int) -> float:
    """Seconds for a long output, each on a new connection, since nothing here answers pings."""
    times = []
    for _ in range(rounds):
        client = gatepost(made.ports[0], BATCH + more)
        times.append(_timed(client, command))
        client.close()
    return statistics.median(times)


def _rate(made: Rig, more: str, commands: int) -> float:
    def some(client: Any) -> None:
        for _ in range(commands // CLIENTS):
            _timed(client, "@web-1 echo hi")
        client.close()

    clients = [gatepost(made.ports[0], more) for _ in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as threads:
        begun = time.perf_counter()
        list(threads.map(some, clients))
        return commands // CLIENTS * CLIENTS / (time.perf_counter() - begun)


_HERTZ = os.sysconf("SC_CLK_TCK")


def _processor(made: Rig) -> dict[str, int]:
    """The processor time of the processes so far, in ticks."""
    processes = {"server": made.servers[0], "agent": made.agents["web-1"], "Redis": made.redis}
    return {name: _ticks(each.process.pid) for name, each in processes.items() if each.process}


def _idle(made: Rig, seconds: float = 20) -> None:
    """Memory and processor time of an agent to which nothing is sent, with a heartbeat every 30 seconds."""
    agent = made.agents["web-1"]
    agent.end()
    agent.env["HEARTBEAT_INTERVAL"] = "30"
    agent.start()
    made.ready()
    time.sleep(5)
    assert agent.process
    before = _ticks(agent.process.pid)
    time.sleep(seconds)
    used = (_ticks(agent.process.pid) - before) / _HERTZ / seconds
    pages = int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1])
    memory = pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
    print(f"| an idle agent | {memory:.0f} MB, {used * 100:.2f} % of a processor | 40 MB, 0.1 % |", flush=True)


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def main() -> int:
    """Measure and print; exit code 1 when a command was lost or ran twice."""
    parser = argparse.ArgumentParser(prog="bench.hosts", description=__doc__)
    parser.add_argument("what", choices=["speed", "faults"], nargs="?", default="speed")
    parser.add_argument("--commands", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="a part of the name of a fault")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything that was started is ended
    print(f"{machine()}\n")
    if options.what == "speed":
        speed(options.rounds)
        return 0
    return 0 if faults(options.commands, options.only) else 1


if __name__ == "__main__":
    sys.exit(main())
