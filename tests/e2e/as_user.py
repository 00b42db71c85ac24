"""`python -m tests.e2e.as_user UID PROCESSES`: `serve` as an ordinary user, so that its commands share this user.

Everything is imported before, since the interpreter may be closed to that user.
"""

import importlib
import os
import resource
import sys
from pathlib import Path

from backend.executors.local.run_as import CAPABILITIES
from tests.preloaded import LOADED

MORE = ("alembic.command", "concurrent.futures.thread", "encodings.idna", "sqlite3", "sqlite3.dbapi2")
LONELY = 54321  # a user who owns nothing else


def as_one_user(folder: Path, processes: int = 1000) -> list[str]:
    """The words that start a server whose commands run as its own user, who may have so many processes."""
    if os.geteuid() == 0:
        os.chown(folder, LONELY, LONELY)
    return [sys.executable, "-m", "tests.e2e.as_user", str(LONELY), str(processes)]


def in_container(*without: str) -> list[str]:
    """The words that start a server with what the documented container has of root."""
    kept = ",".join(f"+{name.lower()}" for name in CAPABILITIES if name not in without)
    few = ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs"]
    return [*few, sys.executable, "-m", "backend", "serve"]


def main(uid: int, processes: int) -> int:
    """Become the user, unless we are one already. PROCESSES is the most that the user may have."""
    for name in (*LOADED, *MORE):
        importlib.import_module(name)
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    from backend.cli.main import main as serve

    return serve(["serve"])


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
