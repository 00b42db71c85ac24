"""Before a server of an ordinary user, so that its commands share this user."""

import importlib
import os
import resource
from pathlib import Path

from tests.preloaded import Before

MORE = (
    "alembic.command",
    "concurrent.futures.thread",
    "encodings.idna",
    *(
        f"encodings.utf_{width}_{order}" for width in (16, 32) for order in ("le", "be")
    ),  # what some random keys look like
    "sqlite3",
    "sqlite3.dbapi2",
)
LONELY = 54321  # a user who owns nothing else


def as_one_user(folder: Path, processes: int = 1000) -> Before:
    """What comes before a server whose commands run as its own user, who may have so many processes."""
    if os.geteuid() == 0:
        os.chown(folder, LONELY, LONELY)
    return "tests.e2e.as_user", LONELY, processes


def prepare(uid: int, processes: int) -> None:
    """Become the user, unless we are one already. PROCESSES is the most that the user may have."""
    for name in MORE:
        importlib.import_module(name)  # before, since the interpreter may be closed to that user
    resource.setrlimit(resource.RLIMIT_NPROC, (processes, processes))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
