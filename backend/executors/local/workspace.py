"""The folder that commands run in: folders entered, globs expanded, links followed to see where they lead.

These are checks before the act: a file can change between the check and the use. They keep honest commands honest.
"""

import os
import re
import stat
import time
from collections.abc import Iterator
from copy import copy
from itertools import islice
from pathlib import Path, PurePosixPath

from backend.core.decisions import Decision
from backend.core.language.parser import Word
from backend.core.policy.files import folder_of, outside
from backend.executors.local.launcher import cage_environment
from backend.executors.local.links import LINK_TIME, LinkReader, TooLong
from backend.executors.local.outside import STANDARD
from backend.executors.local.workspace_users import reopen

STAR = "*"
SEARCH_LIMIT = 20_000  # names that the globs of a command may be compared with
FOLDER_COST = 20  # reading a folder costs as much as so many names
EXPANSION_LIMIT = 1000  # words a line may grow to; every one of them is judged


class FolderView:
    """A workspace that is a folder of this machine. Tools store what is theirs in `home`, or in the workspace itself."""

    def __init__(self, folder: Path, home: Path | None = None) -> None:
        self.root = PurePosixPath(os.path.realpath(folder))
        self._settle(home or folder)
        self.links = LinkReader(time.thread_time)

    def with_home(self, home: Path) -> "FolderView":
        """The same folder for commands with another home."""
        view = copy(self)
        view._settle(home)
        return view

    def _settle(self, home: Path) -> None:
        self.home = PurePosixPath(os.path.realpath(home))
        self.variables = {**STANDARD, **cage_environment(str(self.home))}

    def for_line(self) -> "FolderView":
        """The same folder, open again, with the time for the links of one line."""
        reopen(str(self.root))
        view = self.__class__.__new__(self.__class__)
        view.__dict__ |= self.__dict__
        view.links = LinkReader(time.thread_time, LINK_TIME)
        return view

    def enter(self, cwd: str) -> PurePosixPath | Decision:
        """The folder `cwd` names, links resolved."""
        if cwd == ".":
            return self.root
        if "\0" in cwd:
            return outside("the folder")
        full = self._follow(self.root / cwd, cwd)
        if isinstance(full, Decision):
            return full
        if not full.is_relative_to(self.root):
            return outside(cwd)
        if not os.path.isdir(full):
            return Decision.deny("path.missing", f"There is no folder {cwd} in the workspace.", "See `ls`.")
        return full

    def expand(self, words: tuple[Word, ...], cwd: PurePosixPath) -> tuple[str, ...] | Decision:
        """The words with their globs expanded; a glob that matches nothing stays as it is, as in a shell."""
        expanded: list[str] = []
        search = _Search(self)
        for word in words:
            try:
                expanded.extend(search.matches(word, cwd) or [word.text] if word.is_glob else [word.text])
            except TooLong:
                return _too_long(word.text)
            if len(expanded) > EXPANSION_LIMIT or search.left < 0:
                return Decision.deny(
                    "limits.expansion",
                    f"{word.text} looks at or matches too many files; a command grows to {EXPANSION_LIMIT} words at most.",
                    "Name fewer files.",
                )
        return tuple(expanded)

    def check(self, paths: tuple[str, ...], cwd: PurePosixPath) -> Decision | None:
        """Refuse the first path whose links lead out of the workspace, or of the home, or cannot be followed."""
        for path in paths:
            found = self._follow(cwd / path, path)
            if isinstance(found, Decision):
                return found
            if not found.is_relative_to(folder_of(cwd / path, self.root, self.home)):
                reason = f"{path} leads out of the workspace through a link."
                return Decision.deny("path.link", reason, "Name files inside the workspace.")
        return None

    def _follow(self, full: PurePosixPath, path: str) -> PurePosixPath | Decision:
        """Where a path leads."""
        try:
            return PurePosixPath(self.links.resolve(str(full)))
        except TooLong:
            return _too_long(path)
        except OSError as error:
            reason = f"The links of {path} cannot be followed: {error.strerror}."
            return Decision.deny("path.link", reason, "Name the file itself.")

    def holds(self, path: str) -> bool:
        """Whether a path stays in the workspace or in the home, links followed. Raises TooLong."""
        folder = folder_of(PurePosixPath(path), self.root, self.home)
        try:
            return PurePosixPath(self.links.resolve(path)).is_relative_to(folder)
        except OSError:
            return False


