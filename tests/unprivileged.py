"""A user without the privileges of root, whom modes stop."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NOBODY = 65534


@contextmanager
def unprivileged() -> Iterator[Path]:
    """Run as such a user, who owns the folder that this yields."""
    with tempfile.TemporaryDirectory() as name:
        if os.getuid():
            yield Path(name)
            return
        os.chown(name, NOBODY, -1)
        os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)
