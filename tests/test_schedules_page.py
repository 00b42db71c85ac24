"""The examples of docs/schedules.md, run as they are written, in order, in one shell, against a real server."""

import shutil

from tests.conftest import StartServer
from tests.needs import need
from tests.serving import ROOT
from tests.test_examples import Session, check, examples, run_page


def test_the_page_does_what_it_says(start_server: StartServer) -> None:
    need(shutil.which("curl"), "curl")
    blocks = examples((ROOT / "docs/schedules.md").read_text())
    server = start_server()
    (server.folder / "run.py").symlink_to(ROOT / "run.py")
    run_page(blocks, server, server.folder)
    for block in blocks:
        check(Session(server, server.folder), block)
    assert sum(block.shown is not None for block in blocks) > 4
