"""The files that a line names, as far as the judge of the line can see them."""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Protocol

from backend.core.decisions import Decision
from backend.core.language.lexer import Word
from backend.core.policy.line_state import normal

TEMPORARY = ".tmp"  # the folder of a workspace that /tmp stands for
SHARED_TEMPORARY = re.compile("(?:--?[A-Za-z0-9-]+=)?(/tmp)(?=/|$)")


def folder_of(path: PurePosixPath, root: PurePosixPath, home: PurePosixPath) -> PurePosixPath:
    """The folder that a path must stay in: the home where it names something there, otherwise the workspace."""
    return home if normal(path).is_relative_to(home) else root


def in_temporary(word: Word, files: "FileView") -> Word:
    """The word with the folder of the workspace where it names /tmp, unless workspaces and homes are there themselves."""
    found = SHARED_TEMPORARY.match(word.text)
    path = PurePosixPath(word.text[found.start(1) :] if found else "")
    if found is None or ".." in path.parts or any(map(path.is_relative_to, (files.root.parent, files.home.parent))):
        return word
    own = Word(str(files.root / TEMPORARY))
    return word.part(0, found.start(1)).plus(own).plus(word.part(found.end(1), len(word.text)))


def outside(path: str) -> Decision:
    """The path of a file or folder is not one of the workspace."""
    named = path or "''"
    return Decision.deny("path.outside", f"{named} is outside the workspace.", "Name files relative to the workspace.")


class FileView(Protocol):
    """The folder that a target's commands run in, and the home of its tools, whose files a line may name too."""

    @property
    def root(self) -> PurePosixPath:
        """Its absolute path."""
        ...

    @property
    def home(self) -> PurePosixPath:
        """That of the home; the root itself where there is none apart."""
        ...

    @property
    def variables(self) -> Mapping[str, str]:
        """The variables that all programs get, as far as they do not depend on the execution."""
        ...

    def for_line(self) -> "FileView":
        """The same folder, with what may be looked up for one line."""
        ...

    def enter(self, cwd: str) -> PurePosixPath | Decision:
        """The absolute folder that `cwd` names, relative to the root, or why it cannot be entered."""
        ...

    def expand(self, words: tuple[Word, ...], cwd: PurePosixPath) -> tuple[str, ...] | Decision:
        """The words with their globs replaced by the names that match."""
        ...

    def check(self, paths: tuple[str, ...], cwd: PurePosixPath) -> Decision | None:
        """Refuse paths that lead through links out of the folder, or the home, that they name something in."""
        ...


class Unseen:
    """A folder that cannot be looked into from here: globs stay as written, links are not followed.

    The words are judged all the same. Where the commands run, they are judged again.
    """

    def __init__(self, root: PurePosixPath) -> None:
        self.root = self.home = root
        self.variables = {"HOME": str(root)}

    def for_line(self) -> "Unseen":
        """The same, since nothing is looked up."""
        return self

    def enter(self, cwd: str) -> PurePosixPath | Decision:
        """The folder as it is named."""
        folder = normal(self.root / cwd)
        if not folder.is_relative_to(self.root):
            return outside(cwd)
        return folder

    def expand(self, words: tuple[Word, ...], cwd: PurePosixPath) -> tuple[str, ...]:
        """The words as they are written."""
        return tuple(word.text for word in words)

    def check(self, paths: tuple[str, ...], cwd: PurePosixPath) -> None:
        """Nothing to see."""
