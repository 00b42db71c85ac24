"""Recordings are what the audit says they were, and whoever changes one is found out."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.accounts import begin, client, gatepost, new_token
from tests.client import terminal
from tests.conftest import StartServer
from tests.serving import Server, wait_until

LINES = ("pyguard echo kept", "pyguard false", "pyguard seq 1000", "ls missing", f"pyguard yes {99 * 'y'}")


def verify(folder: Path, *words: str) -> Any:
    """What `audit verify` tells in JSON, and its exit code with it."""
    done = gatepost(folder, "audit", "verify", "--json", "--recordings", *words, code=None)
    told = json.loads(done.stdout)
    assert (done.returncode == 0) == told["verified"]
    return told


@pytest.fixture
async def kept(start_server: StartServer, tmp_path: Path) -> tuple[Server, list[str]]:
    """A server that has stopped, and the executions that it keeps."""
    server = start_server({"GATEPOST_OUTPUT_LIMIT": "100000"})
    token = new_token(tmp_path, "ann")
    executions = []
    async with terminal(server) as visitor, client(server, token) as api:
        for line in LINES:
            executions.append((await visitor.run(line, 20))[0]["execution"])
        executions.append(await begin(api, "echo secret", metadata_only=True))
        executions.append(await begin(api, "echo nothing", dry_run=True))
        running = await begin(api, "sleep 600")
        assert verify(tmp_path)["recordings"] == {"good": 7, "gone": 0, "changed": []}
        executions.append(running)
    server.stop()
    return server, executions


def in_its_place(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Put something else where a recording was."""

    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def replaced(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        text = path.read_bytes()
        assert old in text
        path.write_bytes(text.replace(old, new, 1))

    return change


def continued(path: Path) -> None:
    *lines, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[-1], last]))


def ended_twice(path: Path) -> None:
    path.write_bytes(path.read_bytes() + path.read_bytes().splitlines(keepends=True)[-1])


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def with_end(**changed: object) -> Callable[[Path], None]:
    """Change fields of the last line."""

    def change(path: Path) -> None:
        *lines, last = path.read_bytes().splitlines(keepends=True)
        message = json.loads(last)
        assert changed.keys() <= message.keys()
        text = json.dumps({**message, **changed}, separators=(",", ":"))
        path.write_bytes(b"".join([*lines, text.encode() + b"\n"]))

    return change


def without_end(path: Path) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))


ENDS: list[dict[str, object]] = [
    {"status": "failed"},
    {"exit_code": 3},
    {"signal": "KILL"},
    {"duration_ms": 10**6},
    {"timed_out": True},
    {"truncated": True},
    {"stdout_bytes": 0},
    {"stderr_bytes": 77},
    {"cpu_ms": 10**6},
    {"seq": 99},
    {"ms": 10**6},
]
CHANGES: list[tuple[Callable[[Path], Any], str]] = [
    (replaced(b"kept", b"kepT"), "was changed"),
    (replaced(b'"rule":"allow.pyguard"', b'"rule":"allow.nothing"'), "was changed"),
    (continued, "was changed"),
    (ended_twice, "continues after its end"),
    *((with_end(**change), "") for change in ENDS),
    (without_end, "is shorter than it was"),
    (lambda path: path.write_bytes(path.read_bytes()[:40]), "is shorter than it was"),
    (linked, "cannot be compared"),
    (in_its_place(Path.mkdir), "cannot be compared"),
    (in_its_place(os.mkfifo), "is not a file"),
]


async def test_a_changed_recording_is_named_and_others_are_not(kept: tuple[Server, list[str]], tmp_path: Path) -> None:
    server, executions = kept
    assert verify(tmp_path)["recordings"] == {"good": 8, "gone": 0, "changed": []}
    whole = tmp_path / "whole"
    shutil.copytree(server.recordings, whole)
    for change, told in CHANGES:
        folder = tmp_path / f"changed {told}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        change(folder / f"{executions[0]}.ndjson")
        found = verify(tmp_path, str(folder))
        assert found["recordings"]["good"] == 7, told
        [trouble] = found["recordings"]["changed"]
        assert executions[0] in trouble
        assert told in trouble
        assert found["problem"] == ""  # the chain itself is whole


async def test_what_somebody_deleted_is_named_and_a_third_party_can_look(
    kept: tuple[Server, list[str]], tmp_path: Path
) -> None:
    server, executions = kept
    (server.recordings / f"{executions[1]}.ndjson").unlink()
    shutil.copytree(server.recordings, tmp_path / "handed over")
    (tmp_path / "export.jsonl").write_text(gatepost(tmp_path, "audit", "export").stdout)
    key = str(server.data_dir / "audit.pub")
    file = ("--file", str(tmp_path / "export.jsonl"), "--public-key", key)
    found = verify(tmp_path, str(tmp_path / "handed over"), *file)
    assert (found["recordings"]["good"], found["recordings"]["gone"]) == (7, 0)
    [trouble] = found["recordings"]["changed"]
    assert executions[1] in trouble
    assert "is missing" in trouble
    assert not found["verified"]
    assert [verify(tmp_path)["recordings"][name] for name in ("good", "changed")] == [7, [trouble]]


async def test_what_the_service_deleted_is_counted(kept: tuple[Server, list[str]], start_server: StartServer) -> None:
    server, executions = kept
    sizes = [(server.recordings / f"{execution}.ndjson").stat().st_size for execution in executions[-3:]]
    server = start_server({"GATEPOST_RETENTION_BYTES": str(sum(sizes))})
    wait_until(lambda: len(list(server.recordings.iterdir())) == 3, "the others to go")
    assert verify(server.folder)["recordings"] == {"good": 3, "gone": 5, "changed": []}
    server.stop()
    (server.recordings / f"{executions[-1]}.ndjson").unlink()
    assert len(verify(server.folder)["recordings"]["changed"]) == 1


async def test_what_ran_in_a_killed_server_is_sealed_by_the_next(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    async with client(server, new_token(tmp_path, "ann")) as api:
        execution = await begin(api, "echo up; sleep 600")
        wait_until(lambda: "up" in str(server.recording(execution)), "its output")
        server.kill()
    start_server().stop()
    assert verify(tmp_path)["recordings"] == {"good": 1, "gone": 0, "changed": []}
    replaced(b"up", b"UP")(server.recordings / f"{execution}.ndjson")
    assert len(verify(tmp_path)["recordings"]["changed"]) == 1


async def test_what_is_in_another_data_folder_is_noted(kept: tuple[Server, list[str]], tmp_path: Path) -> None:
    server, executions = kept
    (server.data_dir / "folder.id").write_text("01ARZ3NDEKTSV4RRFFQ69G5FAV")
    (server.recordings / f"{executions[0]}.ndjson").unlink()
    done = gatepost(tmp_path, "audit", "verify", "--recordings")
    assert "NOTE: 1 recordings are in another data folder" in done.stdout
    assert "7 recordings are unchanged" in done.stdout
