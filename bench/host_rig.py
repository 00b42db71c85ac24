"""A real Redis, servers, and agents of enrolled hosts, each of which can be killed and started again."""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.core.times import iso
from bench.servers import GENEROUS, ROOT, await_port, free_port

BOUND = 120.0  # seconds until a command must have ended
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

    def halt(self, seconds: float) -> None:
        """Have it do nothing for a while."""
        self.send(signal.SIGSTOP)
        time.sleep(seconds)
        self.send(signal.SIGCONT)


@dataclass(frozen=True)
class End:
    """How a command ended, and the reason where it did not succeed. A status that is none: it has no end."""

    command: str
    status: str
    reason: str = ""


@dataclass
class Rig:
    """A Redis, servers with one data folder, and agents."""

    folder: Path
    redis: Process
    servers: list[Process]
    ports: list[int]
    agents: dict[str, Process]
    token: str
    networks: "list[Network]"

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
            except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
                if time.monotonic() > end or (isinstance(error, urllib.error.HTTPError) and error.code < 409):
                    raise
                time.sleep(0.2)

    def run(self, host: str, number: int, port: int = 0) -> End:
        """Run a command that counts its runs."""
        name = f"c{number}"
        body = {"command": "docker_restart", "params": {"container_name": name}}
        id = self.insist(f"/api/hosts/{host}/commands", body, key=f"key-{host}-{number}", port=port)["id"]
        end = time.monotonic() + BOUND
        while time.monotonic() < end:
            status = self.insist(f"/api/executions/{id}", port=port)["status"]
            if status in FINAL:
                return End(name, status, self._reason(id))
            time.sleep(0.1)
        return End(name, "running", id)

    def _reason(self, id: str) -> str:
        """Why an execution did not succeed, as its recording says."""
        lines = (self.folder / "server" / "data" / "recordings" / f"{id}.ndjson").read_text().splitlines()
        errors = [message for message in map(json.loads, lines) if message["type"] == "error"]
        return " ".join(f"{each['rule']}: {each['message']}" for each in errors)

    def runs(self, host: str) -> Counter[str]:
        """How often each command ran."""
        counted = self.folder / host / "data" / "workspace" / "runs"
        return Counter(counted.read_text().split()) if counted.exists() else Counter()

    def ready(self) -> None:
        """Wait until all hosts are online."""
        self._until("online", lambda each: each["status"] == "online")

    def ahead(self) -> None:
        """Wait until all hosts have said something with a clock that is ahead."""
        begun = iso(int(time.time() * 1000) + 60_000)
        self._until("ahead", lambda each: each["last_seen"] > begun)

    def _until(self, what: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        end = time.monotonic() + BOUND
        while {each["id"] for each in self.insist("/api/hosts") if holds(each)} < self.agents.keys():
            assert time.monotonic() < end, f"the hosts are not {what}"
            time.sleep(0.2)


@contextmanager
def rig(hosts: int = 1, servers: int = 1, commands: int = 0, *, disk: int = 0, apart: bool = False) -> Iterator[Rig]:
    """Start everything; end it by pid.

    With `disk`, the data of agents are on disks of that many bytes; `apart`, agents are in network namespaces of their own,
    from which only Redis is reached. Both are for root only.
    """
    folder = Path(tempfile.mkdtemp(prefix="gatepost-hosts-"))
    folder.chmod(0o711)
    with ExitStack() as ending:
        ending.callback(shutil.rmtree, folder)
        names = [f"web-{number}" for number in range(1, hosts + 1)]
        networks = {name: _network(ending, number) for number, name in enumerate(names) if apart}
        port, ports = free_port(), [free_port() for _ in range(servers)]
        listening = ["127.0.0.1", *(network.address for network in networks.values())]
        words = [_redis(), "--port", str(port), "--save", "", "--dir", str(folder), "--protected-mode", "no", "--bind"]
        redis = _begun(ending, folder / "redis", [*words, *listening], {})
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
            name: _agent(ending, folder / name, name, server, commands, disk, networks.get(name)) for name in names
        }
        found = Rig(folder, redis, begun, ports, agents, token, list(networks.values()))
        found.ready()
        yield found


@dataclass(frozen=True)
class Network:
    """The network namespace of a host. The end of its cable here has an address, at which it reaches this machine."""

    namespace: str
    cable: str
    address: str

    def cut(self, seconds: float) -> None:
        """Lose every packet for a while."""
        _ip("link", "set", self.cable, "down")
        time.sleep(seconds)
        _ip("link", "set", self.cable, "up")


def _network(ending: ExitStack, number: int) -> Network:
    found = Network(f"gatepost-{os.getpid()}-{number}", f"gp{os.getpid()}-{number}", f"10.213.{number}.1")
    _ip("netns", "add", found.namespace)
    ending.callback(_ip, "netns", "delete", found.namespace)
    _ip("link", "add", found.cable, "type", "veth", "peer", "name", "eth0", "netns", found.namespace)
    _ip("address", "add", f"{found.address}/30", "dev", found.cable)
    _ip("link", "set", found.cable, "up")
    _ip("-n", found.namespace, "address", "add", f"10.213.{number}.2/30", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip("-n", found.namespace, "link", "set", device, "up")
    return found


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def _agent(
    ending: ExitStack,
    folder: Path,
    name: str,
    server: dict[str, str],
    commands: int,
    disk: int,
    network: Network | None,
) -> Process:
    printed = _cli(server, "host", "enroll", name).splitlines()
    secret = next(line for line in printed if line.startswith("GATEPOST_HOST_SECRET=")).partition("=")[2]
    folder.mkdir(mode=0o711)
    if disk:
        _mount(ending, folder / "data", disk)
    docker = folder / "docker"
    docker.write_text(DOCKER)
    docker.chmod(0o755)
    env = {
        "REDIS_URL": server["REDIS_URL"].replace("127.0.0.1", network.address if network else "127.0.0.1"),
        "AGENT_ID": name,
        "GATEPOST_HOST_SECRET": secret,
        "GATEPOST_DATA_DIR": str(folder / "data"),
        "GATEPOST_DOCKER_COMMAND": str(docker),
        "DOCKER_CONTAINER_NAME": ",".join(f"c{number}" for number in range(commands)) or "none",
        "AGENT_RUN_PROFILE": "agent",
        "GATEPOST_OUTPUT_LIMIT": GENEROUS["GATEPOST_OUTPUT_LIMIT"],
        "HEARTBEAT_INTERVAL": "1",
    }
    inside = ["ip", "netns", "exec", network.namespace] if network else []
    return _begun(ending, folder, [*inside, *_backend("agent")], env)


def _mount(ending: ExitStack, folder: Path, size: int) -> None:
    folder.mkdir(mode=0o711)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=711", "tmpfs", str(folder)], check=True)
    ending.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)


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
