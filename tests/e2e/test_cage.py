"""What the kernel keeps from commands that a running service let through: here no policy stands before it."""

import asyncio
import importlib.util
import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from backend.executors.local.outside import SEARCH_PATH
from tests.client import Terminal, output, terminal
from tests.conftest import StartServer, end
from tests.e2e.open_gate import attack, give, open_policy
from tests.executors.local.caged import roomy
from tests.needs import need
from tests.preloaded import Before
from tests.serving import ANY_PROGRAM, PROGRAM, Seen, Server, all_processes, clean_up, processes_of, start, wait_until
from tests.storage.conftest import SERVER as POSTGRESQL
from tests.storage.conftest import postgresql as postgresql

NO_COMPILER: Before = ("tests.e2e.without_compiler",)
NO_CAGE: Before = ("tests.e2e.without_cage",)
USUAL: Before = ()
UNLOCKED: Before = ("tests.e2e.without_calls", "landlock")
SECRETS = {
    "ANTHROPIC_API_KEY": "planted-anthropic-5f2e",
    "GATEPOST_SECRET_KEY": "planted-secret-key-that-is-32-bytes-long",
    "CANARY": "planted-canary-91",
}
PLANTED = "planted-"

# Each is a way to hide from the one who has to end it. `up` is printed when everything has been started.
FAMILIES = (
    "setsid sleep {mark} & echo up; wait",
    "( (setsid sleep {mark} &) & ); echo up; sleep {mark}",
    'setsid bash -c "sleep {mark} & sleep {mark} & exit"; echo up; sleep {mark}',
    "(env -i setsid sleep {mark} >/dev/null 2>&1 &); setsid sleep {mark} & echo up; wait",
)
ROUNDS, CONNECTIONS, AT_ONCE = 25, 2, 4  # 200 kills


@pytest.fixture(autouse=True)
def tools() -> None:
    need(shutil.which("python3", path=SEARCH_PATH), "python3 for commands")


Begin = Callable[..., Server]


