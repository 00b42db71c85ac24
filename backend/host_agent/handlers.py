"""What a host can be asked to do: a handler for each command, those of Gatepost and those of the operator.

An operator writes handlers in a Python file, which AGENT_HANDLERS names, or in a package with the entry point group
`gatepost.handlers`:

    from backend.host_agent.handlers import HandlerError, handler

    @handler(timeout=120)
    async def deploy(params):
        if params.get("version") not in {"1", "2"}:
            raise HandlerError("There is no such version.")
        return {"deployed": params["version"]}
"""

import importlib.metadata
import importlib.util
import inspect
import os
import stat
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from backend.core.dataclasses import dataclass
from backend.core.errors import GatepostError, reason_of
from backend.core.policy.profile_file import PROGRAM_NAME

TIMEOUT = 30.0  # seconds of a handler that names none
GROUP = "gatepost.handlers"
Run = Callable[[Mapping[str, Any]], Awaitable[Any]]
AnyRun = TypeVar("AnyRun", bound=Run)


class HandlersError(GatepostError):
    """The handlers of AGENT_HANDLERS cannot be used."""


class HandlerError(Exception):
    """A handler refuses its parameters, or fails; the message is the error of the answer."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program that a handler starts in the cage: its words, the folder that it works in, its network."""

    argv: tuple[str, ...]
    folder: str
    network: bool


@dataclass(frozen=True, slots=True)
class ProgramHandler:
    """A command that runs a program. `plan` judges the parameters and raises HandlerError."""

    name: str
    timeout: float
    plan: Callable[[Mapping[str, Any]], Program]


@dataclass(frozen=True, slots=True)
class PythonHandler:
    """A command that runs Python code of the agent or of its operator."""

    name: str
    timeout: float
    run: Run


@dataclass(frozen=True, slots=True)
class QuickHandler:
    """A command whose answer is there at once, so that it waits for no other and needs no task. `answer` raises HandlerError."""

    name: str
    timeout: float
    answer: Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True, slots=True)
class LineHandler:
    """A command that runs a line under a policy of its own, like that of a terminal."""

    name: str
    timeout: float


Handler = ProgramHandler | PythonHandler | QuickHandler | LineHandler


def handler(name: str = "", *, timeout: float = TIMEOUT) -> Callable[[AnyRun], AnyRun]:
    """Make a command of an `async def handler(params) -> dict`. Its name is that of the function, unless one is given."""

    def mark(run: AnyRun) -> AnyRun:
        run.gatepost_handler = _checked(name or getattr(run, "__name__", ""), timeout, run)  # type: ignore[attr-defined]
        return run

    return mark


def _checked(name: str, timeout: float, run: Run) -> PythonHandler:
    if not PROGRAM_NAME.fullmatch(name):
        raise HandlersError(f"{name!r} cannot be the name of a command: use lower-case letters, digits, dot, dash, _.")
    if not inspect.iscoroutinefunction(run):
        raise HandlersError(f"The handler {name} must be an `async def`.")
    if not 0 < timeout <= 86400:
        raise HandlersError(f"The timeout of the handler {name} must be between 0 and 86400 seconds.")
    return PythonHandler(name, timeout, run)


def by_name(handlers: Iterable[Handler]) -> dict[str, Handler]:
    """The handlers by their names. Raises HandlersError if two have the same."""
    found: dict[str, Handler] = {}
    for each in handlers:
        if each.name in found:
            raise HandlersError(f"Two handlers have the name {each.name}.")
        found[each.name] = each
    return found


def handlers_of_file(path: Path) -> list[PythonHandler]:
    """The handlers that a Python file marks. Raises HandlersError."""
    _check_owner(path)
    spec = importlib.util.spec_from_file_location(f"gatepost_handlers_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise HandlersError(f"AGENT_HANDLERS: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except OSError as error:
        raise HandlersError(f"AGENT_HANDLERS: {path}: {reason_of(error)}") from error
    except Exception as error:  # whatever the operator's code raises, startup names the file
        raise HandlersError(f"AGENT_HANDLERS: {path}: {type(error).__name__}: {error}") from error
    found = [marked for value in vars(module).values() if (marked := getattr(value, "gatepost_handler", None))]
    if not found:
        raise HandlersError(f"AGENT_HANDLERS: {path} marks no function with @handler.")
    return found


def _check_owner(path: Path) -> None:
    """A file that the agent runs as itself may be changed by root and its user alone: so sshd and sudo have it for theirs.

    Raises HandlersError.
    """
    try:
        found = path.stat()
    except OSError:
        return  # reading it says why
    if found.st_uid not in (0, os.geteuid()) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        problem = (
            f"AGENT_HANDLERS: {path} can be changed by others. It must belong to root or to the user of the agent: "
        )
        raise HandlersError(f"{problem}chown it, and chmod go-w {path}.")


def installed_handlers() -> list[PythonHandler]:
    """The handlers of installed packages. An entry point is a marked function, or gets its own name. Raises HandlersError."""
    found = []
    for point in importlib.metadata.entry_points(group=GROUP):
        try:
            run = point.load()
        except Exception as error:  # whatever the package raises, startup names the entry point
            raise HandlersError(f"The entry point {point.name}: {type(error).__name__}: {error}") from error
        found.append(getattr(run, "gatepost_handler", None) or _checked(point.name, TIMEOUT, run))
    return found
