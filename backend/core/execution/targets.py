"""Where a command runs and under which policy."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from backend.core.decisions import Decision
from backend.core.language.lexer import Word
from backend.core.policy.profile import Profile


class Workspace(Protocol):
    """The folder that commands run in, seen through the file system."""

    root: PurePosixPath

    def enter(self, cwd: str) -> PurePosixPath | Decision:
        """The absolute folder `cwd` names, read from the root, or why not."""
        ...

    def expand(self, words: tuple[Word, ...], cwd: PurePosixPath) -> tuple[str, ...] | Decision:
        """The words with their globs replaced by the names that match."""
        ...

    def check(self, paths: tuple[str, ...], cwd: PurePosixPath) -> Decision | None:
        """Refuse paths that lead out of the workspace through links."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """A workspace under a profile. Without a `project` it is the terminal's own.

    `metadata_only` says that output is neither stored nor shown.
    """

    profile: Profile
    workspace: Workspace
    project: str | None = None
    network: bool = False
    metadata_only: bool = False