@pytest.fixture(params=["L2", "L3"])
def level(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Without and with rooms: what holds there holds here."""
    return _possible(request.param, tmp_path)


def _possible(level: str, folder: Path) -> str:
    if level == "L3":
        with roomy(folder):
            pass
    return level


def _settings(folder: Path, level: str) -> dict[str, str]:
    """Those of servers without a policy and with planted secrets."""
    many = {"GATEPOST_CONCURRENT_TOTAL": "100", "GATEPOST_CONCURRENT_PER_PRINCIPAL": "20"}
    rooms = {"GATEPOST_NAMESPACES": "auto" if level == "L3" else "false"}
    return {**open_policy(folder), **SECRETS, **many, **rooms}


@pytest.fixture
def begin(start_server: StartServer, tmp_path: Path, level: str) -> Begin:
    """Starts servers without a policy and with planted secrets."""
    settings = _settings(tmp_path, level)

    def started(env: dict[str, str] | None = None, before: Before = USUAL) -> Server:
        return start_server({**settings, **(env or {})}, before=before)

    return started


class Planted(NamedTuple):
    """A server with secrets, and the level at which its commands run."""

    server: Server
    level: str


@pytest.fixture(scope="module", params=(("L2", "sqlite"), ("L3", "postgresql")), ids="-".join)
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    """A server with secrets, also with a database that has a password; shared by what is tried on it."""
    level, database = request.param
    folder = tmp_path_factory.mktemp("planted")
    folder.chmod(0o711)
    env = _settings(folder, _possible(level, folder))
    if database == "postgresql":
        need(importlib.util.find_spec(POSTGRESQL), POSTGRESQL)
        postgres, name = request.getfixturevalue("postgresql"), f"cage_{os.urandom(4).hex()}"
        postgres.psql(f"create database {name};")  # a database belongs to one data folder
        uri = postgres.get_uri(database=name)
        env["DATABASE_URL"] = uri.replace("postgres:@", "postgres:planted-password@")
        assert env["DATABASE_URL"] != uri
    server = start(folder, {**ANY_PROGRAM, **env}, command=PROGRAM)
    yield Planted(server, level)
    end(server)


def _pids(server: Server) -> str:
    """Where processes are to be looked for."""
    return f"[*range(1, 300), *range({server.pid} - 300, {server.pid} + 600), os.getpid(), os.getppid()]"


async def test_no_planted_secret_is_seen(planted: Planted) -> None:
    server = planted.server
    names = ("environ", "cmdline", "root/proc/self/environ", "task/{pid}/environ", "fd/0", "cwd/data", "maps", "mem")
    script = f"""
seen = []
def look(name, action):
    def found():
        data = action()
        data = data if isinstance(data, bytes) else str(data).encode()
        count = data.count(b"plan" + b"ted-")
        seen.extend([name] * count)
        return count or None
    attempt(name, found)
look("environment", lambda: dict(os.environ))
for words in (["env"], ["ps", "auxe"], ["ps", "-eo", "args"], ["bash", "-c", "cat /proc/[0-9]*/environ; set"]):
    look(" ".join(words), lambda: subprocess.run(words, capture_output=True, timeout=20).stdout)
for pid in {_pids(server)}:
    for name in {names!r}:
        path = "/proc/%d/%s" % (pid, name.replace("{{pid}}", str(pid)))
        look(path, lambda: read(path))
for path in glob.glob("{server.folder}/**", recursive=True) + ["{server.folder}/stderr.log", "/proc/self/../{server.pid}/environ"]:
    look(path, lambda: read(path))
"""
    async with terminal(server) as client:
        worked, messages = await attack(client, server, script)
        assert worked == {}
        for line in ("bash -c env", "bash -c 'cat /proc/*/environ'"):
            assert PLANTED not in json.dumps(await client.run(line))
    assert PLANTED not in json.dumps(messages)


async def test_what_the_service_keeps_cannot_be_read_or_written(planted: Planted) -> None:
    server = planted.server
    data = server.data_dir
    async with terminal(server) as client:
        kept = (await client.run("echo kept"))[0]["execution"]
        files = [data / name for name in ("gatepost.db", "gatepost.db-wal", "tokens.key", "audit.key", "folder.id")]
        files += [server.recordings / f"{kept}.ndjson", data, server.recordings, data / "cage", server.folder]
        script = f"""
for number, path in enumerate({[str(path) for path in files]!r}):
    for way in (path, os.path.relpath(path), "/proc/self/root" + path, "/proc/%d/root%s" % ({server.pid}, path)):
        attempt("read " + way, lambda: read(way))
        attempt("list " + way, lambda: os.listdir(way))
        attempt("write " + way, lambda: open(way, "ab", buffering=0).write(b"x"))
        attempt("empty " + way, lambda: os.truncate(way, 0) is None)
        attempt("delete " + way, lambda: os.unlink(way) is None)
        attempt("rename " + way, lambda: os.rename(way, "mine%d" % number) is None)
        attempt("replace " + way, lambda: os.rename("attack.py", way) is None)
        attempt("create " + way, lambda: open(way + "/new", "x") and True)
        attempt("link " + way, lambda: os.link(way, "linked%d" % number) is None)
        attempt("mode " + way, lambda: os.chmod(way, 0o777) is None)
    os.symlink(path, "symbolic%d" % number)
    attempt("by link " + path, lambda: read("symbolic%d" % number))
    attempt("to link " + path, lambda: open("symbolic%d" % number, "ab", buffering=0).write(b"x"))
"""
        keys = {
            name: (data / name).read_bytes()
            for name in ("tokens.key", "audit.key", "folder.id")
            if (data / name).exists()
        }
        worked, _ = await attack(client, server, script)
    if os.geteuid():  # told as a gap: of the service's own user, modes can be changed
        worked = {name: got for name, got in worked.items() if not name.startswith("mode ")}
    assert worked == {}
    assert keys == {name: (data / name).read_bytes() for name in keys}


async def test_another_projects_workspace_is_closed(begin: Begin, level: str) -> None:
    server = begin()
    other = server.data_dir / "projects" / "01JBXJ0000000000000000000A"
    other.mkdir(parents=True)
    (other / "secret").write_text(PLANTED)
    owner = server.workspace.stat()
    for path in (other, other / "secret"):
        os.chown(path, owner.st_uid, owner.st_gid)  # as the service makes them: of the commands' user
        path.chmod(0o777)
    script = f"""
attempt("read", lambda: read("{other}/secret"))
attempt("list", lambda: os.listdir("{other}"))
attempt("write", lambda: open("{other}/secret", "a") and True)
attempt("make", lambda: os.mkdir("{other}/new") is None)
attempt("link", lambda: os.link("{other}/secret", "linked") is None)
os.symlink("{other}", "there")
attempt("by link", lambda: read("there/secret"))
if {level == "L3"}:  # without namespaces the names of others are there, and one user may change the modes of another's files
    for path in ("{other}", "{other}/secret", "{server.data_dir}/gatepost.db", "{server.folder}/stderr.log"):
        attempt("see " + path, lambda: os.stat(path))
        attempt("mode " + path, lambda: os.chmod(path, 0o700) is None)
"""
    async with terminal(server) as client:
        worked, _ = await attack(client, server, script)
    assert worked == {}
    assert [path.name for path in other.iterdir()] == ["secret"]


async def test_the_home_of_a_visitor_is_closed_to_the_others_and_goes_with_the_connection(planted: Planted) -> None:
    server = planted.server
    async with terminal(server) as other:
        async with terminal(server) as client:
            made, _ = await attack(client, server, 'open(os.environ["HOME"] + "/secret", "w").write("x")')
            assert made == {}
            [home] = (server.data_dir / "homes").glob("*/visitors/*")
            assert (home / "secret").read_text() == "x"
            script = f"""
for path in ("{home}/secret", "{home.parent}/../visitors/{home.name}/secret", "/proc/self/root{home}/secret"):
    attempt("read " + path, lambda: read(path))
    attempt("write " + path, lambda: open(path, "a") and True)
attempt("list", lambda: os.listdir("{home}"))
attempt("list all", lambda: os.listdir("{home.parent}"))
attempt("own", lambda: os.environ["HOME"] == "{home}")
"""
            worked, _ = await attack(other, server, script)
            assert worked == {}
        wait_until(lambda: not home.exists(), "the home of a visitor who has gone to be removed")


def _named(server: Server, command: str) -> list[Seen]:
    return [process for process in processes_of(server) if process.command == command]


async def test_a_command_is_never_root_has_no_socket_and_kills_nobody(planted: Planted) -> None:
    server, level = planted
    async with terminal(server) as victim, terminal(server) as client:
        await victim.start("sleep 9001")
        [sleep] = wait_until(lambda: _named(server, "sleep 9001"), "the program to be executed")
        script = f"""
attempt("root", lambda: 0 in (*os.getresuid(), *os.getresgid(), *os.getgroups()))
attempt("become root", lambda: os.setuid(0) is None)
attempt("capabilities", lambda: [line for line in read("/proc/self/status").split(b"\\n")
                                 if line.startswith(b"Cap") and int(line.split()[1], 16) and b"Bnd" not in line] or None)
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, 40):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):
        attempt("socket %d %d" % (family, kind), lambda: socket.socket(family, kind))
def connect():
    with socket.socket(socket.AF_UNIX) as unix:
        unix.connect("/nowhere")
try:
    connect()
except PermissionError:
    pass
except OSError as error:
    worked["connect"] = str(error)
for pid in ({server.pid}, {sleep.pid}, {sleep.parent}, -1, -{sleep.pid}, 1):
    if pid != -1:
        attempt("see %d" % pid, lambda: os.kill(pid, 0) is None)
    attempt("prlimit %d" % pid, lambda: pid > 0 and __import__("resource").prlimit(pid, 7, (8, 8)))
signal.signal(signal.SIGTERM, signal.SIG_IGN)
attempt("kill all", lambda: os.kill(-1, signal.SIGTERM) and True)
for pid in ({server.pid}, {sleep.pid}, {sleep.parent}):
    attempt("kill %d" % pid, lambda: os.kill(pid, signal.SIGKILL) is None)
"""
        worked, _ = await attack(client, server, script)
        if level == "L3":  # a network of its own, in which there is nobody
            ordinary = itertools.product([socket.AF_INET, socket.AF_INET6], [socket.SOCK_STREAM, socket.SOCK_DGRAM])
            netlink = itertools.product([socket.AF_NETLINK], [socket.SOCK_DGRAM, socket.SOCK_RAW])
            opened = {f"socket {family:d} {kind:d}" for family, kind in (*ordinary, *netlink)}
            assert set(worked) == {"connect", *opened}
            worked = {}
        assert worked == {}
        assert server.get("/health").status == 200
        if level == "L3":  # the commands of a project may end each other
            assert (await victim.reply())[-1]["exit_code"] == 128 + signal.SIGTERM
            return
        assert sleep.pid in all_processes()
        await victim.send(type="cancel")
        assert (await victim.reply())[-1]["status"] == "cancelled"


async def _cancel_at_once(client: Terminal, level: str, marks: list[int]) -> list[float]:
    """Start a command for each mark, then cancel all; seconds until each was told to be gone, or is not."""
    executions = []
    for number, mark in enumerate(marks):
        await client.send(type="run", command=f"bash -c '{FAMILIES[number % len(FAMILIES)].format(mark=mark)}'")
        executions.append((await client.until("stdout", 30))[-1]["execution"])
    begun = time.monotonic()
    for execution in executions:
        await client.send(type="cancel", execution=execution)
    seconds: list[float] = []
    while len(seconds) < len(marks):
        [complete] = (await client.until("complete", 30))[-1:]
        seconds.append(time.monotonic() - begun)
        assert (complete["status"], complete["protection"]) == ("cancelled", level)
    return seconds


async def test_200_kills_several_at_once_leave_no_process(begin: Begin, level: str) -> None:
    server = begin()
    seconds: list[float] = []
    left = 0
    for _ in range(ROUNDS):
        marks = [list(range(910_000 + 10 * at, 910_000 + 10 * at + AT_ONCE)) for at in range(CONNECTIONS)]
        async with terminal(server) as first, terminal(server) as second:
            for gone in await asyncio.gather(
                *(_cancel_at_once(client, level, mine) for client, mine in zip((first, second), marks, strict=True))
            ):
                seconds += gone
        found = processes_of(server, "sleep 910")
        left += len(found)
        clean_up([process for process in found if process.state != "Z"])
    cuts = statistics.quantiles(seconds, n=100)
    print(
        f"{len(seconds)} kills, {left} processes left, gone after p50 {cuts[49] * 1e3:.0f} p99 {cuts[98] * 1e3:.0f} ms"
    )
    assert (len(seconds), left) == (ROUNDS * CONNECTIONS * AT_ONCE, 0)
    assert cuts[98] < 3


async def test_nothing_outlives_a_server_that_is_killed(begin: Begin) -> None:
    server = begin()
    async with terminal(server) as client:
        for number in range(8):
            script = FAMILIES[number % len(FAMILIES)].format(mark=920_000 + number)
            await client.send(type="run", command=f"bash -c '{script}'")
            await client.until("stdout", 30)
        assert len(processes_of(server, "sleep 920")) > 16
        begun = time.monotonic()
        server.kill()
        wait_until(lambda: not processes_of(server, "sleep 920"), "the commands of a dead server to end")
        print(f"gone {(time.monotonic() - begun) * 1e3:.0f} ms after the server")


def _kept(server: Server, execution: str) -> tuple[str, list[dict[str, Any]]]:
    """What the history and the audit hold of an execution."""
    with sqlite3.connect(f"file:{server.data_dir}/gatepost.db?mode=ro", uri=True) as database:
        [level] = database.execute("select protection from executions where id = ?", [execution]).fetchone()
        bodies = database.execute("select body from audit_events where body like ?", [f"%{execution}%"]).fetchall()
    database.close()
    events = [json.loads(body) for (body,) in bodies]
    return level, [event for event in events if event["kind"] == "finished"]


@pytest.mark.parametrize("before", [USUAL, UNLOCKED], ids=["usual", "unlocked"])
async def test_every_execution_tells_the_level_that_was_applied(begin: Begin, before: Before, level: str) -> None:
    if before is UNLOCKED:
        level = "L1"
    server = begin({"GATEPOST_PROTECTION_MINIMUM": "L1"}, before)
    lines = ("echo ok", "bash -c 'exit 3'", "bash -c 'kill -9 $$'", "echo a | cat > file", "sleep 600", "yes")
    async with terminal(server, "gatepost.v1.batch") as client:
        for line in lines:
            complete = (await client.run(line, 60, timeout=0.5))[-1]
            stored, [event] = _kept(server, complete["execution"])
            assert (line, complete["protection"], stored, event["protection"]) == (line, level, level, level)
            assert ("landlock:" in ",".join(event["layers"])) == (level > "L1")
            assert ("namespaces" in event["layers"]) == (level == "L3")
            assert {"seccomp", "no_new_privs", "rlimits", "session"} <= set(event["layers"])


async def test_without_a_compiler_commands_run_in_the_shipped_cage(begin: Begin, level: str) -> None:
    server = begin(before=NO_COMPILER)
    assert server.get("/health/protection").json["level"] == level
    async with terminal(server) as client:
        replies = await client.run("echo ok")
    assert (output(replies), replies[-1]["protection"]) == ("ok\n", level)


def test_starting_neither_builds_nor_copies_the_cage(begin: Begin, level: str) -> None:
    server = begin()
    assert server.get("/health/protection").json["level"] == level
    assert not (server.data_dir / "cage").exists()


async def test_without_a_cage_nothing_runs_and_the_reason_is_given(begin: Begin) -> None:
    server = begin(before=NO_CAGE)
    answer = server.get("/health/protection")
    assert (answer.status, answer.json["level"]) == (503, "L0")
    assert all("install Gatepost again" in test["detail"] for test in answer.json["tests"])
    wait_until(lambda: "is ready" in server.stderr, "its welcome")
    [why] = [line for line in server.stderr.splitlines() if "install Gatepost again" in line]
    assert "read a file outside" in why
    async with terminal(server) as client:
        assert [message["rule"] for message in await client.run("echo ok")] == ["protection.unavailable"]


async def test_where_landlock_is_missing_nothing_runs(begin: Begin) -> None:
    server = begin(before=UNLOCKED)
    wait_until(lambda: "is ready" in server.stderr, "its welcome")
    assert "but runs no command. The protection here is L1, but L2 is required." in server.stderr
    assert "  read a file outside, write a file outside" in server.stderr
    answer = server.get("/health/protection")
    assert (answer.status, answer.json["level"], answer.json["minimum"]) == (503, "L1", "L2")
    assert answer.json["landlock_abi"] == 0
    failed = {test["name"] for test in answer.json["tests"] if not test["passed"]}
    assert {"read a file outside", "write a file outside"} <= failed
    assert server.get("/health").status == 200
    assert server.get("/readyz").json["checks"]["protection"] == "failed"
    async with terminal(server) as client:
        for line in ("echo ok", "bash -c 'touch ran'", "echo ok > ran", "help"):
            assert [message["rule"] for message in await client.run(line)] == ["protection.unavailable"], line
    assert not (server.workspace / "ran").exists()
    assert processes_of(server) == []


async def test_a_lower_minimum_lets_them_run_and_they_say_so(begin: Begin) -> None:
    server = begin({"GATEPOST_PROTECTION_MINIMUM": "L1"}, UNLOCKED)
    answer = server.get("/health/protection")
    assert (answer.status, answer.json["level"]) == (200, "L1")
    async with terminal(server) as client:
        replies = await client.run("echo ok")
    assert (output(replies), replies[-1]["protection"]) == ("ok\n", "L1")


SWAP = """
import os
os.symlink("{outside}", "link")
open("plain", "w").close()
print("up", flush=True)
while True:
    for source in ("link", "plain"):
        os.link(source, "next", follow_symlinks=False)
        os.rename("next", "target")
