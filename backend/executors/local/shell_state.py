"""What bash leaves of a line: its folder and the variables that it exported.

It writes them into a file in memory that only the programs of its own line have (`core/policy/shell.py` has the words for
that), so what one line writes there can only change its own session.
"""

import fcntl
import os
import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from backend.core.policy.line_state import LineState, normal
from backend.core.policy.shell import NOT_KEPT

SIZE = 64 * 1024  # bytes of a folder and all variables; the file neither grows nor shrinks
VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")


class StateError(Exception):
    """What was left does not fit into the file."""


def state_file() -> int:
    """The descriptor of a new file for what a line leaves; the caller closes it."""
    descriptor = os.memfd_create("state", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    return descriptor


def left_state(descriptor: int, given: Mapping[str, str]) -> LineState | None:
    """What a line has left, of the variables those with other values than the `given` ones. None where nothing was written.

    Raises StateError.
    """
    folder, *variables = os.pread(descriptor, SIZE, 0).split(b"\0")
    if not folder:
        return None
    if variables[-1:] != [b""]:
        raise StateError
    texts = (each.decode(errors="replace") for each in variables)
    exported = dict(_assignment(text) for text in texts if "=" in text and "\ufffd" not in text)
    kept = {name: value for name, value in exported.items() if _is_kept(name) and given.get(name) != value}
    return LineState(normal(PurePosixPath(folder.decode(errors="replace"))), exported=kept)


def _assignment(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _is_kept(name: str) -> bool:
    return bool(VARIABLE.fullmatch(name)) and not NOT_KEPT.fullmatch(name)
