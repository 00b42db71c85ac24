"""`python -m bench.hosts [speed | faults] [--commands N]`: enrolled hosts over a real Redis, as Markdown tables.

`speed` measures the way to a host and back; `faults` kills what can be killed and counts the commands that were lost or
ran twice. Both start a Redis, servers and agents of their own.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.__main__ import machine
from bench.servers import GENEROUS, ROOT, await_port, free_port
from bench.sockets import BATCH, completed, gatepost

BOUND = 120.0  # seconds until a command must have ended
AT_ONCE = 16
LINES = 1_000_000
DOCKER = '#!/bin/sh\necho "$2" >> runs\nsleep 0.1\necho "$2"\n'
FINAL = {"succeeded", "failed", "timed_out", "cancelled", "denied", "lost"}


@dataclass
class Process:
    """A process that can be killed and started again with the same words."""

    words: list[str]
    env: dict[str, str]
    folder: Path
    process: "subprocess.Popen[bytes] | None" = None

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.words, cwd=ROOT, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def send(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process and self.process.poll() is None:
            self.send(number)
            self.process.wait(30)

    def again(self) -> None:
        """Kill it and start it again."""
        self.end(signal.SIGKILL)
        self.start()


@dataclass
class Rig:
    """A Redis, servers with one data folder, and agents."""

    folder: Path
    redis: Process
    servers: list[Process]
    ports: list[int]
    agents: dict[str, Process]
    token: str
    started: dict[str, str] = field(default_factory=dict)  # executions by their key

    def ask(self, path: str, body: Any = None, *, key: str = "", port: int = 0) -> Any:
        """One request; raises what urllib raises."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        headers |= {"Idempotency-Key": key} if key else {}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port or self.ports[0]}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read())

    def insist(self, path: str, body: Any = None, *, key: str = "", port: int = 0) -> Any:
        """The same until it is answered, as a client does while something is away."""
        end = time.monotonic() + BOUND
        while True:
            try:
                return self.ask(path, body, key=key, port=port)
            except (urllib.error.URLError, OSError) as error:
                if time.monotonic() > end or (isinstance(error, urllib.error.HTTPError) and error.code < 409):
                    raise
                time.sleep(0.2)

    def run(self, host: str, number: int, port: int = 0) -> str:
        """Run a command that counts its runs; how it ended."""
        body = {"command": "docker_restart", "params": {"container_name": f"c{number}"}}
        id = self.insist(f"/api/hosts/{host}/commands", body, key=f"key-{host}-{number}", port=port)["id"]
        end = time.monotonic() + BOUND
        while time.monotonic() < end:
            status = self.insist(f"/api/executions/{id}", port=port)["status"]
            if status in FINAL:
                return str(status)
            time.sleep(0.1)
        return "running"

    def runs(self, host: str) -> Counter[str]:
        """How often each command ran."""
        counted = self.folder / host / "data" / "workspace" / "runs"
        return Counter(counted.read_text().split()) if counted.exists() else Counter()

    def ready(self) -> None:
        """Wait until all hosts are online."""
        end = time.monotonic() + BOUND
        while {each["id"] for each in self.insist("/api/hosts") if each["status"] == "online"} < self.agents.keys():
            assert time.monotonic() < end, "the hosts are not online"
            time.sleep(0.2)


@contextmanager
def rig(hosts: int = 1, servers: int = 1, commands: int = 0) -> Iterator[Rig]:
    """Start everything; end it by pid."""
    folder = Path(tempfile.mkdtemp(prefix="gatepost-hosts-"))
    folder.chmod(0o711)
    with ExitStack() as ending:
        ending.callback(shutil.rmtree, folder)
        port, ports = free_port(), [free_port() for _ in range(servers)]
        redis = _begun(
            ending, folder / "redis", [_redis(), "--port", str(port), "--save", "", "--dir", str(folder)], {}
        )
        await_port(port)
        server = {"REDIS_URL": f"redis://127.0.0.1:{port}", "GATEPOST_DATA_DIR": str(folder / "server" / "data")}
        server |= {**GENEROUS, "GATEPOST_USER_RATE": "1000000/minute"}
        begun = []
        for number in ports:
            begun.append(_begun(ending, folder / "server", _backend("serve", "--port", str(number)), server))
            await_port(number)
        _cli(server, "user", "add", "ann", "--no-password", "--profile", "agent")
        _cli(server, "host", "grant", "--user", "ann", "--all")
        token = _cli(server, "token", "create", "--user", "ann", "--name", "bench")
        agents = {
            name: _agent(ending, folder / name, name, server, commands)
            for name in (f"web-{number}" for number in range(1, hosts + 1))
        }
        found = Rig(folder, redis, begun, ports, agents, token)
        found.ready()
        yield found


