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


def in_temporary(word: Word, root: PurePosixPath) -> Word:
    """The word with the folder of the workspace where it names /tmp, unless the workspaces themselves are there."""
    found = SHARED_TEMPORARY.match(word.text)
    path = PurePosixPath(word.text[found.start(1) :] if found else "")
    if found is None or ".." in path.parts or path.is_relative_to(root.parent):
        return word
    own = Word(str(root / TEMPORARY))
    return word.part(0, found.start(1)).plus(own).plus(word.part(found.end(1), len(word.text)))


def outside(path: str) -> Decision:
    """The path of a file or folder is not one of the workspace."""
    named = path or "''"
    return Decision.deny("path.outside", f"{named} is outside the workspace.", "Name files relative to the workspace.")


class FileView(Protocol):
    """The folder that a target's commands run in."""

    @property
    def root(self) -> PurePosixPath:
        """Its absolute path."""
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
        """Refuse paths that lead out of the folder through links."""
        ...


class Unseen:
    """A folder that cannot be looked into from here: globs stay as written, links are not followed.

    The words are judged all the same. Where the commands run, they are judged again.
    """

    def __init__(self, root: PurePosixPath) -> None:
        self.root = root
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
