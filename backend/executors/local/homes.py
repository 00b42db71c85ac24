"""Home folders, in which tools store what is theirs, so that nothing of it is in a workspace.

A workspace of an account or a project has one that stays, a visitor one until the connection ends, and each run of an
outside program one of its own, gone when it has ended.
"""

import asyncio
import itertools
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import field
from pathlib import Path

from backend.core.dataclasses import dataclass
from backend.core.policy.files import TEMPORARY
from backend.executors.local.launcher import PNPM_STORE
from backend.executors.local.openat2 import open_inside
from backend.executors.local.process_spec import Owner
from backend.executors.local.workspace_users import PASS, PRIVATE, hand_over, reopen

KEPT, VISITORS = "kept", "visitors"  # folders of homes that outlive a command: of workspaces, and of connections
# A repository that is packed in the background would keep files open after the command has ended.
# pnpm stores packages in the workspace where it cannot link them into it from its home. Its older versions read this file, the
# newer ones a variable.
PNPM_DEFAULTS = ".config/pnpm/rc"
GIT_DEFAULTS = "[user]\n\tname = {0}\n\temail = {0}@gatepost.invalid\n[gc]\n\tautoDetach = false\n"


@dataclass(frozen=True, slots=True)
class Home:
    """A home of commands; empty where the workspace is their home. `kept` is the folder that holds it where it stays, which
    rooms show: the homes of visitors come and go in one."""

    path: str = ""
    kept: str = ""


IN_WORKSPACE = Home()


@dataclass(frozen=True, slots=True)
class Homes:
    """The homes of the commands of one server, in `folder / server`.

    `alive` says whether a server of the same folder still runs: what the others left is removed by `sweep`. `skeleton` is a
    folder of the operator, whose content each home begins with.
    """

    folder: Path
    server: str
    alive: Callable[[str], bool]
    skeleton: Path | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _users: Counter[str] = field(default_factory=Counter)
    _left: set[str] = field(default_factory=set)

    def of_workspace(self, name: str) -> Path:
        """The home of the commands in a workspace that has this name."""
        return self.folder / KEPT / name

    def of_visitor(self, visitor: str) -> Path:
        """The home of a visitor's commands."""
        return self.folder / self.server / VISITORS / visitor.removeprefix("visitor:")

    def hold(self, home: str, owner: Owner | None) -> Home:
        """Have a home that stays, made where it is missing, until it is released. Raises OSError."""
        prepare(home, owner, self.skeleton)
        self._users[home] += 1
        parent = home.rpartition("/")[0]
        return Home(home, parent if parent.endswith(f"/{VISITORS}") else home)

    def release(self, home: str) -> None:
        """A command that held it has ended."""
        self._users[home] -= 1
        if not self._users[home]:
            del self._users[home]
            if home in self._left:
                self._left.discard(home)
                self._remove(home)

    def leave(self, home: Path) -> None:
        """Remove a home, or let the last command that uses it do so."""
        if (path := str(home)) in self._users:
            self._left.add(path)
        elif home.exists():
            self._remove(path)

    def _remove(self, home: str) -> None:
        with suppress(RuntimeError):  # no thread can be started: the next startup removes it
            asyncio.get_running_loop().run_in_executor(None, remove, Path(home))

    def make(self, execution: str, owner: Owner | None) -> Path:
        """A new home, of the user of the command. Raises OSError."""
        home = self.folder / self.server / f"{execution}-{next(self._numbers)}"
        reopen(str(home.parent))
        _make(home, owner, self.skeleton)
        return home

    def sweep(self) -> None:
        """Remove the homes of servers that have ended, killed ones too."""
        with suppress(FileNotFoundError):
            for left in self.folder.iterdir():
                if left.name not in {self.server, KEPT} and not self.alive(left.name):
                    remove(left)


