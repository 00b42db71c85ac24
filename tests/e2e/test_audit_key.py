"""The key of the audit is changed under a server that runs."""

import asyncio
import shutil
from pathlib import Path

from tests.accounts import gatepost
from tests.client import LINES, output, terminal
from tests.conftest import StartServer


async def test_a_server_that_runs_goes_on_with_the_other_key(start_server: StartServer, tmp_path: Path) -> None:
    server = start_server()
    shutil.copy(server.data_dir / "audit.pub", tmp_path / "old.pub")

    async def verb(*words: str) -> str:
        return (await asyncio.to_thread(gatepost, server.folder, "audit", *words)).stdout

    async with terminal(server, LINES) as client:
        for _ in range(2):
            assert output(await client.run("echo one")) == "one\n"
            await verb("rotate-key")
        assert output(await client.run("echo two")) == "two\n"
    for words in ([], ["--public-key", str(tmp_path / "old.pub")]):
        assert (await verb("verify", *words)).count("replaced the key by a new one") == 2
    assert server.stop() == 0
    assert (server.data_dir / "audit.pub").read_bytes() != (tmp_path / "old.pub").read_bytes()
    assert "as it was written" in await verb("verify")
    assert "error" not in server.stdout
