"""The Django project that this process belongs to: its settings, its folder, how its commands are started."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings as django_settings

from gatepost_django.configuration import read_commands


def all_settings() -> Mapping[str, Any]:
    """The settings of the project."""
    return {name: getattr(django_settings, name) for name in dir(django_settings) if name.isupper()}


def is_command_allowed(name: str) -> tuple[bool, str]:
    """Whether a command may run by the settings of the project, and why not."""
    return read_commands(all_settings()).is_command_allowed(name)


def get_disallowed_commands() -> frozenset[str]:
    """The commands that never run while GATEPOST_USE_BLOCKLIST is True."""
    return frozenset(read_commands(all_settings()).disallowed)


def find_project() -> Path:
    """The folder of manage.py: that of the program that runs, or the next one above the current folder."""
    program = Path(sys.argv[0]).resolve()
    if program.name == "manage.py":
        return program.parent
    here = Path.cwd()
    return next((each for each in (here, *here.parents) if (each / "manage.py").is_file()), here)


def command_line(project: Path, *words: str) -> list[str]:
    """How a management command of the project is started."""
    start = [str(project / "manage.py")] if (project / "manage.py").is_file() else ["-m", "django"]
    return [sys.executable, *(f"-W{each}" for each in sys.warnoptions), *start, *words]


def environment() -> Mapping[str, str]:
    """The environment of commands: that of the runner, with output that is written at once, and no terminal."""
    plain = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES", "RUN_MAIN"}}
    return {**plain, "PYTHONUNBUFFERED": "1"}
