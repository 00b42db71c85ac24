"""`agent --check`: what an agent needs, each with what to do where it is missing. Nothing is changed."""

import os
import shutil
import stat
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from backend.core.dataclasses import dataclass
from backend.core.errors import GatepostError
from backend.core.hosts.naming import answer_channel, command_channel, jobs_stream, registry_key, reply_stream
from backend.executors.local.outside import find_program
from backend.executors.local.run_as import closed_parent, find_owner
from backend.runtime.agent_settings import AgentSettings
from backend.runtime.command_line import verb
from backend.runtime.host_agent import check_trust, find_handlers, redis_client, speaks_dialects
from backend.runtime.preflight import build_guard
from backend.runtime.settings import Settings, SettingsError

MOST_DRIFT = 5.0  # seconds between the clock of this host and that of Redis
PATIENCE = 5.0
DOCKER_SOCKET = Path("/var/run/docker.sock")
GIT_FOLDER = ".git"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `problem` is empty where it is as it must be."""

    name: str
    problem: str = ""

    def __str__(self) -> str:
        return f"failed  {self.name}: {self.problem}" if self.problem else f"ok      {self.name}"


async def check_agent(settings: Settings, own: AgentSettings) -> list[Finding]:
    """Look at everything that the agent needs."""
    return [
        _trust(settings, own),
        *await _redis(settings, own),
        _protection(settings),
        _handlers(settings, own),
        *(_repository(path, settings) for path in own.repositories),
        *_docker(settings, own),
    ]


def _trust(settings: Settings, own: AgentSettings) -> Finding:
    try:
        check_trust(settings, own)
    except SettingsError as error:
        return Finding("secret", str(error))
    return Finding("secret")


async def _redis(settings: Settings, own: AgentSettings) -> list[Finding]:
    try:
        client = redis_client(own.redis_arguments(settings))
    except ValueError as error:
        return [Finding("redis", str(error))]
    try:
        found = [await _answers(client)]
        if not found[0].problem:
            found += [await _permitted(client, settings, own), await _clock(client)]
        return found
    finally:
        with suppress(RedisError, OSError):
            await client.aclose(close_connection_pool=True)


async def _answers(client: Redis) -> Finding:
    try:
        await client.ping()  # type: ignore[misc]
    except NoPermissionError:
        return Finding("redis")
    except (RedisError, OSError) as error:
        return Finding("redis", _unreachable(" ".join(map(str, _causes(error)))))
    return Finding("redis")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def _unreachable(text: str) -> str:
    if "invalid username-password" in text or "WRONGPASS" in text:
        return "it refuses the password. Compare REDIS_USERNAME and REDIS_PASSWORD with its users."
    if "Authentication required" in text or "NOAUTH" in text:
        return "it requires a password. Set REDIS_PASSWORD."
    return "it cannot be reached. Check REDIS_HOST and REDIS_PORT, or REDIS_URL, the firewall, and whether it has TLS."


async def _permitted(client: Any, settings: Settings, own: AgentSettings) -> Finding:
    """What the user of Redis may do, tried on keys that do not exist and channels that only this host uses."""
    host = own.host
    tried: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        (registry_key(host), lambda: client.execute_command("EXPIRE", f"{registry_key(host)}", 90)),
    ]
    if own.secret:
        streams = (jobs_stream(host), reply_stream(host, "check"))
        tried += [(stream, partial(client.execute_command, "XLEN", stream)) for stream in streams]
    if speaks_dialects(settings):
        channels = (answer_channel(host), command_channel(host))
        tried += [(channels[0], lambda: client.execute_command("PUBLISH", channels[0], "{}"))]
        tried += [(channels[1], lambda: _subscribe(client, channels[1]))]
    for name, attempt in tried:
        try:
            await attempt()
        except NoPermissionError:
            hint = f"`{verb(f'host rotate {host}')}` on the server prints its rules." if own.secret else "Permit it."
            return Finding("acl", f"the user of Redis may not use {name}. {hint}")
        except (RedisError, OSError) as error:
            return Finding("acl", f"{name} cannot be used: {error}.")
    return Finding("acl")


async def _subscribe(client: Redis, channel: str) -> None:
    async with client.pubsub() as listening:
        await listening.subscribe(channel)
        await listening.get_message(timeout=PATIENCE)


async def _clock(client: Redis) -> Finding:
    try:
        seconds, micros = await client.time()
    except (RedisError, OSError):
        return Finding("clock", "Redis does not permit TIME, so the clocks cannot be compared.")
    drift = time.time() - (seconds + micros / 1e6)
    if abs(drift) <= MOST_DRIFT:
        return Finding("clock")
    direction = "ahead of" if drift > 0 else "behind"
    return Finding(
        "clock", f"it is {abs(drift):.0f} s {direction} that of Redis. Start a time service (NTP) on both machines."
    )


def _protection(settings: Settings) -> Finding:
    try:
        guard = build_guard(settings, rooms=False)
    except (GatepostError, OSError) as error:
        return Finding("protection", f"{error}.")
    refusal = guard.unprotected()
    return Finding("protection", f"{refusal.reason} `{verb('protection')}` shows why." if refusal else "")


def _handlers(settings: Settings, own: AgentSettings) -> Finding:
    try:
        find_handlers(settings, own)
    except GatepostError as error:
        return Finding("handlers", str(error))
    return Finding("handlers")


def _repository(path: str, settings: Settings) -> Finding:
    name, folder = f"repository {path}", Path(path)
    if not (folder / GIT_FOLDER).exists():
        return Finding(name, "there is no clone. Clone it, or change GIT_REPO_PATH.")
    owner = find_owner(settings.run_as)
    uid = folder.stat().st_uid
    if owner and uid == 0:
        return Finding(name, f"it belongs to root, and git never runs as root: chown -R {settings.run_as} {path}.")
    if owner is None and uid != os.geteuid():
        return Finding(name, f"it does not belong to the user of the agent, as whom git runs: chown -R it {path}.")
    if closed := closed_parent(folder, (uid, owner[1]) if owner else None):
        return Finding(name, f"its owner may not pass through {closed}: chmod o+x {closed}.")
    return Finding(name)


def _docker(settings: Settings, own: AgentSettings) -> Iterator[Finding]:
    if not own.containers:
        return
    if find_program(own.docker_command) is None:
        found = shutil.which(own.docker_command)
        where = f" It is {found}: set GATEPOST_DOCKER_COMMAND to that." if found else ""
        yield Finding("docker", f"{own.docker_command} is not installed in a standard folder.{where}")
    elif own.docker_command == "docker" and (problem := _socket(settings)):
        yield Finding("docker", problem)
    else:
        yield Finding("docker")


def _socket(settings: Settings) -> str:
    """Why commands cannot use the socket of Docker; empty if they can, or there is none."""
    try:
        found = DOCKER_SOCKET.stat()
    except OSError:
        return f"there is no {DOCKER_SOCKET}. Start Docker, or name no container: DOCKER_CONTAINER_NAME=,"
    owner = find_owner(settings.run_as)
    if owner is None:
        return (
            ""
            if os.access(DOCKER_SOCKET, os.R_OK | os.W_OK)
            else "this user may not use Docker: add it to the group docker."
        )
    open_to = (owner[0] == found.st_uid and stat.S_IWUSR) or (owner[1] == found.st_gid and stat.S_IWGRP) or stat.S_IWOTH
    if found.st_mode & open_to:
        return ""
    return f"{settings.run_as} may not use {DOCKER_SOCKET}. Run the agent as a user of its own in the group docker, not as root."
