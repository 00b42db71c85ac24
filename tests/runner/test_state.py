"""The private folder of a runner."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gatepost_django.state import Folder, StateError, folder_of


def test_it_is_for_its_user_alone(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "runners/shop/default")
    folder.prepare()
    folder.path.chmod(0o755)
    folder.prepare()
    assert [each.stat().st_mode & 0o777 for each in (folder.path, folder.spool)] == [0o700, 0o700]


def test_a_link_to_elsewhere_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "other/spool").mkdir(parents=True)
    (tmp_path / "default").symlink_to("other")
    with pytest.raises(StateError, match="GATEPOST_STATE_DIR"):
        Folder(tmp_path / "default").prepare()


def test_a_folder_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match=r"Not a directory.*GATEPOST_STATE_DIR"):
        Folder(tmp_path / "file/default").prepare()


def test_one_runner_has_its_lock_until_the_last_process_has_closed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost_django.state.LOCKING", 0.0)
    folder = Folder(tmp_path)
    assert folder.holder() is None
    lock = folder.lock()
    assert lock is not None
    assert folder.lock() is None
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock,))
    os.close(lock)
    assert (folder.holder() or {})["pid"] == os.getpid()
    child.communicate()
    assert folder.holder() is None


def test_each_name_and_each_project_has_a_folder_of_its_own(tmp_path: Path) -> None:
    a, b = tmp_path / "a/shop", tmp_path / "b/shop"
    found = {folder_of(project, name, tmp_path).path for project in (a, b) for name in ("default", "second")}
    assert len(found) == 4
    with pytest.raises(StateError, match="name of a runner"):
        folder_of(a, "../x", tmp_path)


def test_a_report_is_read_again_and_what_is_none_is_empty(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    assert folder.reported(os.getpid()) == {}
    folder.report({"server": "active"})
    assert folder.reported(os.getpid()) == {"pid": os.getpid(), "server": "active"}
    assert folder.reported(1) == {}  # another runner has the folder now
    (tmp_path / "report.json").write_text("{")
    assert folder.reported(os.getpid()) == {}
