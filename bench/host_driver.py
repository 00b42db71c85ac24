"""What one agent can take: jobs in its stream, many at once, from a driver that does nothing else."""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import SeenIds
from backend.core.hosts.naming import jobs_stream, reply_stream
from backend.runtime.clock import new_id

NAME, GROUP = "bench-driver", "server"
AT_ONCE = 64  # jobs
WAITS = 10_000  # ms for an answer


@dataclass
class Driver:
    """Speaks to the agent of a host as a server does."""

    client: Any  # Redis, whose types say that each answer may be awaitable
    party: Party
    seen: SeenIds = field(default_factory=SeenIds)

    @classmethod
    def of(cls, url: str, host: str, secret: str) -> "Driver":
        driver = cls(Redis.from_url(url), Party(host, secret))
        try:
            driver.client.xgroup_create(driver.replies, GROUP, id="0", mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        return driver

    @property
    def replies(self) -> str:
        return reply_stream(self.party.host, NAME)

    def rate(self, jobs: int) -> float:
        """How many echoes the agent answers in a second."""
        sent = ended = 0
        begun = time.perf_counter()
        while ended < jobs:
            more = min(AT_ONCE - (sent - ended), jobs - sent)
            pipeline = self.client.pipeline(transaction=False)
            for _ in range(more):
                pipeline.xadd(jobs_stream(self.party.host), {"m": self._echo()})
            pipeline.execute()
            sent += more
            ended += sum(self._ends())
        return jobs / (time.perf_counter() - begun)

    def _echo(self) -> bytes:
        now = time.time()
        body = {
            "execution": new_id(),
            "command": "echo",
            "params": {"message": "hi"},
            "actor": "bench",
            "timeout": 30,
            "stdin": False,
            "begins": True,
            "first": True,
            "after": 0,
            "expires": int(now) + 60,
            "server": NAME,
        }
        return self.party.seal("host", "run", body, secrets.token_hex(16), now)

    def _ends(self) -> Iterator[bool]:
        """Of each message that has arrived, whether it has the end of a job."""
        found = self.client.xreadgroup(GROUP, NAME, {self.replies: ">"}, count=AT_ONCE, block=WAITS)
        assert found, "the agent does not answer"
        messages = found[0][1]
        self.client.xack(self.replies, GROUP, *(id for id, _ in messages))
        self.client.xdel(self.replies, *(id for id, _ in messages))
        for _, fields in messages:
            message = self.party.open(fields[b"m"], "server", time.time(), self.seen)
            assert isinstance(message, Envelope), message
            end = message.body.get("end")
            assert not end or end["status"] == "succeeded", end
            yield bool(end)
