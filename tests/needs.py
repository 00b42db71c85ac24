"""Tools that some tests want. CI sets CI_REQUIRE_TOOLS=1, so that there no test is skipped for want of one."""

import os

import pytest


def need(found: object, what: str) -> None:
    """Skip the test when `what` was not found; fail where CI_REQUIRE_TOOLS=1 says that it has to be there."""
    if found:
        return
    if os.environ.get("CI_REQUIRE_TOOLS") == "1":
        pytest.fail(f"{what} is wanted here")
    pytest.skip(f"{what} is not here")
