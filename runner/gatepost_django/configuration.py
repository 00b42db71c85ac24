"""The settings of a runner, read from those of the project."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gatepost_django.commands import DEFAULT_ALLOWED_COMMANDS, DEFAULT_DISALLOWED_COMMANDS, Commands

PREFIXES = ("GATEPOST_", "MANAGECOMMAND_", "DJANGOCOMMAND_")  # the first one that has a setting counts
LOCAL = ("localhost", "127.0.0.1", "::1")
DEFAULT_METADATAONLY_COMMANDS = ("dumpdata",)  # it prints whatever the database has
ADDRESS = re.compile(r"[!-~]+")  # neither blanks nor line breaks
LEAST_INTERVAL = 5  # seconds between two heartbeats


@dataclass(frozen=True)
class Wrong:
    """A setting that is wrong, and what to do about it."""

    setting: str
    message: str
    hint: str


@dataclass(frozen=True)
class Found:
    """A setting as the project has it."""

    name: str
    value: Any

    @property
    def is_foreign(self) -> bool:
        """Whether it has the name that another runner gave it."""
        return not self.name.startswith(PREFIXES[0])


@dataclass(frozen=True)
class Configuration:
    """Settings that are right. Times are in seconds."""

    api_key: str
    server_url: str
    heartbeat_interval: float
    request_timeout: float
    max_retries: int
    commands: Commands
    metadata_only: frozenset[str]
    state_dir: Path | None


def find(settings: Mapping[str, Any], name: str) -> Found | None:
    """A setting, under our name or under that of a published runner."""
    return next((Found(full, settings[full]) for each in PREFIXES if (full := each + name) in settings), None)


def foreign_names(settings: Mapping[str, Any]) -> list[str]:
    """The settings that are read under the name of a published runner."""
    found = (find(settings, name) for name in NAMES)
    return [each.name for each in found if each and each.is_foreign]


def read_commands(settings: Mapping[str, Any]) -> Commands:
    """Which commands may run, from settings that are right."""
    return Commands(
        allowed=tuple(_value(settings, "ALLOWED_COMMANDS", DEFAULT_ALLOWED_COMMANDS)),
        disallowed=tuple(_value(settings, "DISALLOWED_COMMANDS", DEFAULT_DISALLOWED_COMMANDS)),
        blocklist=_value(settings, "USE_BLOCKLIST", False),
    )


def read_configuration(settings: Mapping[str, Any]) -> Configuration | list[Wrong]:
    """The settings, or what is wrong with them."""
    if wrong := wrong_settings(settings):
        return wrong
    state_dir = _value(settings, "STATE_DIR", None)
    return Configuration(
        api_key=_value(settings, "API_KEY", ""),
        server_url=_value(settings, "SERVER_URL", "").rstrip("/"),
        heartbeat_interval=_value(settings, "HEARTBEAT_INTERVAL", 30),
        request_timeout=_value(settings, "REQUEST_TIMEOUT", 30),
        max_retries=_value(settings, "MAX_RETRIES", 3),
        commands=read_commands(settings),
        metadata_only=frozenset(_value(settings, "METADATAONLY_COMMANDS", DEFAULT_METADATAONLY_COMMANDS)),
        state_dir=Path(state_dir) if state_dir else None,
    )


def _value(settings: Mapping[str, Any], name: str, default: Any) -> Any:
    found = find(settings, name)
    return found.value if found else default


def wrong_settings(settings: Mapping[str, Any]) -> list[Wrong]:
    """What is wrong with the settings, each with a hint."""
    kinds = (_wrong_kind(found, name) for name in KINDS if (found := find(settings, name)))
    if wrong := [each for each in kinds if each]:
        return wrong
    hosts = tuple(_value(settings, "ALLOW_HTTP_HOSTS", LOCAL))
    checked = (
        _wrong_key(find(settings, "API_KEY")),
        _wrong_server(find(settings, "SERVER_URL"), hosts),
    )
    return [each for each in checked if each]


def _is_names(value: object) -> bool:
    return isinstance(value, (list, tuple, set, frozenset)) and all(isinstance(each, str) for each in value)


def _is_number(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < float("inf")


NAME_HINT = 'Use a list or a tuple of texts; one with a single item is ("name",), with a comma.'
KINDS: dict[str, tuple[Callable[[object], bool], str, str]] = {
    "HEARTBEAT_INTERVAL": (
        lambda value: _is_number(value, LEAST_INTERVAL),
        f"is not a number of seconds from {LEAST_INTERVAL} on",
        "30 is usual; the server takes a runner for offline after 100 seconds.",
    ),
    "REQUEST_TIMEOUT": (lambda value: _is_number(value, 1), "is not a number of seconds from 1 on", "30 is usual."),
    "MAX_RETRIES": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 100,
        "is not a number from 0 to 100",
        "3 is usual.",
    ),
    "ALLOW_HTTP_HOSTS": (_is_names, "is not a list of names", NAME_HINT),
    "ALLOWED_COMMANDS": (_is_names, "is not a list of names", NAME_HINT),
    "DISALLOWED_COMMANDS": (_is_names, "is not a list of names", NAME_HINT),
    "METADATAONLY_COMMANDS": (_is_names, "is not a list of names", NAME_HINT),
    "USE_BLOCKLIST": (lambda value: isinstance(value, bool), "is neither True nor False", "Without it, it is False."),
    "STATE_DIR": (
        lambda value: value is None or (isinstance(value, (str, Path)) and Path(value).is_absolute()),
        "is not the absolute path of a folder",
        "Without it, it is in the home folder of the user: ~/.local/state/gatepost-django.",
    ),
}
NAMES = ("API_KEY", "SERVER_URL", *KINDS)


def _wrong_kind(found: Found, name: str) -> Wrong | None:
    is_right, problem, hint = KINDS[name]
    return None if is_right(found.value) else Wrong(found.name, f"{found.name} {problem}.", hint)


def _wrong_key(found: Found | None) -> Wrong | None:
    hint = "Create one on the server: `python3 run.py runner key create PROJECT`."
    match found:
        case None:
            return Wrong("GATEPOST_API_KEY", "GATEPOST_API_KEY is not set.", hint)
        case Found(value=str() as key) if key.startswith("dc_") and key.isascii() and key.isprintable():
            return None
    return Wrong(found.name, f"{found.name} is not the key of a runner: those start with `dc_`.", hint)


def _wrong_server(found: Found | None, http_hosts: tuple[str, ...]) -> Wrong | None:
    hint = "Set it to the address of the server, for example https://gatepost.example.com."
    if found is None:
        return Wrong("GATEPOST_SERVER_URL", "GATEPOST_SERVER_URL is not set.", hint)
    try:
        url = urlsplit(str(found.value))
        host, _ = url.hostname, url.port  # which raises ValueError where it is no number
        if not ADDRESS.fullmatch(str(found.value)):
            raise ValueError
    except ValueError:
        return Wrong(found.name, f"{found.name} is not an address.", hint)
    if url.username or url.password or url.query or url.fragment:
        return Wrong(found.name, f"{found.name} has more than a host and a path.", hint)
    match url.scheme:
        case "https" if host:
            return None
        case "http" if host in http_hosts:
            return None
        case "http" if host:
            secure = "Use https://, or add the host to GATEPOST_ALLOW_HTTP_HOSTS if its network is trusted."
            return Wrong(found.name, f"{found.name} would send the key to {host} unencrypted.", secure)
    return Wrong(found.name, f"{found.name} is not an address with http or https.", hint)
