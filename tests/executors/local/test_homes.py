"""Private homes: what they permit, and that they go whatever is in them."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.executors.local.homes import Home, Homes, git_defaults, prepare, remove
from backend.executors.local.launcher import cage_environment
from tests.executors.local.caged import ROOT, RUN_AS, folder
from tests.serving import wait_until
from tests.unprivileged import unprivileged


def _homes(place: Path, server: str = "A", *alive: str) -> Homes:
    return Homes(place / "homes", server, lambda name: name in alive)


def test_each_command_gets_a_folder_that_its_user_owns(tmp_path: Path) -> None:
    homes = _homes(tmp_path)
    first, second = homes.make("X", RUN_AS), homes.make("X", RUN_AS)
    assert first != second
    assert (first.stat().st_mode & 0o777, first.stat().st_uid) == (0o700, RUN_AS[0] if RUN_AS else os.getuid())
    for parent in (first.parent, first.parent.parent):
        assert (parent.stat().st_mode & 0o777, parent.stat().st_uid) == (0o711, os.getuid())


def test_pnpm_stores_packages_there(tmp_path: Path) -> None:
    home = _homes(tmp_path).make("X", RUN_AS)
    stored = f"{home}/.local/share/pnpm/store"
    assert (home / ".config/pnpm/rc").read_text() == f"store-dir={stored}\n"
    assert cage_environment(str(home))["pnpm_config_store_dir"] == stored
    assert {each.lstat().st_uid for each in home.rglob("*")} == {RUN_AS[0] if RUN_AS else os.getuid()}


def test_each_begins_with_the_files_of_the_operator(tmp_path: Path) -> None:
    """As copies of the command's user: a link stays a link, and what is changed in a home stays there."""
    skeleton = tmp_path / "skeleton"
    (skeleton / ".config").mkdir(parents=True)
    (skeleton / ".config/settings").write_text("mine")
    (skeleton / ".config/settings").chmod(0o444)
    (skeleton / ".npmrc").symlink_to(".config/settings")
    skeleton.chmod(0o755)
    owner = (65534, 65534) if os.geteuid() == 0 else None
    homes = Homes(tmp_path / "homes", "a", lambda name: True, skeleton)
    home = homes.make("1", owner)
    assert (home / ".npmrc").read_text() == "mine"
    assert (home / ".npmrc").is_symlink()
    assert home.stat().st_mode & 0o777 == 0o700
    every = [home, *home.rglob("*")]
    assert {each.lstat().st_uid for each in every} == {65534 if owner else os.geteuid()}
    remove(home)
    assert (skeleton / ".config/settings").read_text() == "mine"


def test_homes_of_servers_that_have_ended_are_removed(tmp_path: Path) -> None:
    left, running, own = (_homes(tmp_path, name).make("X", RUN_AS) for name in "ABC")
    _homes(tmp_path, "C", "B").sweep()
    assert [path.exists() for path in (left, running, own)] == [False, True, True]
    assert not left.parent.exists()


def test_homes_that_a_command_of_our_user_closed_are_opened_again() -> None:
    """The folders above them too: one command would stop those of everybody else."""
    with unprivileged() as place:
        homes = _homes(place)
        homes.make("X", None)
        prepare(str(first := homes.of_visitor("visitor:1")), None)
        for closed in (place / "homes", place / "homes/A", first.parent, first):
            closed.chmod(0)
            prepare(str(first), None)
            assert (first / "..").resolve() == first.parent
            closed.chmod(0)
            prepare(str(homes.of_visitor(f"visitor:{closed.name}")), None)
            closed.chmod(0)
            homes.make("X", None)
            prepare(str(first), None)


def test_the_home_of_a_workspace_stays(tmp_path: Path) -> None:
    home = _homes(tmp_path, "A").of_workspace("projects/X")
    prepare(str(home), RUN_AS)
    (home / "mine").write_text("kept")
    _homes(tmp_path, "B").sweep()
    home.chmod(0)
    prepare(str(home), RUN_AS)
    assert (home / "mine").read_text() == "kept"
    assert (home.stat().st_mode & 0o777, home.stat().st_uid) == (0o700, RUN_AS[0] if RUN_AS else os.getuid())
    assert home.parent.stat().st_mode & 0o777 == 0o711