"""
TRIES = 60


@pytest.mark.parametrize("level", ["L2"], indirect=True)  # the service opens the files, outside of rooms
async def test_a_file_that_is_swapped_for_a_link_is_never_followed_out(begin: Begin) -> None:
    server = begin()
    outside = server.folder / "outside"
    outside.write_text(PLANTED)
    outside.chmod(0o666)  # so that only the way there is closed
    give(server, "swap.py", SWAP.format(outside=outside))
    found: dict[str, int] = {}

    async def try_often(line: str) -> None:
        async with terminal(server) as client:
            for _ in range(TRIES):
                replies = await client.run(line)
                assert PLANTED not in json.dumps(replies)
                end = replies[-1]
                kind = "opened" if end.get("exit_code") == 0 else end.get("rule") or "refused by the kernel"
                found[kind] = found.get(kind, 0) + 1

    async with terminal(server) as swapper:
        await swapper.start("python3 swap.py", timeout=60)
        await swapper.until("stdout")
        await asyncio.gather(*map(try_often, ("echo leak > target", "cat < target", "echo leak >> target")))
        await swapper.send(type="cancel")
        await swapper.reply()
    print(f"{sum(found.values())} tries, 0 leaks: {found}")
    assert outside.read_text() == PLANTED
    assert found["opened"] > TRIES // 20
    assert found["refused by the kernel"] > 0
