"""Agents in processes of their own, and a backend as it existed before Gatepost: it shares no code with the agent."""

import base64
import hashlib
import hmac
import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from redis import Redis as Client

from backend.executors.local.run_as import find_owner
from tests import preloaded
from tests.preloaded import Process
from tests.redis_server import Redis
from tests.serving import ROOT, wait_until

OWNER = find_owner("nobody")
BOUND = 30.0  # seconds for a start, and for an answer


@dataclass
class Agent:
    """An agent that runs, with its data in `folder`."""

    process: Process
    folder: Path
    host: str

    @property
    def log(self) -> str:
        return (self.folder / "stderr.log").read_text() + (self.folder / "stdout.log").read_text()

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The events of its audit."""
        import sqlite3

        with sqlite3.connect(self.folder / "data" / "gatepost.db") as database:
            return [json.loads(body) for (body,) in database.execute("select body from audit_events order by seq")]

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(BOUND)


def start_agent(folder: Path, redis: Redis, host: str = "web-01", **env: str) -> Agent:
    """Start an agent. What is in `env` comes in addition to what it needs."""
    folder.mkdir(exist_ok=True, mode=0o711)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "GATEPOST_DATA_DIR": str(folder / "data"),
        "REDIS_URL": redis.url,
        "AGENT_HOSTNAME": host,
        "HEARTBEAT_INTERVAL": "1",
        **env,
    }
    with (
        (folder / "stdout.log").open("ab") as out,
        (folder / "stderr.log").open("ab") as err,
        Path(os.devnull).open("rb") as none,
    ):
        process = preloaded.start(["agent"], folder, environment, (none, out, err))
    return Agent(process, folder, host)


@dataclass
class Backend:
    """A backend that speaks dialect 1, or dialect 2 if it has a secret."""

    client: Any
    secret: str = ""
    answers: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def on(cls, redis: Redis, secret: str = "") -> "Backend":
        return cls(Client(unix_socket_path=str(redis.path)), secret)

    def listening(self, agent: Agent) -> None:
        """Wait until an agent has subscribed and announced itself."""

        def ready() -> bool:
            assert agent.process.poll() is None, agent.log
            channel = f"cockpit-agent:{agent.host}"
            return bool(self.client.pubsub_numsub(channel)[0][1]) and bool(self.client.exists(f"agents:{agent.host}"))

        wait_until(ready, f"the agent\n{agent.log}", BOUND)

    def message(self, command: str, params: Any, id: str = "", **more: Any) -> dict[str, Any]:
        message: dict[str, Any] = {"command_id": id or str(uuid.uuid4()), "command": command, "params": params, **more}
        if not self.secret:
            return message
        if isinstance(params, dict) and "password" in params:
            key = base64.urlsafe_b64encode(hashlib.sha256(self.secret.encode()).digest())
            message["params"] = {**params, "password": Fernet(key).encrypt(params["password"].encode()).decode()}
        message = {"timestamp": int(time.time()), "sender": "cockpit", **message}
        return {**message, "auth": {"signature": signed(message, self.secret)}}

    def ask(self, host: str, command: str, params: Any = None, **more: Any) -> dict[str, Any]:
        """Run a command and wait for its answer, as existing backends do."""
        return self.send(host, self.message(command, {} if params is None else params, **more))

    def send(self, host: str, message: Mapping[str, Any], bound: float = BOUND) -> dict[str, Any]:
        with self.client.pubsub() as channel:
            channel.subscribe(f"cockpit-agent-response:{host}")
            assert channel.get_message(timeout=5)
            assert self.client.publish(f"cockpit-agent:{host}", json.dumps(message)) == 1
            end = time.monotonic() + bound
            while time.monotonic() < end:
                got = channel.get_message(timeout=0.2)
                if got and got["type"] == "message":
                    answer: dict[str, Any] = json.loads(got["data"])
                    if answer["command_id"] == message["command_id"] and answer.get("type") != "progress":
                        return answer
        raise AssertionError(f"no answer to {message}")

    def is_silent(self, host: str, raw: bytes | str) -> None:
        """Send what gets no answer, then an echo, whose answer must be the first one."""
        with self.client.pubsub() as channel:
            channel.subscribe(f"cockpit-agent-response:{host}")
            assert channel.get_message(timeout=5)
            self.client.publish(f"cockpit-agent:{host}", raw)
            last = self.message("echo", {"message": "after"})
            self.client.publish(f"cockpit-agent:{host}", json.dumps(last))
            got = wait_until(lambda: channel.get_message(timeout=0.2), "an answer", BOUND)
            assert json.loads(got["data"])["command_id"] == last["command_id"]


def signed(message: Mapping[str, Any], secret: str) -> str:
    text = json.dumps(message, sort_keys=True) + ":" + str(message["timestamp"])
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def git(*words: str, cwd: Path) -> str:
    """Run git as whoever runs the tests, in repositories that belong to the user of commands."""
    settings = cwd / "of-the-tests.gitconfig"
    settings.write_text("[safe]\n\tdirectory = *\n[user]\n\tname = t\n\temail = t@example.org\n")
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": str(settings), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(["git", *words], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    settings.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass(frozen=True)
class Repositories:
    """A remote, and a clone of it that an agent may pull; both belong to the user of commands."""

    remote: Path
    clone: Path

    def commit(self, name: str, content: str = "x") -> None:
        """A new commit in the remote."""
        work = self.remote.parent / "work"
        (work / name).write_text(content)
        git("add", name, cwd=work)
        git("commit", "-qm", f"add {name}", cwd=work)
        git("push", "-q", str(self.remote), "HEAD:main", cwd=work)
        give(self.remote)


def repositories(folder: Path) -> Repositories:
    """A real remote on the disk and its clone."""
    folder.mkdir(mode=0o755)
    work, found = folder / "work", Repositories(folder / "remote.git", folder / "clone")
    git("init", "-q", "-b", "main", str(work), cwd=folder)
    git("init", "-q", "--bare", "-b", "main", str(found.remote), cwd=folder)
    found.commit("first")
    git("clone", "-q", f"file://{found.remote}", str(found.clone), cwd=folder)
    give(found.clone)
    return found


def give(folder: Path) -> None:
    """Give a folder and all in it to the user of commands."""
    if OWNER:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, *OWNER, follow_symlinks=False)


def docker_stand_in(folder: Path, seconds: int = 0) -> Path:
    """A program that is called as docker is, and says with what."""
    folder.mkdir(exist_ok=True, mode=0o755)
    program = folder / "docker"
    program.write_text(
        f'#!/bin/sh\nsleep {seconds}\necho "$2"\ntest "$2" != broken || {{ echo no such container >&2; exit 1; }}\n'
    )
    program.chmod(0o755)
    return program