@pytest.mark.skipif(not ROOT, reason="only root gives folders away")
def test_the_home_of_a_workspace_that_got_another_user_follows_it(tmp_path: Path) -> None:
    home = _homes(tmp_path).of_workspace("projects/X")
    prepare(str(home), (65533, 65534))
    (home / "mine").write_text("kept")
    os.chown(home / "mine", 65533, 65534)
    prepare(str(home), RUN_AS)
    assert {home.stat().st_uid, (home / "mine").stat().st_uid} == {65534}


async def test_the_home_of_a_visitor_goes_with_the_connection_once_no_command_uses_it(tmp_path: Path) -> None:
    homes = _homes(tmp_path)
    home, other = homes.of_visitor("visitor:01ONE"), homes.of_visitor("visitor:01TWO")
    assert homes.hold(str(other), RUN_AS) == Home(str(other), str(other.parent))
    for _ in range(2):
        assert homes.hold(str(home), RUN_AS) == Home(str(home), str(home.parent))
    (home / "mine").write_text("x")
    homes.leave(home)
    homes.release(str(home))
    assert home.exists()
    homes.release(str(home))
    await asyncio.to_thread(wait_until, lambda: not home.exists(), "the home to be removed")
    homes.release(str(other))
    assert other.exists()
    homes.leave(other)
    await asyncio.to_thread(wait_until, lambda: not other.exists(), "the home to be removed")
    homes.leave(home)  # a visitor who has run nothing


def test_git_has_an_author_unless_it_is_planted(tmp_path: Path) -> None:
    home = _homes(tmp_path).of_workspace("projects/X")
    prepare(str(home), RUN_AS)
    path = Path(git_defaults(str(home), "user:ann", RUN_AS))
    assert path.read_text().split("\n")[:3] == ["[user]", "\tname = ann", "\temail = ann@gatepost.invalid"]
    path.write_text("[user]\n\tname = other\n")
    git_defaults(str(home), "user:ann", RUN_AS)
    assert "other" in path.read_text(), "settings that were made are left alone"
    outside = tmp_path / "outside"
    planted = home / ".gitconfig-visitor"
    planted.symlink_to(outside)
    assert git_defaults(str(home), "visitor:01ONE", RUN_AS) == str(planted)
    assert not outside.exists()


def test_without_homes_there_is_nothing_to_remove(tmp_path: Path) -> None:
    _homes(tmp_path).sweep()
    assert list(tmp_path.iterdir()) == []


def _deep(home: Path) -> None:
    before = Path.cwd()
    try:
        os.chdir(home)
        for _ in range(3000):
            os.mkdir("x")
            os.chdir("x")
    finally:
        os.chdir(before)


def _closed(home: Path) -> None:
    (home / "a/b").mkdir(parents=True)
    (home / "a/b/file").touch()
    (home / "a/b").chmod(0)
    (home / "a").chmod(0)


def _numbered(home: Path) -> None:
    for path in ("0/1/0", "0/2/1", "1/0"):
        (home / path).mkdir(parents=True)
    (home / "2").write_text("x")


def _others(home: Path) -> None:
    (home / "link").symlink_to(home.parent.parent / "outside")
    (home / "folder").mkdir()
    (home / "folder/link").symlink_to("/")
    os.mkfifo(home / "folder/pipe")
    (home / os.fsdecode(b"\xff")).write_text("x")


@pytest.mark.parametrize("fill", [_deep, _closed, _numbered, _others])
def test_a_home_goes_whatever_is_in_it(fill: Callable[[Path], None], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").touch()
    home = _homes(tmp_path).make("X", RUN_AS)
    fill(home)
    remove(home)
    assert not home.exists()
    assert (tmp_path / "outside/file").exists()


@pytest.mark.skipif(not ROOT, reason="root can open what is closed, so another user tries it")
def test_a_user_who_is_not_root_removes_what_is_closed() -> None:
    with folder() as place:
        home = place / "home"
        home.mkdir()
        os.chown(home, 65534, 65534)
        pid = os.fork()
        if pid == 0:
            os.setgid(65534)
            os.setuid(65534)
            _closed(home)
            remove(home)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert not home.exists()


def test_a_link_in_place_of_a_home_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    remove(tmp_path / "link")
    assert (tmp_path / "kept/file").exists()
    remove(tmp_path / "nothing")
