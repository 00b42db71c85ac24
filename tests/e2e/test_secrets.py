"""The keys of the service reach pyguard and nobody else."""

import json
from collections.abc import Iterator

import pytest

from tests.client import Terminal, output, terminal
from tests.conftest import StartServer, end
from tests.serving import ANY_PROGRAM, PROGRAM, Seen, Server, processes_of, start, wait_until

KEYS = {"ANTHROPIC_API_KEY": "canary-anthropic-5f2e", "GROQ_API_KEY": "canary-groq-81bc"}
OTHERS = {
    "AWS_SECRET_ACCESS_KEY": "canary-aws-77d1",
    "GATEPOST_ACCESS_TOKEN": "canary-access-token-3a",
    "GATEPOST_SECRET_KEY": "canary-key-of-the-access-tokens-c4",
}
BEARER = {"Authorization": f"Bearer {OTHERS['GATEPOST_ACCESS_TOKEN']}"}


@pytest.fixture(scope="module")
def secretive(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with secrets in its environment as others can look at it, shared by the module."""
    running = start(tmp_path_factory.mktemp("secretive"), {**ANY_PROGRAM, **KEYS, **OTHERS}, command=PROGRAM)
    yield running
    end(running)


def _cats(server: Server) -> list[Seen]:
    return [process for process in processes_of(server) if process.command == "cat"]


async def _environment_of(client: Terminal, server: Server, line: str) -> dict[str, str]:
    """Of a `cat` that waits for input."""
    await client.start(line)
    [cat] = wait_until(lambda: _cats(server), "the program to be executed")
    await client.send(type="stdin_close")
    await client.reply()
    return dict(item.split("=", 1) for item in cat.environment.split("\0") if item)


async def test_a_command_gets_a_short_environment_without_any_secret(secretive: Server) -> None:
    async with terminal(secretive, additional_headers=BEARER) as client:
        environment = await _environment_of(client, secretive, "cat")
    assert set(environment) == {
        *("PATH", "HOME", "PWD", "TMPDIR", "LC_CTYPE", "TERM", "PYTHONUNBUFFERED", "GATEPOST_EXECUTION_ID"),
        *(
            "NODE_OPTIONS",
            "GIT_EDITOR",
            "GIT_CEILING_DIRECTORIES",
            "GIT_CONFIG_NOSYSTEM",
            "GIT_CONFIG_GLOBAL",
            "GIT_TERMINAL_PROMPT",
        ),
        *(
            "XDG_CACHE_HOME",
            "PIP_CACHE_DIR",
            "npm_config_cache",
            "npm_config_globalconfig",
            "npm_config_update_notifier",
            "pnpm_config_store_dir",
        ),
    }
    assert "canary" not in json.dumps(environment)


async def test_pyguard_gets_its_keys_and_nothing_else_of_ours(secretive: Server) -> None:
    async with terminal(secretive, additional_headers=BEARER) as client:
        environment = await _environment_of(client, secretive, "pyguard cat")
    assert KEYS.items() <= environment.items()
    for value in OTHERS.values():
        assert value not in json.dumps(environment)


async def test_keys_that_pyguard_prints_are_masked(secretive: Server) -> None:
    async with terminal(secretive, additional_headers=BEARER) as client:
        replies = await client.run("pyguard env")
    assert {f"{name}=[masked]" for name in KEYS} <= set(output(replies).splitlines())
    assert "canary" not in json.dumps([replies, secretive.recording(replies[0]["execution"])])


async def test_the_environment_of_the_server_cannot_be_read_by_path(secretive: Server) -> None:
    (secretive.workspace / "link").symlink_to(f"/proc/{secretive.pid}/environ")
    (secretive.workspace / "folder").symlink_to("/proc/self")
    async with terminal(secretive, additional_headers=BEARER) as client:
        for line, rule in {
            f"cat /proc/{secretive.pid}/environ": "path.outside",
            "cat /proc/self/environ": "path.outside",
            "cat /dev/fd/0": "path.outside",
            "cat ../../proc/self/environ": "path.parent",
            "cat link": "path.link",
            "cat lin?": "path.link",
            "cat folder/environ": "path.link",
            "cat folder/../link": "path.parent",
            "ls -R folder/": "path.link",
            "pyguard cat /proc/self/environ": "path.outside",
            "pyguard x --file=/proc/self/environ": "path.outside",
        }.items():
            replies = await client.run(line)
            assert (line, replies[-1].get("rule")) == (line, rule)
            assert "canary" not in json.dumps(replies)


async def test_no_secret_stands_in_a_log_a_recording_or_an_answer(start_server: StartServer) -> None:
    secretive = start_server({**KEYS, **OTHERS})
    async with terminal(secretive, additional_headers=BEARER) as client:
        for line in ("pyguard true", "cat welcome.txt", "rm x", "pyguard no-such-program", "help"):
            await client.run(line)
    for path in ("/", "/health", "/readyz", "/metrics", "/openapi.json", "/nowhere"):
        assert b"canary" not in secretive.get(path).body
    assert secretive.get("/health").json["api_key_configured"] is True
    secretive.stop()
    assert "canary" not in secretive.logs
    for recording in secretive.recordings.iterdir():
        assert "canary" not in recording.read_text()


async def test_arguments_stay_out_of_the_logs(server: Server) -> None:
    async with terminal(server) as client:
        await client.run("echo canary-argument")
        await client.run("pyguard --key=canary-argument")
        await client.run("rm canary-argument")
        await client.socket.send('{"canary-argument')
        await client.receive()
    assert "canary" not in server.logs


async def test_recordings_can_be_read_by_their_owner_alone(server: Server) -> None:
    async with terminal(server) as client:
        execution = (await client.run("pwd"))[0]["execution"]
    assert server.recordings.stat().st_mode & 0o777 == 0o700
    assert (server.recordings / f"{execution}.ndjson").stat().st_mode & 0o777 == 0o600


async def test_without_a_key_health_says_so(server: Server) -> None:
    assert server.get("/health").json["api_key_configured"] is False
