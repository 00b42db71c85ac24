"""One server with accounts and projects for all tests of the API, with limits that nobody meets."""

from collections.abc import Iterator

import pytest

from tests.api.world import VISITOR_TOKEN, World, running_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, reachable: None) -> Iterator[World]:
    """Visitors have to show a token here; everybody else has one of an account."""
    with running_world(tmp_path_factory.mktemp("world"), {"GATEPOST_ACCESS_TOKEN": VISITOR_TOKEN}) as running:
        yield running
