"""What lasts from one step of a line to the next: the folder, the variables, the exit status."""

from collections.abc import Container, Mapping
from dataclasses import field
from pathlib import PurePosixPath

from backend.core.dataclasses import dataclass, replace
from backend.core.language.tree import Step
from backend.core.language.words import UNKNOWN, Guess, Listed, OrElse


@dataclass(frozen=True, slots=True)
class Enter:
    """Change to a folder; without `reports` a failure is not shown."""

    folder: str
    reports: bool = True
    shown: bool = False  # its name, as `cd -` does


@dataclass(frozen=True, slots=True)
class Activate:
    """Use the virtual environment of Python in a folder, named from the workspace."""

    folder: str


@dataclass(frozen=True, slots=True)
class Define:
    """Set variables of the line; `exported` ones are those that programs get."""

    values: tuple[tuple[str, str], ...]
    exported: bool
    others: bool = False  # that are only known when the line runs


@dataclass(frozen=True, slots=True)
class Forget:
    """Unset variables of the line."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Source:
    """Set the variables of a file of lines NAME=value."""

    file: str


@dataclass(frozen=True, slots=True)
class Localize:
    """Set variables that have their values of before at the end of the function."""

    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Shift:
    """Leave out the first words that the function was called with."""

    count: int


@dataclass(frozen=True, slots=True)
class Return:
    """End the function."""

    status: int


@dataclass(frozen=True, slots=True)
class Exit:
    """End the line, or the subshell."""

    status: int


@dataclass(frozen=True, slots=True)
class Options:
    """What `set` changes: whether a failure ends the line, any program of a pipeline can fail it, commands are shown, tests know
    variables that are not set."""

    allexport: bool | None = None
    errexit: bool | None = None
    nounset: bool | None = None
    pipefail: bool | None = None
    xtrace: bool | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """End the loop, or with `again` only this round of it."""

    again: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """Send a signal to executions by their names: `%1`, `%%`, an id, or % and its beginning."""

    names: tuple[str, ...]
    signal: str
    reports: bool = True


@dataclass(frozen=True, slots=True)
class Await:
    """Wait for executions that the line has started: these, or all."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Read:
    """Read a line of input into variables. `separators` are those of its fields; with `raw` a backslash is one."""

    names: tuple[str, ...]
    raw: bool
    separators: str


@dataclass(frozen=True, slots=True)
class ShowStarted:
    """Show what the line has started in the background."""


Effect = (
    Enter
    | Activate
    | Define
    | Forget
    | Exit
    | Options
    | Leave
    | Cancel
    | Await
    | ShowStarted
    | Read
    | Source
    | Localize
    | Shift
    | Return
)
CALL_DEPTH = 4  # functions that call functions

# What a shell calls itself, its system and its user, which is not the name that the machine has for the owner of a workspace.
OF_A_SHELL = {"SHELL": "/bin/bash", "OSTYPE": "linux-gnu", "USER": "gatepost", "LOGNAME": "gatepost"}
ENVIRONMENT = "VIRTUAL_ENV"  # names the virtual environment that is activated, from the workspace
STARTED_LIMIT = 100  # executions in the background that a line and its session know, the newest
NOT_STARTED = "0" * 26  # the id of an execution that is not started yet


