"""The users of workspaces: each its own where that is possible, and modes that a command changed."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.executors.local import workspace_users
from backend.executors.local.workspace import FolderView
from backend.executors.local.workspace_users import WorkspaceUsers, are_mapped
from tests.executors.local.caged import ROOT, RUN_AS, folder

UIDS = range(2000000000, 2000000003)
root_only = pytest.mark.skipif(not ROOT, reason="only root gives files away")


@pytest.fixture
def place() -> Iterator[Path]:
    with folder() as workspace:
        yield workspace.parent


def made(place: Path, *names: str) -> list[Path]:
    paths = [place / name for name in names]
    for path in paths:
        path.mkdir(parents=True, exist_ok=True)
    return paths


def uids(*paths: Path) -> list[int]:
    return [path.lstat().st_uid for path in paths]


def users(place: Path, uids: range = UIDS) -> WorkspaceUsers:
    return WorkspaceUsers(place, ("accounts", "projects"), RUN_AS, uids)


@root_only
def test_each_workspace_has_a_user_of_its_own_also_after_a_restart(place: Path) -> None:
    paths = made(place, "accounts/A", "projects/B", "accounts/C")
    for path in paths:
        users(place).settle([path])
    first = uids(*paths)
    assert sorted(first) == list(UIDS)
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o700}
    users(place).settle_all()
    assert uids(*paths) == first


@root_only
def test_without_a_free_user_no_workspace_is_shared(place: Path) -> None:
    made(place, "accounts/A", "projects/B", "accounts/C")
    users(place).settle_all()
    [more] = made(place, "accounts/D")
    with pytest.raises(OSError, match="every user of GATEPOST_WORKSPACE_UIDS has a workspace"):
        users(place).settle([more])
    assert uids(more) == [0]


@root_only
def test_existing_workspaces_are_handed_over_with_what_commands_made(place: Path) -> None:
    [workspace] = made(place, "accounts/A")
    [inner] = made(workspace, "inner")
    mine, link, roots = inner / "mine", workspace / "link", workspace / "roots"
    outside = place / "outside"
    for file in (mine, roots, outside):
        file.write_text("x")
    link.symlink_to(outside)
    for path in (workspace, inner, mine, link, outside):
        os.chown(path, 65534, 65534, follow_symlinks=False)
    mine.chmod(0)
    inner.chmod(0)
    users(place).settle_all()
    [uid] = uids(workspace)
    assert uid in UIDS
    assert uids(inner, mine, link, roots, outside) == [uid, uid, uid, 0, 65534]
    users(place, range(0)).settle_all()  # and back
    assert uids(workspace, inner, mine, link, roots) == [65534, 65534, 65534, 65534, 0]


@root_only
def test_what_was_handed_over_in_part_is_handed_over_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [workspace] = made(place, "accounts/A")
    files = [workspace / name for name in "ab"]
    for path in (*files, workspace):
        path.touch()
        os.chown(path, 65534, 65534)
    chown = os.chown

    def dies(path: str, *owner: int, **place: Any) -> None:
        chown(path, *owner, **place)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "chown", dies)
        users(place).settle_all()
    users(place).settle_all()
    assert len(set(uids(*files, workspace))) == 1
    assert uids(workspace)[0] in UIDS


def test_users_of_a_user_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped = tmp_path / "uid_map"
    monkeypatch.setattr(workspace_users, "ID_MAP", mapped)
    mapped.write_text("         0     100000      65536\n")
    assert are_mapped(range(20000, 65536))
    assert not are_mapped(range(20000, 65537))
    mapped.unlink()
    assert not are_mapped(UIDS)


def test_a_closed_workspace_is_open_again_for_the_next_line(place: Path) -> None:
    view = FolderView(place / "workspace")
    (place / "workspace").chmod(0)
    view.for_line()
    assert (place / "workspace").stat().st_mode & 0o777 == 0o700