class _Search:
    """The globs of one command; `left` is how much more they may look at before the command is refused."""

    def __init__(self, workspace: FolderView) -> None:
        self.workspace = workspace
        self.left = SEARCH_LIMIT
        self._known: dict[str, list[str]] = {}

    def matches(self, word: Word, cwd: PurePosixPath) -> list[str]:
        found = [""]
        for part, matcher in _parts(word):
            grown = (path for start in found for path in self._step(start, part, matcher, cwd))
            found = list(islice(grown, EXPANSION_LIMIT + 1))
            if len(found) > EXPANSION_LIMIT or self.left < 0:
                break
        # A file named like an option must stay a file.
        return sorted(f"./{path}" if path.startswith("-") else path for path in found)

    def _step(self, start: str, part: str, matcher: re.Pattern[str] | None, cwd: PurePosixPath) -> Iterator[str]:
        self.left -= 1
        if self.left < 0:
            return
        if matcher is None:
            path = start + part
            # As text: a slash at the end asks for a folder, which a path object would forget.
            if self.workspace.links.exists(os.path.join(cwd, path)):
                yield path
            return
        for name in self._names(os.path.join(cwd, start)):
            if matcher.fullmatch(name) and (not name.startswith(".") or part.startswith(".")):
                yield start + name

    def _names(self, folder: str) -> list[str]:
        """What a folder holds; nothing where it cannot be read or is outside."""
        if folder not in self._known:
            self.left -= FOLDER_COST
            self._known[folder] = self._read(folder)
        self.left -= len(self._known[folder])
        return self._known[folder]

    def _read(self, folder: str) -> list[str]:
        if not self.workspace.holds(folder):
            return []
        try:
            with os.scandir(folder) as entries:
                # One more than there is room for: the search is given up then.
                return [entry.name for entry in islice(entries, max(self.left, 0) + 1) if _is_text(entry.name)]
        except OSError:
            return []


def _is_text(name: str) -> bool:
    """Names that are not UTF-8 cannot be shown or judged, so no glob finds them."""
    return name.isprintable() or not any("\ud800" <= char <= "\udfff" or ord(char) < 32 for char in name)


def _parts(word: Word) -> Iterator[tuple[str, re.Pattern[str] | None]]:
    """The word cut at its slashes: each name with its matcher, each run of slashes as it is."""
    position = 0
    for part in re.findall("/+|[^/]+", word.text):
        active = frozenset(at - position for at in word.active if position <= at < position + len(part))
        yield part, _matcher(part, active)
        position += len(part)


def _matcher(part: str, active: frozenset[int]) -> re.Pattern[str] | None:
    """A regular expression for one name, None where nothing in it is active."""
    if not any(part[at] in "*?[" for at in active):
        return None
    pieces, at = [""], 0
    while at < len(part):
        piece, length = _piece(part, at, active)
        if piece == STAR:
            pieces.append("")
        else:
            pieces[-1] += piece
        at += length
    return re.compile(_stars_between(pieces), re.DOTALL)


def _stars_between(pieces: list[str]) -> str:
    """The pieces with anything between them. What a star skipped is never taken back (an atomic group): the first
    place where the next piece fits is as good as any, and the time stays short whatever the glob."""
    first, *rest = pieces
    if not rest:
        return first
    middle = "".join(f"(?>.*?{piece})" for piece in rest[:-1] if piece)
    return f"{first}{middle}.*{rest[-1]}"


def _piece(part: str, at: int, active: frozenset[int]) -> tuple[str, int]:
    if at in active:
        match part[at]:
            case "*":
                return STAR, 1
            case "?":
                return ".", 1
            case "[":
                return _bracket(part, at, active) or (r"\[", 1)
            case _:
                pass
    return re.escape(part[at]), 1


def _bracket(part: str, start: int, active: frozenset[int]) -> tuple[str, int] | None:
    """A bracket expression and its length; None where it is never closed and so stands for itself."""
    at = start + 1
    negated = at < len(part) and at in active and part[at] == "!"
    first = at + negated
    end = first + 1
    while end < len(part) and not (part[end] == "]" and end in active):
        end += 1
    if end >= len(part):
        return None
    members = _members(part, first, end, active)
    return (f"[{'^' if negated else ''}{members}]" if members else "(?!)"), end - start + 1


def _members(part: str, first: int, end: int, active: frozenset[int]) -> str:
    members, at = [], first
    while at < end:
        if at + 2 < end and at + 1 in active and part[at + 1] == "-":
            if part[at] <= part[at + 2]:
                members.append(f"{re.escape(part[at])}-{re.escape(part[at + 2])}")
            at += 3
        else:
            members.append(re.escape(part[at]))
            at += 1
    return "".join(members)


def _too_long(path: str) -> Decision:
    reason = f"Following the links of {path} takes too long."
    return Decision.deny("limits.links", reason, "Name the files themselves, or fewer of them.")


def prepare_workspace(folder: Path) -> None:
    """Make the folder and, in a new one, a file to look at."""
    try:
        folder.mkdir(parents=True, mode=0o755)
    except FileExistsError:  # perhaps of a server that starts at the same time
        return
    welcome = folder / "welcome.txt"
    welcome.write_text("This is the folder in which commands run. Type help to see what is allowed.\n")
    welcome.chmod(stat.S_IRUSR | stat.S_IWUSR | stat.S_IRGRP | stat.S_IROTH)