@dataclass(frozen=True, slots=True)
class LineState:
    """The state of a line between two steps. `exported` are the variables that programs get in addition to the standard ones.

    `background` are the executions that it has started in the background, by their numbers. In a function `positional` are the words that
    it was called with, `hidden` the values that its local variables had before, `called` the functions that are running. With `open` there may be
    more variables than are known.
    """

    cwd: PurePosixPath
    variables: Mapping[str, str] = field(default_factory=dict)
    exported: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    allexport: bool = False
    errexit: bool = False
    nounset: bool = False
    pipefail: bool = False
    xtrace: bool = False
    background: Mapping[str, str] = field(default_factory=dict)
    previous: PurePosixPath | None = None  # the folder before the last `cd`
    functions: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)
    trap: tuple[Step, ...] = ()  # what runs at the end
    positional: tuple[str, ...] | None = None
    has_all: bool = False  # the words that the function was called with are everything in the workspace
    hidden: Mapping[str, str | None] = field(default_factory=dict)
    called: tuple[str, ...] = ()
    open: bool = False

    def values(self, standard: Mapping[str, str]) -> dict[str, str]:
        """All variables that a word may name."""
        own = {"PWD": str(self.cwd), "?": str(self.status)}
        if self.previous:
            own["OLDPWD"] = str(self.previous)
        if self.background:
            own["!"] = [*self.background.values()][-1]
        if self.positional is not None:
            own |= {} if self.nounset else dict.fromkeys("123456789", "")
            own |= {str(number): word for number, word in enumerate(self.positional[:9], 1)}
            own |= {"#": str(len(self.positional)), "@": Listed(self.positional, is_all=self.has_all)}
        values = {**OF_A_SHELL, **standard, **self.variables, **self.exported, **own}
        return OrElse(values, UNKNOWN) if self.open else values

    def tested_values(self, standard: Mapping[str, str]) -> dict[str, str]:
        """The same for a test, where one that is not set is empty."""
        values = self.values(standard)
        return values if self.nounset or self.open else OrElse(values, "")

    def after(self, effect: Effect | None) -> "LineState":
        """The state that a builtin leaves if it succeeds."""
        match effect:
            case Enter(folder=folder):
                return replace(self, cwd=normal(self.cwd / folder), previous=self.cwd)
            case Activate(folder=folder):
                return self._defined({ENVIRONMENT: folder}, exported=True)
            case Define(values=values, exported=exported, others=others):
                return replace(self._defined(dict(values), exported), open=self.open or others)
            case Source():
                return replace(self, open=True)
            case Localize(values=values):
                before = {**self.variables, **self.exported}
                hidden = {name: before.get(name) for name, _ in values} | dict(self.hidden)
                return replace(self._defined(dict(values), exported=False), hidden=hidden)
            case Shift(count=count):
                return replace(self, positional=(self.positional or ())[count:])
            case Forget(names=names):
                variables = {name: value for name, value in self.variables.items() if name not in names}
                remaining = {name: value for name, value in self.exported.items() if name not in names}
                return replace(self, variables=variables, exported=remaining)
            case Options():
                return replace(
                    self,
                    allexport=_changed(self.allexport, effect.allexport),
                    errexit=_changed(self.errexit, effect.errexit),
                    nounset=_changed(self.nounset, effect.nounset),
                    pipefail=_changed(self.pipefail, effect.pipefail),
                    xtrace=_changed(self.xtrace, effect.xtrace),
                )
            case Read(names=names):
                return self._defined(dict.fromkeys(names, UNKNOWN), exported=False)
            case Exit() | Leave() | Return() | Cancel() | Await() | ShowStarted() | None:
                return self

    def calling(self, name: str, words: Listed) -> "LineState":
        """The state in which a function begins."""
        return replace(self, positional=words.items, has_all=words.is_all, hidden={}, called=(*self.called, name))

    def returned(self, before: "LineState") -> "LineState":
        """The state that a function leaves: local variables have the values that they had `before` it was called."""
        gone = tuple(name for name, value in self.hidden.items() if value is None)
        old = {name: value for name, value in self.hidden.items() if value is not None}
        state = self.after(Forget(gone))._defined(old, exported=False)
        return replace(
            state, positional=before.positional, has_all=before.has_all, hidden=before.hidden, called=before.called
        )

    def declaring(self, name: str, body: tuple[Step, ...]) -> "LineState":
        """The state with a function."""
        return replace(self, functions={**self.functions, name: body})

    def folder(self, root: PurePosixPath) -> str:
        """The folder, relative to a workspace; the workspace where it is not in that."""
        if self.cwd == root or not self.cwd.is_relative_to(root):
            return "."
        return str(self.cwd.relative_to(root))

    def starting(self, execution: str) -> "LineState":
        """The state after an execution was started in the background."""
        number = 1 + max(map(int, self.background), default=0)
        known = [*self.background.items()][1 - STARTED_LIMIT :]
        return replace(self, background={**dict(known), str(number): execution}, status=0)

    def started(self, name: str) -> str:
        """The execution that a name stands for, of those that the line has started; empty for any other."""
        if name in {"%", "%%", "%+"}:
            return [*self.background.values()][-1] if self.background else ""
        if name.startswith("%"):
            return self.background.get(name[1:], "")
        return name if name in self.background.values() else ""

    def merged(self, other: "LineState") -> "LineState":
        """This state, with the variables that only the other has: that of another branch, where one of them ran."""
        variables, exported = _merged(self.variables, other.variables), _merged(self.exported, other.exported)
        functions = {**other.functions, **self.functions}
        is_open = self.open or other.open
        return replace(self, variables=variables, exported=exported, functions=functions, open=is_open)

    def guessing(self, names: Container[str]) -> "LineState":
        """This state, where these variables may have other values."""
        changed = {name: Guess(value) for name, value in self.variables.items() if name in names}
        return replace(self, variables={**self.variables, **changed})

    def _defined(self, values: Mapping[str, str], exported: bool) -> "LineState":
        exported = exported or self.allexport
        into_export = {name: value for name, value in values.items() if exported or name in self.exported}
        others = {name: value for name, value in values.items() if name not in into_export}
        return replace(self, variables={**self.variables, **others}, exported={**self.exported, **into_export})


def _merged(values: Mapping[str, str], others: Mapping[str, str]) -> dict[str, str]:
    differing = (name for name, value in others.items() if values.get(name, value) != value)
    return {**others, **values, **{name: Guess(values[name]) for name in differing}}


def _changed(before: bool, given: bool | None) -> bool:
    return before if given is None else given


BEGINNING = LineState(PurePosixPath("/"))


def normal(path: PurePosixPath) -> PurePosixPath:
    """The path without `..`, as its text shows it: links are not followed."""
    parts: list[str] = []
    for part in path.parts:
        if part != "..":
            parts.append(part)
        elif len(parts) > 1:
            parts.pop()
    return PurePosixPath(*parts)
