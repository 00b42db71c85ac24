"""A command for a host, as a line and as the name and parameters that agents are sent.

git_pull repository_path=/srv/app branch=main     {"command": "git_pull", "params": {"repository_path": ...}}
deploy dry:=true                                  parameters that are not texts are written as JSON after `:=`
git_pull /srv/app main                            those of the usual commands may be written without their names
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backend.core.dataclasses import dataclass
from backend.core.hosts.messages import DEEPEST, is_deep

PARAMETER = re.compile(r"(?s)([A-Za-z_][A-Za-z0-9_.-]{0,63})(:?=)(.*)")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
MOST_LEVELS = DEEPEST - 10  # of the value of a parameter, which is a part of a message
SENSITIVE = frozenset({"password", "ansible_password", "ssh_passphrase"})
POSITIONS: Mapping[str, tuple[str, ...]] = {
    "git_pull": ("repository_path", "branch"),
    "git_status": ("repository_path",),
    "docker_restart": ("container_name",),
    "run": ("line",),
}


@dataclass(frozen=True, slots=True)
class HostCommand:
    """A command with its parameters."""

    name: str
    params: Mapping[str, Any]

    @property
    def line(self) -> str:
        """The command as a line. Raises ValueError for a parameter that no line can name."""
        return shlex.join([self.name, *(_word(name, value) for name, value in self.params.items())])

    def sealed(self, seal: Callable[[str], str]) -> "HostCommand":
        """The same with its sensitive parameters encrypted by `seal`."""
        params = {
            name: seal(value) if name in SENSITIVE and isinstance(value, str) else value
            for name, value in self.params.items()
        }
        return HostCommand(self.name, params)

    @classmethod
    def of(cls, argv: Sequence[str]) -> "HostCommand":
        """The command that the words of a line stand for. Raises ValueError, which says what is wrong."""
        name, *words = argv
        if name == "echo":
            return cls(name, _message(words))
        params: dict[str, Any] = {}
        for position, word in enumerate(words):
            key, value = _parameter(name, position, word)
            if key in params:
                raise ValueError(f"the parameter {key} is given twice")
            params[key] = value
        return cls(name, params)


def _word(name: str, value: Any) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name[:64]!r} is not the name of a parameter")
    if isinstance(value, str) and value.isprintable():
        return f"{name}={value}"
    _check_levels(name, value)
    return f"{name}:={json.dumps(value, sort_keys=True)}"


def _message(words: Sequence[str]) -> dict[str, Any]:
    """The parameters of `echo`, whose words are the message unless all of them are parameters and one of them is it."""
    found = [PARAMETER.fullmatch(word) for word in words]
    named = {each[1]: each for each in found if each}
    if all(found) and "message" in named:
        return {name: _value(each) for name, each in named.items()}
    return {"message": " ".join(words)} if words else {}


def _parameter(command: str, position: int, word: str) -> tuple[str, Any]:
    if found := PARAMETER.fullmatch(word):
        return found[1], _value(found)
    names = POSITIONS.get(command, ())
    if position >= len(names):
        raise ValueError(f"{word[:64]!r} is not a parameter: write name=value")
    return names[position], word


def _value(found: re.Match[str]) -> Any:
    if found[2] == "=":
        return found[3]
    try:
        value = json.loads(found[3])
    except (ValueError, RecursionError):
        raise ValueError(f"the value of {found[1]} is not JSON") from None
    _check_levels(found[1], value)
    return value


def _check_levels(name: str, value: Any) -> None:
    if is_deep(value, MOST_LEVELS):
        raise ValueError(f"the value of {name} has more than {MOST_LEVELS} levels")
