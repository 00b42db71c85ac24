"""The instructions of a process, counted in the simulated processor of valgrind.

Valgrind shows its programs the same processor whichever one simulates it, so the C library and OpenSSL choose the same code
everywhere. Only the start is not simulated in detail: what is not counted is ten times as fast.
"""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EVENTS = re.compile(r"^events-\d+: (\d+)", re.MULTILINE)


def simulated(folder: Path, *words: str) -> list[str]:
    """The words that run Python under valgrind; `folder` is for what it finds."""
    found = folder / "found"
    return [
        "valgrind",
        "-q",
        "--tool=callgrind",
        "--instr-atstart=no",
        f"--callgrind-out-file={found}",
        sys.executable,
        *words,
    ]


@dataclass(frozen=True, slots=True)
class Counter:
    """Counts the user instructions of a process, all its threads."""

    pid: int

    def begin(self) -> None:
        """From here on it can count."""
        self._ask("instrumentation", "on")

    def counted(self, action: Callable[[], object]) -> int:
        """The instructions while `action` is done."""
        before = self._total()
        action()
        return self._total() - before

    def profiled(self, action: Callable[[], object]) -> None:
        """Store where the instructions of `action` were, next to what else valgrind finds."""
        self._ask("zero")
        action()
        self._ask("dump", "profile")

    def _total(self) -> int:
        return sum(map(int, EVENTS.findall(self._ask("status", "internal"))))

    def _ask(self, *words: str) -> str:
        line = ["vgdb", f"--pid={self.pid}", *words]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout
