"""The management commands of a Django project, as its runner lists them, and a line as a command with arguments."""

import hashlib
import json
import shlex
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict

from backend.core.dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ManagementCommand:
    """A management command; `help_text` is what `--help` prints."""

    name: str
    app_label: str
    help_text: str


@dataclass(frozen=True, slots=True)
class CommandList:
    """The commands of a project; `hash` is how runners name this list."""

    commands: tuple[ManagementCommand, ...]
    hash: str

    @property
    def names(self) -> Collection[str]:
        """The names of the commands."""
        return frozenset(command.name for command in self.commands)

    def matching(self, text: str) -> Sequence[ManagementCommand]:
        """The commands with `text` in their name, app or help; those with it in the name come first."""
        words = text.lower().split()
        found = [each for each in self.commands if all(word in _searched(each) for word in words)]
        return sorted(found, key=lambda each: (not all(word in each.name.lower() for word in words), each.name))


def _searched(command: ManagementCommand) -> str:
    return f"{command.name} {command.app_label} {command.help_text}".lower()


def command_list(commands: Iterable[ManagementCommand]) -> CommandList:
    """The list of these commands, with the hash that runners compute over it."""
    listed = tuple(sorted(commands, key=lambda command: command.name))
    text = json.dumps([asdict(command) for command in listed], sort_keys=True, separators=(",", ":"))
    return CommandList(listed, f"sha256:{hashlib.sha256(text.encode()).hexdigest()}")


def command_and_arguments(argv: Sequence[str]) -> tuple[str, str]:
    """A command and its arguments as one text, which `shlex.split` takes apart to the same words.

    Runners do so, and one that cannot would ask for the execution for ever.
    """
    name, *words = argv
    return name, shlex.join(words)
