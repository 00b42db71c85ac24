"""Locks of the servers of one data folder, across processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from backend.storage.owner_locks import OwnerLocks
from tests.serving import ROOT

HOLD = """
import sys
from pathlib import Path
from backend.storage.owner_locks import OwnerLocks
locks = OwnerLocks(Path(sys.argv[1]), "elsewhere")
locks.hold()
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """Another server of the folder."""
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        process.kill()


def dead(locks: OwnerLocks) -> frozenset[str]:
    with locks.dead() as owners:
        return owners


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_killed_server_is_dead_and_then_forgotten(tmp_path: Path, elsewhere: "subprocess.Popen[bytes]") -> None:
    locks = OwnerLocks(tmp_path, "here")
    locks.hold()
    assert names(tmp_path) == ["elsewhere.lock", "here.lock"]
    assert dead(locks) == frozenset()
    assert [locks.alive(name) for name in ("elsewhere", "here", "never")] == [True, True, False]
    elsewhere.kill()
    elsewhere.wait()
    assert not locks.alive("elsewhere")
    assert dead(locks) == {"elsewhere"}
    assert names(tmp_path) == ["here.lock"]
    assert dead(locks) == frozenset()


def test_a_server_that_is_about_to_lock_its_file_is_not_dead(tmp_path: Path) -> None:
    (tmp_path / ".begun.lock").touch()
    assert dead(OwnerLocks(tmp_path, "here")) == frozenset()
    assert names(tmp_path) == [".begun.lock"]


def test_one_server_at_a_time_looks_after_a_dead_one(tmp_path: Path) -> None:
    gone, first, second = (OwnerLocks(tmp_path, name) for name in ("gone", "first", "second"))
    gone.hold()
    gone.release()
    with first.dead() as owners:
        assert owners == {"gone"}
        assert dead(second) == frozenset()
    assert dead(second) == frozenset()


def test_a_dead_server_that_could_not_be_looked_after_is_found_again(tmp_path: Path) -> None:
    gone, here = OwnerLocks(tmp_path, "gone"), OwnerLocks(tmp_path, "here")
    gone.hold()
    gone.release()
    with suppress(ZeroDivisionError), here.dead():
        raise ZeroDivisionError
    assert dead(here) == {"gone"}


def test_a_folder_without_servers_has_no_dead_ones(tmp_path: Path) -> None:
    assert dead(OwnerLocks(tmp_path / "owners", "here")) == frozenset()
