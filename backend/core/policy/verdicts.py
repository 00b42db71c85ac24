"""Verdicts that depend on no file: the same line need not be judged again, nor in a thread."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import field
from pathlib import PurePosixPath

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.language.parser import Word
from backend.core.policy.admit import Plan, PolicyTarget, Scope, admit
from backend.core.policy.files import FileView
from backend.core.policy.line_state import BEGINNING, LineState
from backend.core.policy.profile import Profile

MOST = 64  # plans that a target knows, the newest
LONGEST = 256  # characters of a line whose verdict is kept


@dataclass(slots=True)
class Watched:
    """A view of files that knows whether any was looked at."""

    files: FileView
    looked: bool = False

    @property
    def root(self) -> PurePosixPath:
        return self.files.root

    @property
    def home(self) -> PurePosixPath:
        return self.files.home

    @property
    def variables(self) -> Mapping[str, str]:
        return self.files.variables

    def for_line(self) -> "Watched":
        self.files = self.files.for_line()
        return self

    def enter(self, cwd: str) -> PurePosixPath | Decision:
        self.looked |= cwd != "."
        return self.files.enter(cwd)

    def expand(self, words: tuple[Word, ...], cwd: PurePosixPath) -> tuple[str, ...] | Decision:
        self.looked |= any(word.is_glob for word in words)
        return self.files.expand(words, cwd)

    def check(self, paths: tuple[str, ...], cwd: PurePosixPath) -> Decision | None:
        self.looked |= bool(paths)
        return self.files.check(paths, cwd)


@dataclass(frozen=True, slots=True)
class _Known:
    """A plan, and what it was admitted under."""

    plan: Plan
    profile: Profile
    network: bool

    def holds(self, target: PolicyTarget) -> bool:
        return self.profile is target.profile and self.network == target.network


@dataclass(slots=True)
class Verdicts:
    """The plans of lines that were admitted on one target, or on several that are alike, as long as no file was looked at for
    them."""

    _known: OrderedDict[tuple[str, str], _Known] = field(default_factory=OrderedDict)

    def find(self, line: str, target: PolicyTarget, cwd: str, before: LineState) -> Plan | None:
        """The plan for a line, if it is known. The folder that it runs in is opened again, as by `judge`."""
        known = self._known.get((line, cwd)) if before == BEGINNING else None
        if known is None or not known.holds(target):
            return None
        target.files.for_line()
        return known.plan

    def judge(self, line: str, target: PolicyTarget, cwd: str, before: LineState) -> Plan | Decision:
        """The verdict on a line. It may take a while; several threads may ask at once."""
        files = Watched(target.files)
        verdict = admit(line, Scope(target.profile, files, target.network, target.offline), cwd, before)
        if isinstance(verdict, Plan) and not files.looked and before == BEGINNING and len(line) <= LONGEST:
            self._known[line, cwd] = _Known(verdict, target.profile, target.network)
            if len(self._known) > MOST:
                self._known.popitem(last=False)
        return verdict
