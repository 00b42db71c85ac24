"""What becomes of claims and of what an earlier runner has left."""

import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost_django.commands import Commands
from gatepost_django.executions import KILLED, NOT_BEGUN, Executions, Place
from gatepost_django.protocol import End, Offer
from gatepost_django.spool import Spool, Text
from gatepost_django.standing import Active, Standing
from tests.runner.peer import Peer, peer
from tests.serving import wait_until

ID = "01a22368-a70b-208a-965b-58262488832a"
OK = (200, {"ok": True})
CLAIMED = (409, {"detail": "A runner has claimed it."})


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    yield fd
    os.close(fd)


def executions(server: Peer, folder: Path, lock: int) -> Executions:
    place = Place(
        project=folder,
        spool=folder,
        lock=lock,
        commands=Commands(allowed=("-c",)),
        known={"-c"},
        metadata_only=(),
        secrets=("canary",),
        command_line=lambda words: [sys.executable, "-S", *words],
        environment=os.environ,
    )
    standing = Standing()
    standing.set(Active())
    return Executions(place, server.server(), standing, threading.Event(), threading.Event(), lambda: None)


def said(server: Peer) -> list[Any]:
    """What was sent to the server: a start by its nonce, output by its text, an end."""
    found: list[Any] = []
    for path, headers, body in server.seen:
        match path.rstrip("/").rpartition("/")[2]:
            case "start":
                found.append(headers["X-Request-Nonce"])
            case "output":
                found.append(body["segments"][0]["content"])
            case "complete":
                found.append((body["exit_code"], body["status"]))
    return found


def left_behind(folder: Path, *records: Text | End, confirmed: bool = True) -> None:
    spool = Spool(folder / f"{ID}.jsonl")
    spool.claim("the-nonce", "migrate")
    if confirmed:
        spool.confirm()
    for each in records:
        spool.add(each)


OUTPUT, END = Text("a line\n", False, 1.0), End(0, "success")


@pytest.mark.parametrize(
    ("records", "confirmed", "expected"),
    [
        ((OUTPUT, END), True, ["a line\n", (0, "success")]),
        ((OUTPUT,), True, ["a line\n", KILLED, (-9, "failed")]),
        ((), True, [KILLED, (-9, "failed")]),
        ((), False, ["the-nonce", NOT_BEGUN, (-1, "failed")]),
    ],
)
def test_what_an_earlier_runner_has_left_is_sent(
    records: tuple[Text | End, ...], confirmed: bool, expected: list[Any], tmp_path: Path, lock: int
) -> None:
    left_behind(tmp_path, *records, confirmed=confirmed)
    with peer(OK) as server:
        found = executions(server, tmp_path, lock)
        found.recover()
        wait_until(lambda: not found.delivering, "the end")
        assert said(server) == expected
        assert not list(tmp_path.glob("*.jsonl"))


def test_a_claim_that_another_runner_got_is_forgotten(tmp_path: Path, lock: int) -> None:
    left_behind(tmp_path, confirmed=False)
    with peer(CLAIMED) as server:
        found = executions(server, tmp_path, lock)
        found.recover()
        wait_until(lambda: not found.delivering, "the answer")
        assert said(server) == ["the-nonce"]
        assert not list(tmp_path.glob("*.jsonl"))


def begin(found: Executions, code: str) -> list[bool]:
    done: list[bool] = []
    assert found.begin(Offer(ID, "-c", f"'{code}'", 10.0, False), done.append)
    wait_until(lambda: done and not found.delivering, "the end")
    return done


def test_a_start_whose_answer_was_lost_is_the_same_start(tmp_path: Path, lock: int) -> None:
    with peer((502, "<html>"), (200, "<html>"), OK) as server:
        assert begin(executions(server, tmp_path, lock), 'import os; os.write(1, b"canary sings")') == [True]
        first, second, third, *rest = said(server)
        assert first == second == third
        assert rest == ["*** sings", (0, "success")]


@pytest.mark.parametrize("answer", [CLAIMED, (401, {"detail": "It was revoked."})])
def test_what_is_not_claimed_does_not_run(answer: tuple[int, Any], tmp_path: Path, lock: int) -> None:
    with peer(answer) as server:
        assert begin(executions(server, tmp_path, lock), 'open("ran", "w")') == [False]
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_what_runs_or_is_being_sent_is_not_claimed_again(tmp_path: Path, lock: int) -> None:
    left_behind(tmp_path)
    with peer((503, {})) as server:
        found = executions(server, tmp_path, lock)
        found.recover()
        assert not found.begin(Offer(ID, "-c", "", None, False), lambda claimed: None)
        found.stopping.set()
        assert not found.begin(Offer(ID[:-1] + "0", "-c", "", None, False), lambda claimed: None)
        found.ended.set()


def test_a_full_disk_kills_the_command_and_says_so(tmp_path: Path, lock: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost_django.executions.FULL_AGAIN", 0.01)
    full = iter([False, True, True, False, False])
    add = Spool._add

    def add_while_there_is_room(spool: Spool, record: dict[str, Any]) -> None:
        if "text" in record and next(full, False):
            raise OSError(28, "No space left on device")
        add(spool, record)

    monkeypatch.setattr(Spool, "_add", add_while_there_is_room)
    with peer(OK) as server:
        code = "import os, time; os.write(1, bytes([49])); time.sleep(0.3); os.write(1, bytes([50])); time.sleep(60)"
        assert begin(executions(server, tmp_path, lock), code) == [True]
        assert said(server)[1] == "1"
        assert "disk of the runner is full" in said(server)[2]
        assert said(server)[3] == (-1, "failed")
