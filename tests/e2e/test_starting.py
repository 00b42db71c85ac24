"""The ways in: the real wscat as the README has it, and plain uvicorn."""

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect

from backend.accounts.signatures import new_signing_key
from tests import preloaded
from tests.api.world import audit
from tests.client import BATCH, LINES, output, terminal
from tests.conftest import StartServer
from tests.needs import need
from tests.serving import ROOT, SERVE, UVICORN, Server, wait_until

TOKEN = "token-for-wscat-0123"

both_ways = pytest.mark.parametrize("program", [SERVE, UVICORN], ids=["serve", "uvicorn"])


def _wscat(server: Server, *words: str, hold: float = 10) -> list[dict[str, Any]]:
    """`sleep N | wscat ...` of the README: with its input closed, wscat would end at once."""
    need(found := shutil.which("wscat"), "wscat")
    with subprocess.Popen(["sleep", str(hold)], stdout=subprocess.PIPE) as pause:
        done = subprocess.run(
            [str(found), "-c", server.ws_url, *words],
            stdin=pause.stdout,
            capture_output=True,
            text=True,
            timeout=20,
            env={"PATH": os.environ["PATH"], "HOME": str(server.folder)},
        )
        pause.terminate()
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


async def test_wscat_runs_a_command(server: Server) -> None:
    messages = await asyncio.to_thread(_wscat, server, "-x", '{"command":"pwd"}', "-w", "3")
    assert [message["type"] for message in messages if message["type"] != "waking"] == [
        "ready", "started", "stdout", "complete",
    ]  # fmt: skip
    assert output(messages) == f"{server.workspace}\n"


async def test_wscat_may_ask_for_a_subprotocol(server: Server) -> None:
    words = ("-s", BATCH, "-x", '{"command":"pyguard seq 3"}', "-w", "3")
    messages = await asyncio.to_thread(_wscat, server, *words)
    assert output(messages) == "1\n2\n3\n"


