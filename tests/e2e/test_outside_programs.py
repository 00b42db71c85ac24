"""A program with a key, an API over TLS and a virtual environment: it gets what it needs, and no other command does."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.accounts import client, gatepost, new_token
from tests.client import Message, Terminal, output, terminal
from tests.conftest import StartServer
from tests.outside import Api, fake_api, install_guard
from tests.serving import Server, start, wait_until

KEY = "canary-key-of-the-guard-4411"
PROFILE = """
name = "open"
summary = "The guard, and a Python for attempts."
operators = ["|", "&&"]
[limits]
characters = 4000
arguments = 50
[programs.pyguard]
summary = "The guard"
usage = "pyguard"
arguments = "any"
[programs.python3]
summary = "Attempts"
usage = "python3 -c CODE"
arguments = "any"
"""
CONNECT = """
import errno, socket
def attempt(kind, port, protocol=0):
    try:
        with socket.socket(socket.AF_INET, kind, protocol) as s:
            s.settimeout(3)
            s.connect(("127.0.0.1", port))
            if kind == socket.SOCK_DGRAM:
                s.send(b"x"), s.send(b"x")  # where nobody receives the first one, the second is refused
            return "reached"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guard")
    folder.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def api(place: Path) -> Iterator[Api]:
    with fake_api(place) as running:
        yield running


@pytest.fixture(scope="module")
def venv(place: Path, api: Api) -> Path:
    return install_guard(place, api)


@pytest.fixture(scope="module")
def settings(place: Path, api: Api, venv: Path) -> dict[str, str]:
    (place / "open.toml").write_text(PROFILE)
    return {
        "PYGUARD_COMMAND": f"{venv}/bin/guard",
        "PYGUARD_NETWORK": f"localhost:{api.port}",
        "GATEPOST_PROFILE": str(place / "open.toml"),
        "GATEPOST_COMMAND_RATE": "1000/minute",
    }


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("server"), {**settings, "ANTHROPIC_API_KEY": KEY})
    (server.workspace / "a.py").write_text("print(1)")
    yield server
    server.stop()


@pytest.fixture(scope="module", params=["L2", "L3"])
def confined(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, settings: dict[str, str]
) -> Iterator[tuple[Server, str]]:
    """A server and the level of its commands: without namespaces what others have is closed, in them it is not there."""
    if request.param == "L3":
        yield request.getfixturevalue("guarded"), "L3"
        return
    keys = {"ANTHROPIC_API_KEY": KEY, "GATEPOST_NAMESPACES": "false"}
    server = start(tmp_path_factory.mktemp("server"), {**settings, **keys})
    (server.workspace / "a.py").write_text("print(1)")
    yield server, "L2"
    server.stop()


async def python(client: Terminal, code: str, *, before: str = "") -> list[Message]:
    assert "'" not in code
    return await client.run(f"{before}python3 -c '{code}'")


def homes(server: Server) -> list[Path]:
    """Those of single runs; others stay longer."""
    found = (server.data_dir / "homes").glob("*/*")
    return [home for home in found if home.name != "visitors" and home.parent.name != "kept"]


async def test_it_asks_its_api_and_writes_the_answer(confined: tuple[Server, str], api: Api) -> None:
    server, level = confined
    async with terminal(server, "gatepost.v1.json") as client:
        replies = await client.run("pyguard fix a.py fixed.py", bound=30)
    assert (replies[-1]["status"], replies[-1]["protection"]) == ("succeeded", level), replies
    assert api.asked[-1] == (KEY, "print(1)")
    assert (server.workspace / "fixed.py").read_text() == "PRINT(1)"


