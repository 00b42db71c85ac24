"""With DEBUG: the runner stops when code changes, after what runs has ended, and starts again."""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.utils import autoreload


def watch(stop: Callable[[], None]) -> threading.Event:
    """Call `stop` when code changes; the event is set then."""
    changed = threading.Event()

    def notice(sender: object, file_path: Path, **_: Any) -> bool:
        if not changed.is_set():
            changed.set()
            stop()
        return True  # or Django would end this process

    autoreload.file_changed.connect(notice, weak=False)
    reloader = autoreload.StatReloader()
    threading.Thread(target=reloader.run, args=(threading.main_thread(),), daemon=True).start()
    return changed


def again() -> None:
    """Start this program again, in this process."""
    words = autoreload.get_child_arguments()
    os.execv(sys.executable, words)
