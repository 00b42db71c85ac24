"""A cage for the tests of a file, which share the folder of its binary."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.executors.local.launcher import CageLauncher
from tests.executors.local.caged import RUN_AS, Cage, folder, roomy


@pytest.fixture(scope="module")
def cache() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture(params=["alone", "in a room"])
def cage(cache: Path, request: pytest.FixtureRequest) -> Iterator[Cage]:
    """With and without namespaces: what holds, holds for both."""
    if request.param == "in a room":
        with roomy(cache) as cage:
            yield cage
        return
    with folder() as workspace:
        yield Cage(CageLauncher(cache, RUN_AS), workspace)
