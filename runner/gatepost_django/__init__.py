"""The side of a Django project: which management commands a server may run in it, and with which settings."""

from gatepost_django.commands import DEFAULT_ALLOWED_COMMANDS, DEFAULT_DISALLOWED_COMMANDS

__all__ = ["DEFAULT_ALLOWED_COMMANDS", "DEFAULT_DISALLOWED_COMMANDS"]
