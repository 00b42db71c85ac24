"""Accounts on a server of a test, and clients that show their tokens."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests import preloaded
from tests.serving import ROOT, Server


def gatepost(
    folder: Path, *words: str, env: Mapping[str, str] | None = None, code: int | None = 0
) -> "subprocess.CompletedProcess[str]":
    """Run a verb on the data folder in `folder`; fails when it ends with another code."""
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "GATEPOST_DATA_DIR": str(folder / "data"),
        **(env or {}),
    }
    done = preloaded.run(words, folder, environment)
    assert code is None or done.returncode == code, done.stdout + done.stderr
    return done


def new_token(folder: Path, name: str, env: Mapping[str, str] | None = None) -> str:
    """A new account, in whose place any program may run, and a token of it."""
    gatepost(folder, "user", "add", name, "--no-password", "--profile", "terminal", env=env)
    return gatepost(folder, "token", "create", "--user", name, "--name", "test", env=env).stdout.strip()


def client(server: Server, token: str) -> httpx.AsyncClient:
    """A client of the API."""
    headers = {"authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, timeout=30, trust_env=False, verify=False)


async def begin(api: httpx.AsyncClient, script: str, **fields: Any) -> str:
    """Start a script; the id of its execution."""
    answer = await api.post("/api/executions", json={"command": f"pyguard bash -c '{script}'", **fields})
    assert answer.status_code == 202, answer.text
    id: str = answer.json()["id"]
    return id
