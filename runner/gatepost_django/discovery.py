"""The commands of the project that may run, and their help."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from django.core.management import get_commands, load_command_class

from gatepost_django.commands import Commands
from gatepost_django.protocol import ManagementCommand

SHORT_HELP = 1000  # characters, where all of the help is too much for the server
# The help of a command is the same for all runners of a project, whatever terminal they were started in.
PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "PYTHON_COLORS": "0"}


def discover(commands: Commands) -> list[ManagementCommand]:
    """What the project has of the commands that may run, in the order of their names."""
    with _environment(PLAIN):
        found = sorted(get_commands().items())
        return [_described(name, app) for name, app in found if commands.is_command_allowed(name)[0]]


def _described(name: str, app: object) -> ManagementCommand:
    label = app if isinstance(app, str) else str(getattr(app, "__module__", ""))
    try:
        text = load_command_class(app, name).create_parser("manage.py", name).format_help()
    except Exception:  # whatever the module of a command does when it is imported: it is listed without help
        text = ""
    return ManagementCommand(name, label, text)


def shortened(commands: Sequence[ManagementCommand]) -> list[ManagementCommand]:
    """The same commands with less help."""
    return [replace(each, help_text=each.help_text[:SHORT_HELP]) for each in commands]


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
