"""`python -m bench.runners [--runners N] [--seconds S]`: runners of Django projects that poll and stream, on SQLite.

Each has one command that prints, which it reports as the published runners do: a chunk every 1.5 s, a question for work and one
whether to stop every 2 s. Meanwhile one more runner waits for work, and what is submitted is timed until its start is accepted.
"""

import argparse
import http.client
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.__main__ import machine
from bench.measures import percentile, spread
from bench.servers import GENEROUS, ROOT, gatepost_server

GOAL = 0.050  # seconds, of which 99 in 100 questions for work take less
EACH = 500  # requests of a kind whose processor time is measured
WHOLE = 50  # executions of which it is measured
FLUSH, ASK = 1.5, 2.0  # seconds
SUCCESS = {"exit_code": 0, "status": "success"}
LINES = [{"timestamp": None, "content": f"line {number} of a command that prints\n"} for number in range(20)]


def chunk(number: int) -> dict[str, Any]:
    """A chunk of output, as a runner reports it."""
    return {"chunk_number": number, "segments": LINES, "is_stderr": False}


@dataclass
class Caller:
    """A connection that stays open, with a key or a token."""

    port: int
    secret: str
    connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """The answer; fails if it is an error."""
        headers = {
            "Authorization": f"Bearer {self.secret}",
            "Content-Type": "application/json",
            "X-Request-Timestamp": str(int(time.time())),
            "X-Request-Nonce": str(uuid.uuid4()),
        }
        try:
            answer, text = self._answer(method, path, body, headers)
        except (OSError, http.client.HTTPException):  # the server has closed it, since it was not used for a while
            self.connection.close()
            answer, text = self._answer(method, path, body, headers)
        assert answer.status < 300, (answer.status, text)
        return json.loads(text or b"{}")

    def _answer(
        self, method: str, path: str, body: Any, headers: dict[str, str]
    ) -> tuple[http.client.HTTPResponse, bytes]:
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        return answer, answer.read()


@dataclass
class Figures:
    """Seconds of each kind of request."""

    polls: list[float] = field(default_factory=list)
    chunks: list[float] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    processor: float = 0.0  # seconds of the server
    kinds: dict[str, float] = field(default_factory=dict)  # of the server for one request, while it does nothing else

    @property
    def requests(self) -> int:
        """How many the server has answered: with each question for work there is one whether to stop."""
        return 2 * len(self.polls) + len(self.chunks) + 4 * len(self.starts)


def timed(into: list[float], action: Callable[[], Any]) -> Any:
    """What an action returns; how long it took is recorded."""
    begun = time.perf_counter()
    result = action()
    into.append(time.perf_counter() - begun)
    return result


def claimed(caller: Caller) -> str:
    """The path of an execution that this runner has started."""
    id = caller.call("GET", "/api/runner/pending/")["executions"][0]["id"]
    caller.call("POST", f"/api/runner/executions/{id}/start/")
    return f"/api/runner/executions/{id}"


def run_one(caller: Caller, path: str, offset: float, until: float, figures: Figures) -> None:
    """A runner with a command that prints, until it is over."""
    numbers, asked = itertools.count(1), 0.0
    time.sleep(offset)
    while (now := time.monotonic()) < until:
        timed(figures.chunks, lambda: caller.call("POST", f"{path}/output/", chunk(next(numbers))))
        if now - asked >= ASK:
            asked = now
            timed(figures.polls, lambda: caller.call("GET", "/api/runner/pending/"))
            caller.call("GET", f"{path}/cancel-status/")
        time.sleep(FLUSH)
    caller.call("POST", f"{path}/complete/", SUCCESS)


def start_many(submit: Callable[[], Any], caller: Caller, until: float, figures: Figures) -> None:
    """Time from a submission to the start of the command by a runner that waits."""
    while time.monotonic() < until:
        offers: list[Any] = []
        waiting = threading.Thread(
            target=lambda into=offers: into.extend(caller.call("GET", "/api/runner/pending/?wait=20")["executions"])
        )
        waiting.start()
        time.sleep(0.2)
        begun = time.perf_counter()
        submit()
        waiting.join()
        path = f"/api/runner/executions/{offers[0]['id']}"
        caller.call("POST", f"{path}/start/")
        figures.starts.append(time.perf_counter() - begun)
        caller.call("POST", f"{path}/complete/", SUCCESS)


def cli(data: Path, *words: str) -> str:
    """What a verb of the command line prints."""
    line = [sys.executable, "-m", "backend", *words, "--data-dir", str(data)]
    return subprocess.run(
        line, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=True
    ).stdout.strip()


