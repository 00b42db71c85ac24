"""Runs management commands of a Django project for a Gatepost server: `INSTALLED_APPS += ["gatepost_django"]`.

Settings may import this package: it reads none of them until a runner is made. The runner, and with it the HTTP client, is
imported when it is used, so that other commands of the project start no slower.
"""

from typing import TYPE_CHECKING, Any

from gatepost_django.commands import DEFAULT_ALLOWED_COMMANDS, DEFAULT_DISALLOWED_COMMANDS
from gatepost_django.project import get_disallowed_commands, is_command_allowed
from gatepost_django.version import VERSION as __version__

if TYPE_CHECKING:
    from gatepost_django.runner import Runner

    Agent = Runner

__all__ = [
    "DEFAULT_ALLOWED_COMMANDS",
    "DEFAULT_DISALLOWED_COMMANDS",
    "Agent",
    "Runner",
    "__version__",
    "get_disallowed_commands",
    "is_command_allowed",
]


def __getattr__(name: str) -> Any:
    if name in {"Runner", "Agent"}:
        from gatepost_django.runner import Runner

        return Runner
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
