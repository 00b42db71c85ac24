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


def jobs_stream(host: str) -> str:
    """The stream of what servers send to an enrolled host."""
    return f"gatepost:host:{host}:jobs"


def reply_stream(host: str, server: str) -> str:
    """The stream of what an enrolled host sends to one server."""
    return f"gatepost:host:{host}:to:{server}"


def redis_user(host: str) -> str:
    """The user of Redis that an enrolled host logs in as."""
    return f"gatepost-host-{host}"


def redis_rules(host: str, password: str) -> tuple[str, ...]:
    """What that user may do: its own keys, the commands that its agent uses, no channel."""
    commands = (
        *("ping", "hello", "select", "multi", "exec", "hset", "expire", "time"),
        *("xadd", "xack", "xdel", "xlen", "xreadgroup", "xgroup|create"),
    )
    keys = (registry_key(host), f"gatepost:host:{host}:*")
    return (
        *("reset", "on", f">{password}", "resetchannels"),
        *(f"~{key}" for key in keys),
        *(f"+{command}" for command in commands),
    )