def prepare(home: str, owner: Owner | None, skeleton: Path | None = None) -> None:
    """Make a home that stays where it is missing, and give it to the user of the workspace. Raises OSError."""
    reopen(home.rpartition("/")[0])
    if not os.path.isdir(home):
        _make(Path(home), owner, skeleton)
    elif owner and os.lstat(home).st_uid != owner[0]:
        hand_over(Path(home), owner)
    reopen(home)


def _make(home: Path, owner: Owner | None, skeleton: Path | None) -> None:
    for parent in reversed(home.parents):
        if not parent.exists():
            parent.mkdir(exist_ok=True)
            parent.chmod(PASS)  # whatever the umask
    home.mkdir(mode=PRIVATE, exist_ok=True)
    _fill(home, skeleton)
    if owner:
        for folder, folders, files in os.walk(home):
            for name in (*folders, *files):
                os.chown(os.path.join(folder, name), *owner, follow_symlinks=False)
        os.chown(home, *owner)


def _fill(home: Path, skeleton: Path | None) -> None:
    """What the operator put there, links as links, then what is missing. While the home is ours, nothing else can be put
    into it. Raises OSError."""
    if skeleton:
        shutil.copytree(skeleton, home, symlinks=True, dirs_exist_ok=True)
        home.chmod(PRIVATE)
    defaults = home / PNPM_DEFAULTS
    if not os.path.lexists(home / ".config"):
        defaults.parent.mkdir(parents=True)
        defaults.write_text(f"store-dir={home}/{PNPM_STORE}\n")


def git_defaults(home: str, account: str, owner: Owner | None) -> str:
    """The file with git's settings of an account, made where it is missing. What a repository configures precedes them.

    Raises OSError.
    """
    kind, _, name = account.partition(":")
    author = name if kind == "user" else kind
    path = f"{home}/.gitconfig-{author}"
    if not os.path.lexists(path):
        descriptor = open_inside(home, home, path, ">", owner)
        try:
            os.write(descriptor, GIT_DEFAULTS.format(author).encode())
        finally:
            os.close(descriptor)
    return path


def make_temporary(root: str, owner: tuple[int, int] | None) -> None:
    """Make the folder of a workspace that /tmp stands for, which git ignores. Raises OSError."""
    folder = os.path.join(root, TEMPORARY)
    try:
        os.mkdir(folder, PRIVATE)
    except FileExistsError:
        return
    if owner:
        os.chown(folder, *owner, follow_symlinks=False)
    descriptor = open_inside(root, root, f"{TEMPORARY}/.gitignore", ">", owner)
    try:
        os.write(descriptor, b"*\n")
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Remove a folder whatever is in it: folders of any depth, and folders that their owner closed.

    Not recursive: folders further down are moved up to `folder` first. Nothing may run in it any more. Where something
    cannot be removed it stays, for the next sweep.
    """
    with suppress(OSError):
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            numbers = itertools.count()
            while names := os.listdir(top):
                for name in names:
                    _remove_entry(top, name, numbers)
        finally:
            os.close(top)
        folder.rmdir()


def _remove_entry(top: int, name: str, numbers: Iterator[int]) -> None:
    if not _is_folder(name, top):
        os.unlink(name, dir_fd=top)
        return
    os.chmod(name, PRIVATE, dir_fd=top)
    inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=top)
    try:
        for child in os.listdir(inner):
            if _is_folder(child, inner):
                os.chmod(child, PRIVATE, dir_fd=inner)
                os.rename(child, _unused(top, numbers), src_dir_fd=inner, dst_dir_fd=top)
            else:
                os.unlink(child, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(name, dir_fd=top)


def _unused(top: int, numbers: Iterator[int]) -> str:
    """A name that nothing in the folder has."""
    return next(name for name in map(str, numbers) if not _exists(name, top))


def _exists(name: str, folder: int) -> bool:
    try:
        os.lstat(name, dir_fd=folder)
    except FileNotFoundError:
        return False
    return True


def _is_folder(name: str, folder: int) -> bool:
    return stat.S_ISDIR(os.lstat(name, dir_fd=folder).st_mode)
