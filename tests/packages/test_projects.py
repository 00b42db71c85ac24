"""The page of the three projects, run as it is written, with packages from the registries of this machine."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.api.world import running_world
from tests.needs import need
from tests.packages.registries import environment, registry_hosts
from tests.serving import ROOT
from tests.test_examples import Example, Session, check, examples, run_page

EXAMPLES = examples((ROOT / "docs/projects.md").read_text())
PATIENCE = 540  # seconds for the whole page


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """The page after it was run; once more where a block failed, since a registry may fail once."""
    for tool in ("curl", "git", "node", "npm", "python3"):
        need(shutil.which(tool), tool)
    with _ran(tmp_path_factory.mktemp("page")) as first:
        if all(first.result(example)[0] == "0" for example in EXAMPLES):
            yield first
            return
    with _ran(tmp_path_factory.mktemp("again")) as second:
        yield second


@contextmanager
def _ran(folder: Path) -> Iterator[Session]:
    with running_world(folder, environment()) as world:
        own = {"TOKEN": world.tokens["ann"], "ADMIN": world.tokens["root"], "HOSTS": json.dumps(registry_hosts())}
        run_page(EXAMPLES, world.server, folder, variables=own, patience=PATIENCE)
        yield Session(world.server, folder)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_a_block_does_what_the_page_says(session: Session, example: Example) -> None:
    check(session, example)