async def test_wscat_proves_itself_by_header(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_ACCESS_TOKEN": TOKEN})
    words = ("-H", f"Authorization: Bearer {TOKEN}", "-x", '{"command":"echo in"}', "-w", "3")
    assert output(await asyncio.to_thread(_wscat, server, *words)) == "in\n"


@both_ways
async def test_both_ways_to_start_write_frames_directly(start_server: StartServer, program: Sequence[str]) -> None:
    server = start_server(program=program, before=("tests.e2e.telling_writers",), cwd=ROOT)
    for subprotocol in (LINES, BATCH):
        async with terminal(server, subprotocol) as client:
            assert output(await client.run("pyguard seq 3000")) == "".join(f"{n}\n" for n in range(1, 3001))
    assert server.stderr.count("WRITER DirectWriter") == 2
    assert "MessageWriter" not in server.stderr


async def test_with_compression_the_same_comes(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_COMPRESSION": "true"})
    async with connect(server.ws_url) as socket:
        await socket.send(json.dumps({"command": "pyguard seq 3000"}))
        messages: list[dict[str, Any]] = []
        while not messages or messages[-1]["type"] != "complete":
            messages.append(json.loads(await asyncio.wait_for(socket.recv(), 60)))
        assert output(messages) == "".join(f"{n}\n" for n in range(1, 3001))


async def test_the_port_of_the_command_line_wins_over_the_environment(start_server: StartServer) -> None:
    """The server answers on PORT of the command line; the variable names another one."""
    server = start_server({"PORT": "1"}, program=(*SERVE, "--port", "PORT"))
    assert server.get("/healthz").status == 200


@both_ways
async def test_both_ways_to_start_print_the_welcome_once_with_a_link_that_works(
    start_server: StartServer, program: Sequence[str]
) -> None:
    server = start_server(command=[sys.executable, "-m", *program], cwd=ROOT)
    wait_until(lambda: "/health\n" in server.stderr, "the end of the welcome")
    [link] = re.findall(r"login  (\S+)#login=(\S+)", server.logs)
    assert link[0] == f"{server.url}/"
    assert f"wscat -c {server.ws_url} " in server.stderr
    answer = httpx.post(f"{server.url}/api/auth/link", json={"ticket": link[1]}, verify=False)
    assert answer.status_code == 200
    assert server.logs.count("is ready") == server.logs.count(link[1]) == 1
    server.stop()
    again = start_server(program=program, cwd=ROOT)
    wait_until(lambda: again.stderr.count("/health\n") == 2, "the second welcome")
    assert again.logs.count("#login=") == 1


async def test_the_earlier_instructions_work(start_server: StartServer, tmp_path: Path) -> None:
    """`cd backend && uvicorn server:app`, with the settings in `backend/.env`."""
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "backend", copy / "backend", ignore=shutil.ignore_patterns("__pycache__", ".env", "data"))
    (copy / "frontend").symlink_to(ROOT / "frontend")
    (copy / "backend/.env").write_text("ANTHROPIC_API_KEY=canary-key\n")
    words = [sys.executable, "-m", "uvicorn", "server:app", "--port", "PORT"]
    server = start_server({"PYTHONPATH": ""}, command=words, cwd=copy / "backend")
    assert server.get("/health").json["api_key_configured"] is True
    async with terminal(server) as client:
        assert output(await client.command("pwd")) == f"{server.workspace}\n"
    wait_until(lambda: "#login=" in server.stderr, "the welcome")


def test_the_requirements_of_the_earlier_instructions_are_the_same() -> None:
    [line] = (ROOT / "backend/requirements.txt").read_text().splitlines()
    option, file = line.split()
    assert option == "-r"
    assert (ROOT / "backend" / file).resolve() == ROOT / "requirements.txt"


def serve_in_vain(folder: Path, env: dict[str, str], *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env}
    return preloaded.run(["serve", "--port", "0", "--data-dir", str(folder), *words], folder, environment)


def test_a_database_that_is_down_stops_the_start_in_one_line(tmp_path: Path) -> None:
    done = serve_in_vain(tmp_path, {"DATABASE_URL": "postgres://ann:canary@127.0.0.1:1/none"})
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("gatepost: The database cannot be reached")
    assert "Traceback" not in done.stdout
    assert "canary" not in done.stdout + done.stderr


def test_an_audit_of_another_key_stops_the_start_in_one_line(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    server.stop()
    public = (server.data_dir / "audit.pub").read_bytes()
    (server.data_dir / "audit.key").write_bytes(new_signing_key())
    done = serve_in_vain(server.data_dir, {})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "not signed with this server's key" in done.stderr
    assert (server.data_dir / "audit.pub").read_bytes() == public, "what verifies the audit stays"
    assert "Traceback" not in done.stdout


def test_a_port_that_is_taken_stops_the_start_and_what_was_begun_is_ended(server: Server, tmp_path: Path) -> None:
    done = serve_in_vain(tmp_path, {}, "--port", str(server.port))
    assert done.returncode not in {0, None}
    assert "address already in use" in done.stdout + done.stderr
    assert not (tmp_path / "gatepost.db-wal").exists(), "the database was not closed"


def _file(name: str, content: bytes) -> Callable[[Path], object]:
    """Something that is in the way: a file in the folder of the test, for its owner only."""

    def write(folder: Path) -> None:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        file.chmod(0o600)

    return write


BROKEN: dict[str, tuple[Callable[[Path], object], dict[str, str], str]] = {
    "the data folder is a file": (_file("data", b""), {}, "Not a directory. The service needs a folder"),
    "the data folder cannot be written to": (lambda _: None, {"GATEPOST_DATA_DIR": "/sys/gatepost"}, "GATEPOST_DATA_DIR"),
    "the id of the folder": (_file("data/folder.id", b"\xff\xfe"), {}, "folder.id does not contain an id; delete it"),
    "the key of the audit": (_file("data/audit.key", b"x"), {}, "audit.key cannot be used"),
    "the key of tokens": (_file("data/tokens.key", b"x"), {}, "at least 32 bytes"),
    "the database": (_file("data/gatepost.db", b"x" * 9000), {}, "restore a damaged one from a backup"),
    "the folder of the database": (lambda _: None, {"DATABASE_URL": "sqlite:////nowhere/x.db"}, "No such file or directory"),
    "the settings": (_file(".env", b"PORT=1\nX=\xff"), {}, ".env: not text in UTF-8"),
    "a file of the settings": (
        _file("token", b"\xff" * 20), {"GATEPOST_ACCESS_TOKEN_FILE": "token"}, "GATEPOST_ACCESS_TOKEN_FILE: ",
    ),
    "the address": (lambda _: None, {"GATEPOST_HOST": "192.0.2.1"}, "GATEPOST_HOST or --host must be an address of this"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_used_stops_the_start_in_one_line_that_says_what_to_do(what: str, tmp_path: Path) -> None:
    prepare, env, said = BROKEN[what]
    prepare(tmp_path)
    folder = {"GATEPOST_DATA_DIR": str(tmp_path / "data"), "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = preloaded.run(["serve", "--port", "0"], tmp_path, folder | env)
    assert done.returncode not in {0, 1}
    [line] = done.stderr.splitlines()
    assert line.startswith("gatepost: ")
    assert said in line
    assert "Traceback" not in done.stdout


def test_with_uvicorn_too_a_setting_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "GATEPOST_COMMAND_RATE": "often"}
    done = preloaded.run(["backend.server:app"], tmp_path, env, program="uvicorn")
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("gatepost: GATEPOST_COMMAND_RATE: ")


def test_a_full_disk_stops_the_start_in_one_line(tmp_path: Path) -> None:
    """Files of more than a few blocks cannot be written, as on a disk that is nearly full."""
    words = ["serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
    done = preloaded.run(
        words, tmp_path, {"PATH": os.environ["PATH"]}, before=("tests.e2e.limited", "FSIZE", 4096, 4096)
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "on a disk with free space" in line
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("output", [">/dev/full", ">&-"], ids=["full", "closed"])
async def test_without_a_place_for_its_logs_a_server_says_so_and_runs_commands(
    start_server: StartServer, output: str
) -> None:
    server = start_server(command=["sh", "-c", f'exec "$0" -m backend serve {output}', sys.executable])
    async with terminal(server) as client:
        assert (await client.run("pwd"))[-1]["status"] == "succeeded"
        assert (await client.run("nosuch"))[-1]["type"] == "error"
    assert server.stop() == 0
    assert server.stderr.count("gatepost: No logs can be written to standard output: ") == 1
    assert "Traceback" not in server.stderr
    assert "Exception" not in server.stderr
    kinds = [event["kind"] for event in audit(server.data_dir)]
    assert kinds.count("finished") == kinds.count("denied") == 1


async def test_a_data_folder_that_was_moved_away_refuses_commands_until_it_is_back(start_server: StartServer) -> None:
    server = start_server()
    away = server.data_dir.with_name("away")
    async with terminal(server) as client:
        server.data_dir.rename(away)
        for _ in range(2):
            refused = (await client.run("pwd"))[-1]
            assert refused["rule"] == "storage.unavailable"
            assert "The data folder of the server cannot be reached" in refused["reason"]
        away.rename(server.data_dir)
        assert (await client.run("pwd"))[-1]["status"] == "succeeded"
    assert server.stop() == 0
    assert server.stdout.count('"event": "data folder not reached"') == 1
    assert server.stdout.count('"event": "over: data folder not reached"') == 1
    assert "Traceback" not in server.logs
    assert [event["kind"] for event in audit(server.data_dir)].count("denied") == 2


@pytest.mark.parametrize(
    "env",
    [
        {"GATEPOST_COMMAND_RATE": "often"},
        {"GATEPOST_ACCESS_TOKEN": "short"},
        {"GATEPOST_PROFILE": "nowhere"},
        {"GATEPOST_COMMAND_TIMEOUT": "0"},
        {"TRUSTED_PROXY_HOPS": "-1"},
        {"GATEPOST_ACCESS_TOKEN_FILE": "/no/such/file"},
        {"PYGUARD_COMMAND": "python3 'x"},
        {"GATEPOST_WORKSPACE": "/dev/null/x"},
        {"GATEPOST_READABLE": "/"},
    ],
    ids=lambda env: next(iter(env)),
)
def test_a_setting_that_cannot_be_used_stops_the_start_and_is_named(env: dict[str, str], tmp_path: Path) -> None:
    done = serve_in_vain(tmp_path, env)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    [name] = env
    if name != "GATEPOST_PROFILE":
        assert name in done.stderr
    assert "short" not in done.stderr.replace("shorter", "")
