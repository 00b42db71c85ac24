"""The settings of a runner, read from those of the project."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

PREFIXES = ("GATEPOST_", "MANAGECOMMAND_", "DJANGOCOMMAND_")  # the first one that has a setting counts
LOCAL = ("localhost", "127.0.0.1", "::1")


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


def find(settings: Mapping[str, Any], name: str) -> Found | None:
    """A setting, under our name or under that of a published runner."""
    return next((Found(full, settings[full]) for each in PREFIXES if (full := each + name) in settings), None)


def wrong_settings(settings: Mapping[str, Any]) -> list[Wrong]:
    """What is wrong with the key and the address of the server."""
    hosts = find(settings, "ALLOW_HTTP_HOSTS")
    checked = (
        _wrong_key(find(settings, "API_KEY")),
        _wrong_server(find(settings, "SERVER_URL"), tuple(hosts.value) if hosts else LOCAL),
    )
    return [each for each in checked if each]


def _wrong_key(found: Found | None) -> Wrong | None:
    hint = "Create one on the server: `python3 run.py runner key create PROJECT`."
    match found:
        case None:
            return Wrong("GATEPOST_API_KEY", "GATEPOST_API_KEY is not set.", hint)
        case Found(value=str() as key) if key.startswith("dc_"):
            return None
    return Wrong(found.name, f"{found.name} is not the key of a runner: those start with `dc_`.", hint)


def _wrong_server(found: Found | None, http_hosts: tuple[str, ...]) -> Wrong | None:
    hint = "Set it to the address of the server, for example https://gatepost.example.com."
    if found is None:
        return Wrong("GATEPOST_SERVER_URL", "GATEPOST_SERVER_URL is not set.", hint)
    try:
        url = urlsplit(str(found.value))
        host = url.hostname
    except ValueError:
        return Wrong(found.name, f"{found.name} is not an address.", hint)
    match url.scheme:
        case "https" if host:
            return None
        case "http" if host in http_hosts:
            return None
        case "http" if host:
            secure = "Use https://, or add the host to GATEPOST_ALLOW_HTTP_HOSTS if its network is trusted."
            return Wrong(found.name, f"{found.name} would send the key to {host} unencrypted.", secure)
    return Wrong(found.name, f"{found.name} is not an address with http or https.", hint)
