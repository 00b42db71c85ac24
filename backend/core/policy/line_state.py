"""What lasts from one step of a line to the next: the folder, the variables, the exit status."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath


@dataclass(frozen=True, slots=True)
class Enter:
    """Change to a folder; without `reports` a failure is not shown."""

    folder: str
    reports: bool = True


@dataclass(frozen=True, slots=True)
class Define:
    """Set variables of the line; `exported` ones are those that programs get."""

    values: tuple[tuple[str, str], ...]
    exported: bool


@dataclass(frozen=True, slots=True)
class Forget:
    """Unset variables of the line."""

    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exit:
    """End the line, or the subshell."""

    status: int


@dataclass(frozen=True, slots=True)
class Options:
    """What `set` changes: whether a failure ends the line, and whether any program of a pipeline can fail it."""

    errexit: bool | None = None
    pipefail: bool | None = None


@dataclass(frozen=True, slots=True)
class Leave:
    """End the loop, or with `again` only this round of it."""

    again: bool


Effect = Enter | Define | Forget | Exit | Options | Leave


@dataclass(frozen=True, slots=True)
class LineState:
    """The state of a line between two steps. `exported` are the variables that programs get in addition to the standard ones."""

    cwd: PurePosixPath
    variables: Mapping[str, str] = field(default_factory=dict)
    exported: Mapping[str, str] = field(default_factory=dict)
    status: int = 0
    errexit: bool = False
    pipefail: bool = False

    def values(self, standard: Mapping[str, str]) -> dict[str, str]:
        """All variables that a word may name."""
        own = {"PWD": str(self.cwd), "?": str(self.status)}
        return {**standard, **self.variables, **self.exported, **own}

    def after(self, effect: Effect | None) -> "LineState":
        """The state that a builtin leaves if it succeeds."""
        match effect:
            case Enter(folder=folder):
                return replace(self, cwd=normal(self.cwd / folder))
            case Define(values=values, exported=exported):
                return self._defined(dict(values), exported)
            case Forget(names=names):
                variables = {name: value for name, value in self.variables.items() if name not in names}
                remaining = {name: value for name, value in self.exported.items() if name not in names}
                return replace(self, variables=variables, exported=remaining)
            case Options(errexit=errexit, pipefail=pipefail):
                return replace(
                    self,
                    errexit=self.errexit if errexit is None else errexit,
                    pipefail=self.pipefail if pipefail is None else pipefail,
                )
            case Exit() | Leave() | None:
                return self

    def merged(self, other: "LineState") -> "LineState":
        """This state, with the variables that only the other has: that of another branch, where one of them ran."""
        return replace(
            self,
            variables={**other.variables, **self.variables},
            exported={**other.exported, **self.exported},
        )

    def _defined(self, values: Mapping[str, str], exported: bool) -> "LineState":
        into_export = {name: value for name, value in values.items() if exported or name in self.exported}
        others = {name: value for name, value in values.items() if name not in into_export}
        return replace(self, variables={**self.variables, **others}, exported={**self.exported, **into_export})


def normal(path: PurePosixPath) -> PurePosixPath:
    """The path without `..`, as its text shows it: links are not followed."""
    parts: list[str] = []
    for part in path.parts:
        if part != "..":
            parts.append(part)
        elif len(parts) > 1:
            parts.pop()
    return PurePosixPath(*parts)
