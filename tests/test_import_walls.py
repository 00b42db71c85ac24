"""The table of docs/design.md: which room may import what."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BACKEND = Path(__file__).parent.parent / "backend"
IMPURE = {
    "os",
    "time",
    "socket",
    "subprocess",
    "signal",
    "random",
    "secrets",
    "shutil",
    "tempfile",
    "threading",
    "select",
}
WEB = {"fastapi", "starlette", "slowapi", "uvicorn", "websockets"}
LIBRARIES = WEB | {
    "alembic",
    "cronsim",
    "cryptography",
    "jwt",
    "limits",
    "prometheus_client",
    "pwdlib",
    "pydantic",
    "redis",
    "sqlalchemy",
    "structlog",
    "tree_sitter",
    "tree_sitter_bash",
}
ROOMS = {
    "core": {"backend.core"},
    "application": {"backend.core", "backend.application"},
    "accounts": {"backend.core", "backend.accounts", "cryptography", "jwt", "pwdlib"},
    "executors": {"backend.core"},  # and their own room
    "storage": {"backend.core", "backend.storage", "alembic", "limits", "redis", "sqlalchemy"},
    "bus": {"backend.core", "backend.bus", "redis"},
    "host_agent": {
        "backend.core",
        "backend.application",
        "backend.bus.exchange",
        "backend.bus.expiry",
        "backend.bus.link",
        "backend.host_agent",
        "redis",
    },
    "policies": {"backend.core"},
    "notifiers": {"backend.core", "backend.notifiers"},
    "transports": {"backend.core", "backend.application", "backend.transports", "pydantic", *WEB},
}
# Within core. The leaves know nothing of the rooms; the rooms know the leaves and what stands here; what is above them
# may know all of core.
CORE_LEAVES = {
    "client_address",
    "dataclasses",
    "decisions",
    "errors",
    "figures",
    "identity",
    "ids",
    "limits",
    "recent_logins",
    "threads",
    "times",
}
CORE_ABOVE = {"execution", "ports", "quota"}
CORE_ROOMS = {
    "django": {"backend.core.execution.model"},
    "hooks": {"backend.core.execution.model", "backend.core.notifications.rules"},
    "hosts": set[str](),
    "language": set[str](),
    "policy": {"backend.core.language"},
    "recording": set[str](),
    "audit": {"backend.core.execution.model", "backend.core.recording.digest"},
    "schedules": {"backend.core.execution.model"},
    "notifications": {"backend.core.execution.model", "backend.core.audit.attempts"},
}
EVERYTHING = {"runtime", "cli", "server.py", "__main__.py", "__init__.py"}
EXTRA = {
    "core/language/bash.py": {"time", "tree_sitter", "tree_sitter_bash"},  # a parser written in C, bounded by time
    "core/schedules/cron.py": {"cronsim"},
    "core/recording/messages.py": {"pydantic"},
}
MODULES = [str(path.relative_to(BACKEND)) for path in BACKEND.rglob("*.py")]


def imports(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield node.module or ""


def within(name: str, allowed: set[str]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each in allowed)


def _within_core(module: str) -> set[str]:
    """What a module of core may import of core."""
    name = module.split("/")[1].removesuffix(".py")
    if name in CORE_ABOVE:
        return {"backend.core"}
    leaves = {f"backend.core.{leaf}" for leaf in CORE_LEAVES}
    return {*leaves, f"backend.core.{name}", *CORE_ROOMS[name]} if name in CORE_ROOMS else leaves


def breaches(module: str, source: str) -> list[str]:
    """What `module` imports against the table."""
    room = next((room for room in ROOMS if module.split("/")[0] == room), None)
    if room is None:
        return []
    allowed = (_within_core(module) if room == "core" else ROOMS[room]) | EXTRA.get(module, set())
    if room == "executors":
        allowed |= {".".join(["backend", *module.split("/")[:2]])}
    found = []
    for name in imports(source):
        top = name.split(".")[0]
        foreign = top in LIBRARIES | {"backend"} and not within(name, allowed)
        waits = top == "asyncio" and not module.startswith("core/execution/")
        impure = room == "core" and (top in IMPURE or waits) and not within(name, allowed)
        if foreign or impure:
            found.append(name)
    return found


def test_every_room_is_in_the_table() -> None:
    assert {module.split("/")[0] for module in MODULES} - EVERYTHING <= set(ROOMS)
    inner = {module.split("/")[1].removesuffix(".py") for module in MODULES if module.startswith("core/")}
    assert inner - {"__init__"} == CORE_LEAVES | CORE_ABOVE | set(CORE_ROOMS)


@pytest.mark.parametrize("module", MODULES)
def test_the_walls_hold(module: str) -> None:
    assert breaches(module, (BACKEND / module).read_text()) == []


@pytest.mark.parametrize("module", EXTRA)
def test_every_exception_is_used(module: str) -> None:
    assert EXTRA[module] <= set(imports((BACKEND / module).read_text()))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core/policy/profile.py", "import os"),
        ("core/limits.py", "import asyncio"),
        ("core/policy/profile.py", "from pydantic import BaseModel"),
        ("core/execution/gateway.py", "from backend.storage import recordings"),
        ("core/decisions.py", "from backend.core.language.lexer import Word"),
        ("core/limits.py", "from backend.core.execution.model import Status"),
        ("core/language/parser.py", "from backend.core.policy.profile import Profile"),
        ("core/policy/profile.py", "from backend.core.execution.targets import Target"),
        ("core/policy/profile.py", "from backend.core.recording.writer import Recorder"),
        ("core/recording/redaction/masks.py", "from backend.core.language.lexer import Word"),
        ("core/recording/writer.py", "from backend.core.execution.model import Status"),
        ("core/recording/transcript.py", "from backend.core.ports import History"),
        ("core/audit/attempts.py", "from backend.core.execution.gateway import Gateway"),
        ("core/audit/attempts.py", "from backend.core.recording.writer import Recorder"),
        ("core/audit/chain.py", "from backend.core.policy.admit import Plan"),
        ("executors/local/pipelines.py", "import backend.storage.recordings"),
        ("storage/recordings.py", "from fastapi import FastAPI"),
        ("executors/host/remote.py", "from backend.executors.local.pipelines import LocalPipelines"),
        ("transports/security.py", "from backend.executors.local.pipelines import LocalExecutor"),
        ("policies/loader.py", "from backend.runtime.settings import Settings"),
        ("application/executions.py", "from fastapi import FastAPI"),
        ("accounts/credentials.py", "from backend.storage.identities import Identities"),
        ("bus/redis.py", "from backend.storage.database import Database"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert breaches(module, source)


def test_the_runner_needs_nothing_of_the_server() -> None:
    """It is installed in other projects: with Django and requests, without the rest of this one."""
    allowed = {*sys.stdlib_module_names, "django", "requests", "gatepost_django"}
    for path in (BACKEND.parent / "runner").rglob("*.py"):
        assert {name.split(".")[0] for name in imports(path.read_text())} <= allowed, path.name


def test_only_settings_read_the_environment() -> None:
    for module in set(MODULES) - {"runtime/settings.py"}:
        source = (BACKEND / module).read_text()
        assert not {"os.environ", "os.getenv", "getenv("} & {
            part for part in ("os.environ", "os.getenv") if part in source
        }, module


def test_dataclasses_are_made_in_one_way() -> None:
    """The standard library takes four times as long, for hundreds of classes at each start."""
    for module in set(MODULES) - {"core/dataclasses.py"}:
        source = (BACKEND / module).read_text()
        assert not re.search(
            r"from dataclasses import.*\b(dataclass|replace)\b|dataclasses\.(dataclass|replace)\b", source
        ), module


def test_one_module_runs_what_was_admitted() -> None:
    """What it runs is audited and recorded before."""
    runs = [module for module in MODULES if re.search(r"\bexecutor\.run\(", (BACKEND / module).read_text())]
    assert runs == ["core/execution/lifecycle.py"]


def test_no_shell_is_ever_started() -> None:
    for module in MODULES:
        source = (BACKEND / module).read_text()
        assert not re.search(r"\bshell=True", source)
        assert "create_subprocess_shell" not in source
        assert "os.system" not in source


def test_nobody_imports_the_wiring() -> None:
    for module in MODULES:
        if module not in {"server.py", "cli/serve.py", "runtime/wiring.py"}:
            assert not {"backend.server", "backend.runtime.wiring", "backend.runtime.house"} & set(
                imports((BACKEND / module).read_text())
            ), module


@pytest.mark.parametrize(
    "module", [module for module in MODULES if "__init__" not in module and "versions" not in module]
)
def test_functions_stay_short(module: str) -> None:
    for node in ast.walk(ast.parse((BACKEND / module).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            assert node.end_lineno - node.lineno < 45, f"{module}: {node.name}"
