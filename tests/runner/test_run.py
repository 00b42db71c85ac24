"""Commands that run: their output, their end, and what they leave."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gatepost_django import run as running
from gatepost_django.masking import Masks
from gatepost_django.output import TURNS, Output, Stream, joined
from gatepost_django.process import start
from gatepost_django.protocol import End
from gatepost_django.run import Run
from gatepost_django.spool import PIECE, Text
from tests.serving import all_processes, wait_until

DAEMON = "import os, time; os.fork() or (os.setsid(), os.fork() or time.sleep(600)); print('begun', flush=True); time.sleep(600)"


def began(
    folder: Path, *words: str, timeout: float | None = None, full: Callable[[], bool] = bool
) -> tuple[Run, list[Text]]:
    said: list[Text] = []
    lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
    process = start(words, folder, os.environ, lock, read=True)
    os.close(lock)
    return Run(process, Output((Stream(Masks(())), Stream(Masks(()))), said.append), timeout, full), said


def text(said: list[Text], stream: bool = False) -> str:
    return "".join(each.text for each in said if each.is_stderr is stream)


def left(folder: Path) -> list[str]:
    """The processes that run in a folder."""
    found = []
    for each in all_processes().values():
        try:
            if os.readlink(f"/proc/{each.pid}/cwd") == str(folder) and each.state != "Z":
                found.append(each.command)
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("script", "end"),
    [
        ("echo out; echo err >&2; exit 3", End(3, "failed")),
        ("true", End(0, "success")),
        ("kill -9 $$", End(-9, "failed")),
        ("cat; exit 4", End(4, "failed")),
    ],
)
def test_a_command_ends_as_it_does(script: str, end: End, tmp_path: Path) -> None:
    run, said = began(tmp_path, "sh", "-c", script)
    assert run.follow() == end
    if "echo" in script:
        assert (text(said), text(said, True)) == ("out\n", "err\n")


def test_a_program_that_is_missing_is_said(tmp_path: Path) -> None:
    run, said = began(tmp_path, "no-such-program")
    assert run.follow() == End(127, "failed")
    assert "cannot be started" in text(said, True)


def test_what_a_command_leaves_in_the_background_ends_with_it(tmp_path: Path) -> None:
    run, said = began(tmp_path, "sh", "-c", "setsid sleep 600 & (setsid sleep 600 &) ; echo done")
    assert run.follow() == End(0, "success")
    assert text(said) == "done\n"
    assert left(tmp_path) == []


@pytest.mark.parametrize("how", ["time", "stop", "kill", "deaf", "gone"])
def test_all_its_processes_end_when_it_is_stopped(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "GRACE", 0.2)
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); " if how == "deaf" else ""
    run, said = began(tmp_path, sys.executable, "-S", "-c", deaf + DAEMON, timeout=0.5 if how == "time" else None)
    ends: list[End] = []
    following = threading.Thread(target=lambda: ends.append(run.follow()), daemon=True)
    following.start()
    wait_until(lambda: "begun" in text(said) or how == "time", "its output")
    if how == "gone":  # as when the supervisor is killed
        wait_until(lambda: text(said).count("begun") == 2, "all of them")
        os.kill(run.process.popen.pid, signal.SIGKILL)
    elif how != "time":
        run.stop("cancelled", kill=how == "kill")
    following.join(10)
    ending = {"time": End(-1, "timed_out"), "stop": End(-15, "cancelled"), "gone": End(-9, "failed")}
    assert ends == [ending.get(how, End(-9, "cancelled"))]
    if how != "gone":
        assert left(tmp_path) == []
    for each in all_processes().values():
        if how == "gone" and DAEMON[:40] in each.command:
            os.kill(each.pid, signal.SIGKILL)


def test_output_waits_while_there_is_no_room_for_it_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "LINGER", 0.0)
    room, looks = threading.Event(), list[bool]()

    def is_full() -> bool:
        looks.append(run.ended)
        return said != [] and not room.is_set()

    run, said = began(tmp_path, "sh", "-c", "echo first; sleep 0.1; seq 1 5000", full=is_full)
    following = threading.Thread(target=run.follow, daemon=True)
    following.start()
    wait_until(lambda: sum(looks) > 3, "some looks after the end of the command")
    assert text(said) == "first\n"
    room.set()
    following.join(10)
    assert text(said) == "first\n" + "".join(f"{number}\n" for number in range(1, 5001))


def test_characters_that_are_cut_arrive_and_bytes_that_are_none_are_replaced() -> None:
    said: list[Text] = []
    output = Output((Stream(Masks(())), Stream(Masks(()))), said.append, clock=lambda: 0.0)
    for data in ("ü".encode()[:1], "ü".encode()[1:], b"\xff"):
        output.feed(False, data)
    output.feed(False, b"\xc3", final=True)
    output.flush()
    assert text(said) == "ü\ufffd\ufffd"


def test_the_first_piece_does_not_wait_and_the_next_ones_do() -> None:
    said: list[Text] = []
    now = [10.0]
    output = Output((Stream(Masks(())), Stream(Masks(()))), said.append, clock=lambda: now[0])
    output.feed(False, b"a")
    output.feed(False, b"b")
    assert (text(said), round(output.due, 3)) == ("a", 0.2)
    output.feed(False, b"c" * PIECE)
    assert text(said) == "ab" + "c" * PIECE


def test_pieces_of_a_stream_are_joined_and_both_streams_keep_their_order_unless_it_changes_too_often() -> None:
    out, err = False, True
    assert joined([(out, "a"), (out, "b"), (err, "c"), (out, "d")]) == [(out, "ab"), (err, "c"), (out, "d")]
    assert joined([(each, "x") for _ in range(TURNS) for each in (out, err)]) == [
        (out, "x" * TURNS),
        (err, "x" * TURNS),
    ]
    assert [len(each) for _, each in joined([(out, "x" * (PIECE + 1))])] == [PIECE, 1]
