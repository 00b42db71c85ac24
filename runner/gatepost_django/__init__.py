"""Runs management commands of a Django project for a Gatepost server: `INSTALLED_APPS += ["gatepost_django"]`.

Settings may import this package: it reads none of them until a runner is made.
"""

from gatepost_django.commands import DEFAULT_ALLOWED_COMMANDS, DEFAULT_DISALLOWED_COMMANDS
from gatepost_django.project import get_disallowed_commands, is_command_allowed
from gatepost_django.runner import Runner
from gatepost_django.version import VERSION as __version__

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
