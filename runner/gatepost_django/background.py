"""A runner in the background: started, stopped, killed."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from gatepost_django.project import command_line
from gatepost_django.state import Folder, StateError

START = 30.0  # seconds until it has its lock
LAST = 6.0  # seconds in which a runner that is killed reports what it has killed
DEAD = 10.0  # seconds until the processes of its commands have ended too
TAIL = 2000  # characters of its errors that are shown


def start(project: Path, folder: Folder, name: str, verbosity: int) -> int:
    """The pid of a runner that was started. Raises StateError with what it has printed."""
    if (holder := folder.holder()) is not None:
        raise StateError(f"It runs already (pid {holder.get('pid')}). Stop it with `gatepost stop`.")
    options = ["--in-background", "--no-reload", "--name", name, "-v", str(verbosity)]
    line = command_line(project, "gatepost", "start", *options)
    with folder.errors.open("wb") as errors:
        started = subprocess.Popen(
            line, cwd=project, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
        )
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if started.poll() is not None:
            break
        if (folder.holder() or {}).get("pid") == started.pid:
            return started.pid
        time.sleep(0.05)
    said = folder.errors.read_text(errors="replace")[-TAIL:].strip()
    raise StateError(f"It did not start: {said or 'it printed nothing.'}")


def stop(folder: Folder, holder: Mapping[str, Any], waiting: Callable[[Folder], None]) -> None:
    """Ask it to stop, and wait until it has; `waiting` is called once when that takes long."""
    _signal(holder, signal.SIGTERM)
    if not _is_free(folder, 1.0):
        waiting(folder)
        while not _is_free(folder, 60.0):
            pass


def kill(folder: Folder, holder: Mapping[str, Any]) -> None:
    """Kill it with all its commands, which it reports if it still can. Raises StateError if something is left."""
    _signal(holder, signal.SIGQUIT)
    if _is_free(folder, LAST):
        return
    _signal(holder, signal.SIGKILL)  # the supervisors of its commands see that, and kill them
    if not _is_free(folder, DEAD):
        raise StateError(f"Processes of the runner are left: `fuser {folder.path / 'lock'}` lists them.")


def _signal(holder: Mapping[str, Any], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, KeyError):
        os.kill(int(holder["pid"]), number)


def _is_free(folder: Folder, seconds: float) -> bool:
    """Whether the lock is free, so that no process of the runner or its commands is left."""
    deadline = time.monotonic() + seconds
    while folder.holder() is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