async def test_the_table_is_another_way_to_say_the_same(
    start_server: StartServer, settings: dict[str, str], place: Path, api: Api, venv: Path
) -> None:
    (place / "programs.toml").write_text(
        f'[pyguard]\ncommand = ["{venv}/bin/python", "-m", "guard"]\n'
        f'required = ["GUARD_KEY", "ANTHROPIC_API_KEY"]\nnetwork = ["127.0.0.1:{api.port}", "localhost:{api.port}"]\n'
    )
    short = {"PYGUARD_COMMAND": "", "PYGUARD_NETWORK": ""}
    keys = {"GUARD_KEY": "canary-other-key", "ANTHROPIC_API_KEY": KEY}
    server = start_server({**settings, **short, **keys, "GATEPOST_PROGRAMS": str(place / "programs.toml")})
    (server.workspace / "a.py").write_text("print(2)")
    # A module of the workspace must not run with the key.
    (server.workspace / "json.py").write_text("raise SystemExit('planted')")
    async with terminal(server, "gatepost.v1.json") as client:
        replies = await client.run("pyguard analyze a.py found.txt", bound=30)
    assert replies[-1]["status"] == "succeeded", replies
    assert (server.workspace / "found.txt").read_text() == "PRINT(2)"


async def test_no_other_command_has_a_network(confined: tuple[Server, str], api: Api) -> None:
    server, level = confined
    alone = {"L2": "EPERM EPERM", "L3": "ECONNREFUSED ECONNREFUSED"}[level]
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        code = f"{CONNECT}\nprint(attempt(1, {api.port}), attempt(2, {datagrams.getsockname()[1]}))"
        async with terminal(server, "gatepost.v1.json") as client:
            assert output(await python(client, code)) == f"{alone}\n"
            assert output(await python(client, code, before="pyguard list-patterns | ")) == "EPERM EPERM\n"
            after = await python(client, code, before="pyguard list-patterns && ")
            assert output(after) == f"patterns: 3\n{alone}\n"


@pytest.mark.parametrize(("host", "names"), [("127.0.0.1", False), ("localhost", True)])
async def test_what_is_not_listed_is_not_reached(
    start_server: StartServer, settings: dict[str, str], place: Path, api: Api, venv: Path, host: str, names: bool
) -> None:
    """UDP goes with names of hosts, which have to be asked for; nothing else passes by the ports."""
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        ports = api.port, other.getsockname()[1], datagrams.getsockname()[1]
        attempts = (
            f"attempt(1, {ports[0]}), attempt(1, {ports[1]}), attempt(1, {ports[1]}, 262), attempt(2, {ports[2]})"
        )
        fast = f"""
with socket.socket() as s:
    try:
        s.sendto(b"x", 0x20000000, ("127.0.0.1", {ports[1]})); print("fast")
    except OSError as error:
        print(errno.errorcode[error.errno])
try:
    socket.socket(socket.AF_UNIX); print("unix")
except OSError as error:
    print(errno.errorcode[error.errno])
"""
        (place / "connect.py").write_text(f"{CONNECT}\nprint({attempts})\n{fast}")
        env = {"PYGUARD_COMMAND": f"{venv}/bin/python {place}/connect.py", "PYGUARD_NETWORK": f"{host}:{api.port}"}
        async with terminal(start_server({**settings, **env})) as client:
            replies = await client.run("pyguard")
    udp = "reached" if names else "EPERM"
    assert output(replies) == f"reached EACCES EPERM {udp}\nEPERM\nEPERM\n"


async def test_no_other_command_gets_its_key_or_its_files(confined: tuple[Server, str], venv: Path) -> None:
    server, level = confined
    alone = {"L2": "Permission denied", "L3": "No such file or directory"}[level]
    attempt = f'import os\nprint(sorted(os.environ))\ntry: print(os.listdir("{venv}"))\nexcept OSError as e: print(e)'
    async with terminal(server, "gatepost.v1.json") as client:
        for before, closed in (
            ("", alone),
            ("pyguard list-patterns | ", "Permission denied"),
            ("pyguard list-patterns && ", alone),
        ):
            replies = await python(client, attempt, before=before)
            assert "ANTHROPIC_API_KEY" not in output(replies)
            assert "PermissionError" not in output(replies)
            assert closed in output(replies), replies


@pytest.fixture
def keyless(start_server: StartServer, settings: dict[str, str]) -> Server:
    server = start_server(settings)
    (server.workspace / "a.py").write_text("print(1)")
    return server


