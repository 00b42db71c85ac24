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
ACCEPTED = 10.0  # seconds until the server has answered
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
    has_begun = _waited(lambda: started.poll() is not None or _pid(folder) == started.pid, START)
    if has_begun and started.poll() is None:
        _waited(lambda: folder.reported(started.pid).get("server", "away") != "away", ACCEPTED)
        return started.pid
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


def _pid(folder: Folder) -> object:
    return (folder.holder() or {}).get("pid")


def _is_free(folder: Folder, seconds: float) -> bool:
    """Whether the lock is free, so that no process of the runner or its commands is left."""
    return _waited(lambda: folder.holder() is None, seconds)


def _waited(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it became true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
