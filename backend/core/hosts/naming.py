"""The names of hosts, and those of their keys and channels in Redis, which existing agents and backends use too."""

import re

HOST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")  # no ":" and no "*": an id is a part of keys and of patterns for keys
REGISTRY_PREFIX = "agents:"
ANSWERS_PREFIX = "cockpit-agent-response:"


def is_host_id(text: str) -> bool:
    """Whether a text can name a host."""
    return HOST_ID.fullmatch(text) is not None


def registry_key(host: str) -> str:
    """The hash that the agent of a host refreshes."""
    return f"{REGISTRY_PREFIX}{host}"


def command_channel(host: str) -> str:
    """Where commands for a host are published."""
    return f"cockpit-agent:{host}"


def answer_channel(host: str) -> str:
    """Where a host publishes its answers."""
    return f"{ANSWERS_PREFIX}{host}"