async def test_without_its_key_it_is_refused_at_once(keyless: Server) -> None:
    async with terminal(keyless) as client:
        for line in (
            "pyguard fix a.py out.txt",
            "pyguard analyze a.py out.txt",
            "python3 -V | pyguard fix a.py out.txt",
        ):
            for dry_run in (False, True):
                [refusal] = await client.run(line, dry_run=dry_run)
                assert (refusal["type"], refusal["rule"]) == ("error", "program.key"), refusal
                assert "ANTHROPIC_API_KEY" in refusal["reason"]
                assert "ANTHROPIC_API_KEY" in refusal["hint"]
        for line in ("pyguard list-patterns", "pyguard fix --help && python3 -V"):
            assert (await client.run(line))[0]["type"] == "started"
    assert not (keyless.workspace / "out.txt").exists()
    keyless.stop()
    exported = gatepost(keyless.folder, "audit", "export").stdout.splitlines()[1:-1]
    events = [json.loads(json.loads(line)["body"]) for line in exported]
    assert [event["rule"] for event in events if event.get("rule") == "program.key"] == ["program.key"] * 6


async def test_explain_says_so_too(keyless: Server) -> None:
    async with client(keyless, new_token(keyless.folder, "ann")) as api:
        answer = await api.post("/api/policy/explain", json={"command": "pyguard fix a.py out.txt"})
    assert (answer.json()["allowed"], answer.json()["rule"]) == (False, "program.key")


async def test_settings_in_the_workspace_do_not_run_with_the_key(guarded: Server) -> None:
    planted = guarded.workspace / ".claude"
    planted.mkdir(exist_ok=True)
    (planted / "settings.json").write_text(json.dumps({"hooks": ["echo planted"]}))
    async with terminal(guarded, "gatepost.v1.json") as client:
        first = await client.run("pyguard fix a.py one.txt", bound=30)
        second = await client.run("pyguard fix a.py two.txt", bound=30)
    assert "planted" not in output(first)
    assert [path.name for path in planted.iterdir()] == ["settings.json"], "transcripts belong in the home"
    assert output(first).split()[1] != output(second).split()[1]
    assert homes(guarded) == []


async def test_a_home_is_closed_to_other_commands_and_gone_at_the_end(confined: tuple[Server, str]) -> None:
    server, level = confined
    closed = {"L2": "PermissionError", "L3": "FileNotFoundError"}[level]
    async with terminal(server, "gatepost.v1.json") as mine, terminal(server, "gatepost.v1.json") as other:
        await mine.start("pyguard wait")
        home = (await mine.until("stdout"))[-1]["line"]
        assert homes(server) == [Path(home)]
        assert (Path(home) / "secret").read_text() == "mine"
        for code in (f'print(open("{home}/secret").read())', f'import os; print(os.listdir("{home}"))'):
            assert closed in output(await python(other, code), "stderr")
        await mine.send(type="stdin_close")
        assert (await mine.reply())[-1]["status"] == "succeeded"
    assert not Path(home).exists()


async def test_the_home_that_a_killed_server_left_is_removed_at_the_next_startup(
    start_server: StartServer, settings: dict[str, str], tmp_path: Path
) -> None:
    server = start_server(settings)
    async with terminal(server, "gatepost.v1.json") as client:
        await client.start("pyguard wait")
        home = Path((await client.until("stdout"))[-1]["line"])
        server.kill()
    assert home.exists()
    start_server({**settings, "GATEPOST_DATA_DIR": str(server.data_dir)})
    wait_until(lambda: not home.exists(), "the home to be removed")


async def test_two_servers_of_a_folder_leave_the_homes_of_each_other(
    start_server: StartServer, settings: dict[str, str]
) -> None:
    server = start_server(settings)
    async with terminal(server, "gatepost.v1.json") as client:
        await client.start("pyguard wait")
        home = Path((await client.until("stdout"))[-1]["line"])
        start_server({**settings, "GATEPOST_DATA_DIR": str(server.data_dir)})
        assert home.exists()
        await client.send(type="stdin_close")
        await client.reply()
    assert not home.exists()
