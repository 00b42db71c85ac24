"""The examples of docs/schedules.md, docs/notifications.md and docs/hooks.md, run as they are written, in order, in one shell, against a real server."""

import shutil

from tests.conftest import StartServer
from tests.needs import need
from tests.serving import ROOT
from tests.test_examples import Session, check, examples, run_page


def test_the_pages_do_what_they_say(start_server: StartServer) -> None:
    need(shutil.which("curl"), "curl")
    pages = (ROOT / "docs" / name for name in ("schedules.md", "notifications.md", "hooks.md"))
    blocks = examples("\n".join(page.read_text() for page in pages))
    server = start_server()
    (server.folder / "run.py").symlink_to(ROOT / "run.py")
    run_page(blocks, server, server.folder)
    for block in blocks:
        check(Session(server, server.folder), block)
    assert sum(block.shown is not None for block in blocks) > 4
