"""Of the large bodies of an account one is read at a time; those of strangers are in `tests.api.test_bad_input`."""

import asyncio
from typing import Any

from fastapi import Request

from backend.transports.large_bodies import SMALL, LargeBodies


class Runners:
    """An application that runners call, whose account is their token."""

    def __init__(self) -> None:
        self.reading: list[str] = []
        self.done = asyncio.Event()
        known: Any = None  # of other clients
        self.bodies = LargeBodies(self._read, known, "/api/runner", self._account_of, "/hooks/")

    async def _account_of(self, request: Request) -> str | None:
        return request.headers["authorization"]

    async def _read(self, scope: Any, receive: Any, send: Any) -> None:
        self.reading.append(scope["headers"][0][1].decode())
        await self.done.wait()

    def call(self, account: str, size: int = SMALL + 1, method: str = "POST") -> asyncio.Task[None]:
        headers = [(b"authorization", account.encode()), (b"content-length", b"%d" % size)]
        scope = {"type": "http", "method": method, "path": "/api/runner/commands/sync/", "headers": headers}
        no: Any = None
        return asyncio.create_task(self.bodies(scope, no, no))


async def test_of_an_account_one_is_read_at_a_time() -> None:
    runners = Runners()
    calls = [runners.call("ann"), runners.call("ann"), runners.call("bob")]
    others = [runners.call("ann", size=SMALL), runners.call("ann", method="GET")]  # a poll waits for long
    for _ in range(10):
        await asyncio.sleep(0)
    assert sorted(runners.reading) == ["ann", "ann", "ann", "bob"]
    runners.done.set()
    await asyncio.gather(*calls, *others)
    assert len(runners.reading) == 5
