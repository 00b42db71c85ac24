"""The usual commands of an agent: echo, git_pull, git_status, docker_restart. Each judges its parameters."""

import os
import re
from collections.abc import Collection, Mapping
from typing import Any

from backend.core.dataclasses import dataclass
from backend.host_agent.handlers import Handler, HandlerError, Program, ProgramHandler, QuickHandler

ECHO_TIMEOUT = 5.0  # seconds
STATUS_TIMEOUT = 10.0
# What git itself permits in the name of a branch, without what could be read as an option or as another kind of name.
BRANCH = re.compile(r"(?!.*(\.\.|//|@\{|\.lock(/|$)|/\.|\.$|/$))[A-Za-z0-9_][A-Za-z0-9_./@+-]{0,199}")


@dataclass(frozen=True, slots=True)
class Configured:
    """What the operator of a host permits: repositories by path, containers by name, and the timeouts in seconds."""

    repositories: Collection[str]
    containers: Collection[str]
    git_timeout: float
    docker_timeout: float
    folder: str  # for programs without a repository


def _echo(params: Mapping[str, Any]) -> str:
    return _text(params, "message", "pong")


def builtin_handlers(configured: Configured) -> list[Handler]:
    """The handlers of this host."""

    def pull(params: Mapping[str, Any]) -> Program:
        _only(params, "repository_path", "branch")
        branch, repository = _branch(params), _repository(params, configured)
        return Program(("git", "-C", repository, "pull", "origin", branch), repository, network=True)

    def status(params: Mapping[str, Any]) -> Program:
        _only(params, "repository_path")
        repository = _repository(params, configured)
        return Program(("git", "-C", repository, "status"), repository, network=False)

    def restart(params: Mapping[str, Any]) -> Program:
        _only(params, "container_name")
        return Program(("docker", "restart", _container(params, configured)), configured.folder, network=True)

    return [
        QuickHandler("echo", ECHO_TIMEOUT, _echo),
        ProgramHandler("git_pull", configured.git_timeout, pull),
        ProgramHandler("git_status", min(configured.git_timeout, STATUS_TIMEOUT), status),
        ProgramHandler("docker_restart", configured.docker_timeout, restart),
    ]


def _only(params: Mapping[str, Any], *names: str) -> None:
    for name in params:
        if name not in names:
            raise HandlerError(f"Unknown parameter: {name[:64]}. Known here: {', '.join(names)}.")


def _text(params: Mapping[str, Any], name: str, default: str = "") -> str:
    value = params.get(name, default)
    if not isinstance(value, str) or "\0" in value:
        raise HandlerError(f"The parameter {name} must be a text without NUL.")
    return value


def _repository(params: Mapping[str, Any], configured: Configured) -> str:
    path = _text(params, "repository_path")
    path = _listed("Repository path", path, configured.repositories, "GIT_REPO_PATH")
    if not os.path.isdir(path):
        hint = "Its operator must clone the repository to it or correct GIT_REPO_PATH; `agent --check` looks at all of them."
        raise HandlerError(f"There is no folder {path} on this host, or its agent may not enter it. {hint}")
    return path


def _branch(params: Mapping[str, Any]) -> str:
    branch = _text(params, "branch", "main")
    if not BRANCH.fullmatch(branch):
        raise HandlerError(f"Branch not allowed: {branch[:200]!r} is not the plain name of a branch.")
    return branch


def _container(params: Mapping[str, Any], configured: Configured) -> str:
    name = _text(params, "container_name")
    return _listed("Container name", name, configured.containers, "DOCKER_CONTAINER_NAME")


def _listed(what: str, value: str, permitted: Collection[str], setting: str) -> str:
    """The value, if the operator permits it."""
    if value not in permitted:
        raise HandlerError(f"{what} not allowed: {value[:200]!r}. {setting} of this host lists those that are.")
    return value
