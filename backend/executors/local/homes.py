"""Private home folders: one for each run of an outside program, gone when it has ended."""

import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from backend.core.policy.files import TEMPORARY
from backend.executors.local.openat2 import open_inside
from backend.executors.local.process_spec import Owner
from backend.executors.local.workspace_users import PASS, PRIVATE


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

    def make(self, execution: str, owner: Owner | None) -> Path:
        """A new home, of the user of the command. Raises OSError."""
        for parent in (self.folder, self.folder / self.server):
            parent.mkdir(exist_ok=True, parents=True, mode=PASS)
            parent.chmod(PASS)  # whatever the umask
        home = self.folder / self.server / f"{execution}-{next(self._numbers)}"
        home.mkdir(mode=PRIVATE)
        if self.skeleton:
            _copy(self.skeleton, home, owner)
        if owner:
            os.chown(home, *owner)
        return home

    def sweep(self) -> None:
        """Remove the homes of servers that have ended, killed ones too."""
        with suppress(FileNotFoundError):
            for left in self.folder.iterdir():
                if left.name != self.server and not self.alive(left.name):
                    remove(left)


def _copy(skeleton: Path, home: Path, owner: Owner | None) -> None:
    """What the operator put there, links as links. While the home is ours, nothing else can be put into it. Raises OSError."""
    shutil.copytree(skeleton, home, symlinks=True, dirs_exist_ok=True)
    home.chmod(PRIVATE)
    if owner:
        for folder, folders, files in os.walk(home):
            for name in (*folders, *files):
                os.chown(os.path.join(folder, name), *owner, follow_symlinks=False)


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
