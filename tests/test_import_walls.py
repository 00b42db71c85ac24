"""The table of docs/design.md: which room may import what."""

import ast
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
    "cryptography",
    "jwt",
    "limits",
    "prometheus_client",
    "pwdlib",
    "pydantic",
    "pydantic_settings",
    "redis",
    "sqlalchemy",
    "structlog",
}
COMMAND_LINE = {"backend.core", "backend.credentials", "backend.settings", "backend.storage", "backend.stores"}
ROOMS = {
    "core": {"backend.core"},
    "execution": {"backend.core", "backend.execution"},
    "storage": {"backend.core", "backend.storage", "alembic", "limits", "redis", "sqlalchemy"},
    "transports": {"backend.core", "backend.transports", "pydantic", *WEB},
    "settings.py": {"backend.core", "pydantic", "pydantic_settings"},
    "clock.py": {"backend.core"},
    "whoami.py": set(),
    "profiles.py": {"backend.core"},
    "credentials.py": {"backend.core", "cryptography", "jwt", "pwdlib"},
    "authentication.py": {"backend.core", "backend.credentials", "backend.storage"},
    "directory.py": {"backend.core", "backend.execution", "backend.profiles", "backend.storage"},
    "accounts_cli.py": {"backend.clock", "backend.whoami", *COMMAND_LINE},
    "audit_cli.py": {"backend.whoami", *COMMAND_LINE},
    "recovery.py": {"backend.core", "backend.storage"},
    "stores.py": {"backend.clock", "backend.core", "backend.credentials", "backend.settings", "backend.storage"},
    "chores.py": {
        *("backend.clock", "backend.core", "backend.recovery", "backend.settings", "backend.storage", "backend.stores"),
        "structlog",
    },
    "guard.py": {"backend.core", "backend.execution", "backend.settings"},
    "telemetry.py": {"backend.core", "structlog", "prometheus_client"},
}
EXTRA = {"core/messages.py": {"pydantic"}}
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


def breaches(module: str, source: str) -> list[str]:
    """What `module` imports against the table."""
    room = next((room for room in ROOMS if module.split("/")[0] == room), None)
    if room is None:
        return []
    allowed = ROOMS[room] | EXTRA.get(module, set())
    found = []
    for name in imports(source):
        top = name.split(".")[0]
        foreign = top in LIBRARIES | {"backend"} and not within(name, allowed)
        impure = room == "core" and (top in IMPURE or (top == "asyncio" and module != "core/gateway.py"))
        if foreign or impure:
            found.append(name)
    return found


@pytest.mark.parametrize("module", MODULES)
def test_the_walls_hold(module: str) -> None:
    assert breaches(module, (BACKEND / module).read_text()) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core/policy.py", "import os"),
        ("core/limits.py", "import asyncio"),
        ("core/policy.py", "from pydantic import BaseModel"),
        ("core/gateway.py", "from backend.storage import recordings"),
        ("execution/local.py", "import backend.storage.recordings"),
        ("storage/recordings.py", "from fastapi import FastAPI"),
        ("transports/door.py", "from backend.execution.local import LocalExecutor"),
        ("profiles.py", "from backend.settings import Settings"),
    ],
)
def test_a_breach_is_found(module: str, source: str) -> None:
    assert breaches(module, source)


def test_only_settings_read_the_environment() -> None:
    for module in set(MODULES) - {"settings.py"}:
        source = (BACKEND / module).read_text()
        assert not {"os.environ", "os.getenv", "getenv("} & {
            part for part in ("os.environ", "os.getenv") if part in source
        }, module


def test_no_shell_is_ever_started() -> None:
    for module in MODULES:
        source = (BACKEND / module).read_text()
        assert "shell=True" not in source
        assert "create_subprocess_shell" not in source
        assert "os.system" not in source


def test_nobody_imports_the_wiring() -> None:
    for module in MODULES:
        if module != "__main__.py":
            assert "backend.server" not in set(imports((BACKEND / module).read_text())), module


@pytest.mark.parametrize(
    "module", [module for module in MODULES if "__init__" not in module and "versions" not in module]
)
def test_functions_stay_short(module: str) -> None:
    for node in ast.walk(ast.parse((BACKEND / module).read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno
            assert node.end_lineno - node.lineno < 45, f"{module}: {node.name}"