def project(port: int, data: Path, admin: Caller, name: str, runners: int) -> tuple[str, list[Caller]]:
    """The id of a Django project, and its runners."""
    first = Caller(port, cli(data, "runner", "key", "create", name, "--owner", "admin"))
    commands = [{"name": "migrate", "app_label": "django.core", "help_text": ""}]
    first.call("POST", "/api/runner/commands/sync/", {"commands": commands})
    keys = [admin.call("POST", f"/api/django/{name}/keys", {"name": f"r{n}"})["secret"] for n in range(1, runners)]
    return name, [first, *(Caller(port, key) for key in keys)]


def processor_time(pid: int) -> float:
    """Seconds that a process has used of the processors."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def cost(pid: int, times: int, action: Callable[[int], Any]) -> float:
    """Processor time of the server for an action, which is repeated with the numbers from 1 on."""
    before = processor_time(pid)
    for number in range(1, times + 1):
        action(number)
    return (processor_time(pid) - before) / times


def costs(pid: int, caller: Caller, submit: Callable[[], Any]) -> dict[str, float]:
    """Processor time of each kind of request of one runner that is alone."""
    versions = {"runner_version": "1", "python_version": "3", "django_version": "6", "commands_hash": ""}
    found = {
        "a question that finds nothing": cost(pid, EACH, lambda _: caller.call("GET", "/api/runner/pending/")),
        "a heartbeat": cost(pid, EACH, lambda _: caller.call("POST", "/api/runner/heartbeat/", versions)),
    }
    submit()
    path = claimed(caller)
    found |= {
        "a chunk": cost(pid, EACH, lambda number: caller.call("POST", f"{path}/output/", chunk(number))),
        "a question whether to stop": cost(pid, EACH, lambda _: caller.call("GET", f"{path}/cancel-status/")),
    }
    caller.call("POST", f"{path}/complete/", SUCCESS)

    def run_whole(_: int) -> None:
        submit()
        caller.call("POST", f"{claimed(caller)}/complete/", SUCCESS)

    return found | {"an execution: submitted, asked for, started, ended": cost(pid, WHOLE, run_whole)}


def measure(runners: int, seconds: float) -> Figures:
    """All of it."""
    figures = Figures()
    with gatepost_server("true", {**GENEROUS, "GATEPOST_USER_RATE": "1000000/minute"}) as server:
        admin = Caller(server.port, cli(server.data, "token", "create", "--user", "admin", "--name", "bench"))
        name, callers = project(server.port, server.data, admin, "shop", runners)
        other, (waiting,) = project(server.port, server.data, admin, "other", 1)

        def submit(target: str) -> None:
            admin.call("POST", "/api/executions", {"target": f"django:{target}", "command": "migrate", "timeout": 300})

        figures.kinds = costs(server.pid, waiting, lambda: submit(other))
        for _ in callers:
            submit(name)
        paths = [claimed(caller) for caller in callers]
        until = time.monotonic() + seconds
        work: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
            (run_one, (caller, path, FLUSH * number / runners, until, figures))
            for number, (caller, path) in enumerate(zip(callers, paths, strict=True))
        ]
        work.append((start_many, (lambda: submit(other), waiting, until, figures)))
        threads = [threading.Thread(target=target, args=arguments) for target, arguments in work]
        before = processor_time(server.pid)
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        figures.processor = processor_time(server.pid) - before
    return figures


def main() -> int:
    """Measure and print; exit code 1 when the goal was missed."""
    parser = argparse.ArgumentParser(prog="bench.runners", description=__doc__)
    parser.add_argument("--runners", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    figures = measure(options.runners, options.seconds)
    met = percentile(figures.polls, 99) <= GOAL
    print(f"{machine()}, load {os.getloadavg()[0]:.1f}\n\n| {options.runners} runners | | goal | |\n|---|---|---|---|")
    print(
        f"| a question for work ({len(figures.polls)}) | {spread(figures.polls)} | p99 <= 50 ms | {'ok' if met else 'MISSED'} |"
    )
    print(f"| a chunk of output ({len(figures.chunks)}) | {spread(figures.chunks)} | | |")
    print(f"| from a submission to the start ({len(figures.starts)}) | {spread(figures.starts)} | < 300 ms | |")
    print(f"| processor time of the server for a request | {figures.processor / figures.requests * 1e3:.1f} ms | | |")
    for kind, seconds in figures.kinds.items():
        print(f"| the same, for {kind} | {seconds * 1e3:.1f} ms | | |")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
