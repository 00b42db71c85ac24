"""Tools that some tests want. CI sets CI_REQUIRE_TOOLS=1, so that there no test is skipped for want of one."""

import os
import shutil
import sys

import pytest

from backend.executors.local.outside import SEARCH_PATH


def need(found: object, what: str) -> None:
    """Skip the test when `what` was not found; fail where CI_REQUIRE_TOOLS=1 says that it has to be there."""
    if found:
        return
    if os.environ.get("CI_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{what} is wanted here")
    pytest.skip(f"{what} is not here")


def caged_python() -> tuple[str, tuple[str, ...]]:
    """A Python that commands can run, and the folders that they have to be able to read for it."""
    installed = shutil.which("python3", path=SEARCH_PATH)
    return (installed, ()) if installed else (os.path.realpath(sys.executable), (sys.base_prefix,))