def _agent(ending: ExitStack, folder: Path, name: str, server: dict[str, str], commands: int) -> Process:
    printed = _cli(server, "host", "enroll", name).splitlines()
    secret = next(line for line in printed if line.startswith("GATEPOST_HOST_SECRET=")).partition("=")[2]
    folder.mkdir(mode=0o711)
    docker = folder / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    env = {
        "REDIS_URL": server["REDIS_URL"],
        "AGENT_ID": name,
        "GATEPOST_HOST_SECRET": secret,
        "GATEPOST_DATA_DIR": str(folder / "data"),
        "GATEPOST_DOCKER_COMMAND": str(docker),
        "DOCKER_CONTAINER_NAME": ",".join(f"c{number}" for number in range(commands)) or "none",
        "AGENT_RUN_PROFILE": "agent",
        "GATEPOST_OUTPUT_LIMIT": GENEROUS["GATEPOST_OUTPUT_LIMIT"],
        "HEARTBEAT_INTERVAL": "1",
    }
    return _begun(ending, folder, _backend("agent"), env)


def _begun(ending: ExitStack, folder: Path, words: list[str], env: dict[str, str]) -> Process:
    folder.mkdir(exist_ok=True, mode=0o711)
    process = Process(words, {"PATH": os.environ["PATH"], **env}, folder)
    process.start()
    ending.callback(lambda: process.end(signal.SIGKILL) if process.folder.name == "redis" else process.end())
    return process


def _backend(*words: str) -> list[str]:
    return [sys.executable, "-m", "backend", *words]


def _cli(env: dict[str, str], *words: str) -> str:
    done = subprocess.run(
        _backend(*words), cwd=ROOT, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _redis() -> str:
    found = shutil.which("redis-server")
    if not found:
        raise SystemExit("bench: redis-server is required")
    return found


# Faults


def faults(commands: int) -> bool:
    """Print how many commands were lost or ran twice under each fault."""
    print("| fault | commands | ends | lost | ran twice | |\n|---|---|---|---|---|---|")
    good = [_fault(name, commands, *fault) for name, fault in FAULTS.items()]  # all of them, whatever failed
    return all(good)


def _fault(name: str, commands: int, hosts: int, servers: int, times: int, spoil: Callable[[Rig, int], None]) -> bool:
    """Run commands while something is spoilt several times, spread over them."""
    with rig(hosts, servers, commands) as made:
        done: dict[int, str] = {}
        names, threads = list(made.agents), ThreadPoolExecutor(AT_ONCE)

        def one(number: int) -> None:
            port = made.ports[number % servers]
            done[number] = made.run(names[number % hosts], number, port)

        running = [threads.submit(one, number) for number in range(commands)]
        for count in range(times):
            while len(done) < (count + 1) * commands // (times + 2) and not all(each.done() for each in running):
                time.sleep(0.01)
            spoil(made, count)
        for each in running:
            each.result()
        ends, ran = Counter(done.values()), sum((made.runs(host) for host in names), Counter[str]())
    twice = sum(count > 1 for count in ran.values())
    # A command is lost if it has no end, or its end is not what happened; one that an agent ran as it was killed is `lost`.
    wrong = sum((f"c{number}" in ran) != (status == "succeeded") for number, status in done.items() if status != "lost")
    lost = ends["running"] + wrong + (0 if "agent killed" in name else ends["lost"])
    good = not lost and not twice
    print(f"| {name} | {commands} | {dict(ends)} | {lost} | {twice} | {'ok' if good else 'MISSED'} |", flush=True)
    return good


def _cut(made: Rig, _: int) -> None:
    made.redis.send(signal.SIGSTOP)
    time.sleep(3)
    made.redis.send(signal.SIGCONT)


FAULTS: dict[str, tuple[int, int, int, Callable[[Rig, int], None]]] = {
    "Redis killed and restarted 10 times, empty": (1, 1, 10, lambda made, _: made.redis.again()),
    "agent killed 20 times (what it ran is lost)": (1, 1, 20, lambda made, _: made.agents["web-1"].again()),
    "server killed 3 times": (1, 1, 3, lambda made, _: made.servers[0].again()),
    "network cut for 3 s, twice": (1, 1, 2, _cut),
    "two servers, three agents, one server killed": (3, 2, 1, lambda made, _: made.servers[1].again()),
}


# Speed


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
        print(f"| echo, 32 at once | {_rate(made, more, rounds * 200):.0f} a second | 1000 |", flush=True)
        client.close()
        here = _streamed(made, more, f"seq 1 {LINES}", rounds)
        there = _streamed(made, more, f"@web-1 run 'seq 1 {LINES}'", rounds)
        print(f"| `seq 1 {LINES}` | {there:.1f} s, on the server {here:.1f} s: {here / there:.2f} | 0.5 |", flush=True)
        _idle(made)


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
        for _ in range(commands // 32):
            _timed(client, "@web-1 echo hi")
        client.close()

    clients = [gatepost(made.ports[0], more) for _ in range(32)]
    with ThreadPoolExecutor(32) as threads:
        begun = time.perf_counter()
        list(threads.map(some, clients))
        return commands // 32 * 32 / (time.perf_counter() - begun)


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
    used = (_ticks(agent.process.pid) - before) / os.sysconf("SC_CLK_TCK") / seconds
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
    parser.add_argument("--only", help="a part of the name of a fault")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that everything that was started is ended
    print(f"{machine()}\n")
    if options.what == "speed":
        speed(options.rounds)
        return 0
    if options.only:
        for name in [each for each in FAULTS if options.only not in each]:
            del FAULTS[name]
    return 0 if faults(options.commands) else 1


if __name__ == "__main__":
    sys.exit(main())
