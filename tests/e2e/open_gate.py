"""A policy that lets everything through, for tests of what holds without one, and the programs of an attacker."""

import json
from pathlib import Path
from typing import Any

from tests.client import Message, Terminal
from tests.serving import Server

PROGRAMS = ("bash", "cat", "echo", "python3", "sleep", "yes")
POLICY = """
name = "open"
summary = "Everything."
operators = ["|", "&&", "||", ";", ">", ">>", "<", "2>&1", "cd"]

[limits]
characters = 1000
arguments = 50
"""
PROGRAM = """
[programs.{name}]
summary = "Anything."
arguments = "any"
"""
REPORT = "report.json"
# The words of an attack, each tried by itself: what it got, or nothing.
TRIES = """
import ctypes, glob, itertools, json, os, shutil, signal, socket, subprocess, sys
from pathlib import Path
worked = {{}}
def attempt(name, action):
    try:
        got = action()
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return
    if got is not None and got is not False:
        worked[name] = str(got)[:200]
def read(path):
    # Not blocking: the command's own input is a pipe that stays open.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as file:
        return file.read(1 << 20)
{script}
with open("{report}", "w") as file:
    json.dump(worked, file)
"""


def open_policy(folder: Path) -> dict[str, str]:
    """Settings of a server that runs PROGRAMS with any words."""
    path = folder / "open.toml"
    path.write_text(POLICY + "".join(PROGRAM.format(name=name) for name in PROGRAMS))
    return {"GATEPOST_PROFILE": str(path)}


def give(server: Server, name: str, text: str) -> None:
    """Put a file into the workspace that commands can read."""
    path = server.workspace / name
    path.write_text(text)
    path.chmod(0o644)


async def attack(client: Terminal, server: Server, script: str) -> tuple[dict[str, str], list[Message]]:
    """Run Python in a command; what it reports to have worked, by name, and the messages."""
    give(server, "attack.py", TRIES.format(script=script, report=REPORT))
    report = server.workspace / REPORT
    report.unlink(missing_ok=True)
    messages = await client.run("python3 attack.py", 60)
    assert report.exists(), messages
    found: dict[str, Any] = json.loads(report.read_text())
    return found, messages
