"""Key files: made once, for their owner only."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.core.errors import KeyFileError
from backend.storage.keys import load_or_make

ROOT = Path(__file__).parent.parent.parent
LOAD = """
import os, sys
from pathlib import Path
from backend.storage.keys import load_or_make

sys.stdin.read(1)
print(load_or_make(Path(sys.argv[1]), lambda: os.urandom(32)).hex())
"""


def test_a_key_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "token.key"
    assert load_or_make(path, lambda: b"first") == b"first"
    assert load_or_make(path, lambda: b"second") == b"first"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_processes_that_start_at_once_get_the_same(tmp_path: Path) -> None:
    words = [sys.executable, "-c", LOAD, str(tmp_path / "token.key")]
    pipe = subprocess.PIPE
    started = [subprocess.Popen(words, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) for _ in range(6)]
    for process in started:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    keys = {process.communicate(timeout=30)[0].strip() for process in started}
    assert keys == {(tmp_path / "token.key").read_bytes().hex()}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o777])
def test_a_file_that_others_can_open_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "token.key"
    load_or_make(path, lambda: b"key")
    path.chmod(mode)
    with pytest.raises(KeyFileError, match="chmod 600"):
        load_or_make(path, lambda: b"key")


def _empty(path: Path) -> None:
    path.touch(0o600)


def _folder(path: Path) -> None:
    path.mkdir(0o700)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("spoil", [_empty, _folder, _dangling])
def test_what_is_no_key_file_is_refused(tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(tmp_path / "token.key")
    with pytest.raises(KeyFileError, match=r"token\.key"):
        load_or_make(tmp_path / "token.key", lambda: b"key")


def test_a_folder_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError):
        load_or_make(tmp_path / "none/token.key", lambda: b"key")


def test_a_key_that_cannot_be_made_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> bytes:
        raise RuntimeError("no randomness")

    with pytest.raises(RuntimeError):
        load_or_make(tmp_path / "token.key", fail)
    assert os.listdir(tmp_path) == []
