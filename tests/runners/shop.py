"""A server in this process with a Django project `shop`, and a runner that says exactly what a test has it say."""

import asyncio
import json
import socket
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from backend.accounts.authentication import Authenticator
from backend.accounts.credentials import Tokens, secret_hash
from backend.application.django_targets import DjangoTargets
from backend.application.runners import Runners
from backend.application.submission import CommandSpec
from backend.core.audit.attempts import Record
from backend.core.django.ports import RunnerKey
from backend.core.django.runs import Patience
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import TargetRef
from backend.core.execution.wakeups import Wakeups
from backend.core.identity import Principal
from backend.core.ids import as_uuid
from backend.core.limits import Rate
from backend.core.recording.lines import LineAssembler
from backend.executors.django.remote import DjangoExecutor
from backend.storage.limiter import MovingWindow
from backend.storage.memory.runners import MemoryRunners
from backend.transports.dependencies import Access
from backend.transports.problems import add_problems
from backend.transports.runner_api import LARGER_BODIES, RunnerGate, runner_routes
from backend.transports.security import Connections, Rejections, Security
from tests.client import BOUND
from tests.recipes.house import ANN, House, Shared, build, load_profile, shared

SECRET = "dc_" + "s" * 43
QUICK = Patience(timeout=0.2, gap=0.2, force=0.2, stop=0.4, silence=0.6)

Json = dict[str, Any]


@dataclass
class Shop:
    """The server, its project, and the runner. `now` is the time of the server in Unix seconds."""

    house: House
    store: MemoryRunners
    runners: Runners
    key: RunnerKey
    project: str
    common: Shared
    client: httpx.AsyncClient
    clock: "Moving"

    async def submit(self, line: str, who: Principal = ANN, **fields: Any) -> Waiting | Refused:
        spec = CommandSpec(line, TargetRef("django", "shop"), detached=True, **fields)
        answer = await self.house.service.submit(who, spec)
        assert isinstance(answer, Waiting | Refused)
        return answer

    async def waiting(self, line: str = "migrate --plan", **fields: Any) -> str:
        """The id of an execution that waits for the runner."""
        answer = await self.submit(line, **fields)
        assert isinstance(answer, Waiting), answer
        return answer.id

    async def say(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """One request of the runner, as the published ones send it."""
        sent = {
            "Authorization": f"Bearer {SECRET}",
            "Content-Type": "application/json",
            "X-Request-Timestamp": str(int(self.clock.now)),
            "X-Request-Nonce": str(uuid.uuid4()),
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        content = None if body is None else json.dumps(body)
        answer = await self.client.request(method, f"/api/runner/{path}", content=content, headers=sent)
        if method != "HEAD":
            assert isinstance(answer.json(), dict), answer.text
        return answer

    async def start(self, id: str, **headers: str) -> httpx.Response:
        return await self.say("POST", f"executions/{as_uuid(id)}/start/", **headers)

    async def output(self, id: str, number: int, text: str, *, stderr: bool = False) -> httpx.Response:
        segments = [{"timestamp": 1.5, "content": text}]
        body = {"chunk_number": number, "segments": segments, "is_stderr": stderr}
        return await self.say("POST", f"executions/{as_uuid(id)}/output/", body)

    async def complete(self, id: str, code: int = 0, status: str = "success") -> httpx.Response:
        return await self.say("POST", f"executions/{as_uuid(id)}/complete/", {"exit_code": code, "status": status})

    async def stop_level(self, id: str) -> tuple[bool, bool]:
        answer = (await self.say("GET", f"executions/{as_uuid(id)}/cancel-status/")).json()
        return answer["cancel_requested"], answer["force_kill"]

    async def pending(self, wait: str = "") -> list[Json]:
        answer = await self.say("GET", f"pending/{wait}")
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["executions"]
        return found

    async def ended(self, id: str) -> Record:
        """The record once it has ended."""
        async with asyncio.timeout(BOUND):
            while True:
                record = await self.common.executions.get(id)
                if record and record.status.is_final:
                    return record
                await asyncio.sleep(0.01)

    async def messages(self, id: str) -> list[Json]:
        """All that was recorded, once it has ended."""
        seen: list[Json] = []

        async def send(block: bytes) -> None:
            seen.extend(map(json.loads, block.splitlines()))

        async with asyncio.timeout(BOUND):
            await self.house.service.follow(ANN, id, 0, send)
        return seen

    async def recorded(self, id: str) -> list[str]:
        """The lines of its output, with the stream before those of standard error."""
        lines = [
            f"{'! ' if each['type'] == 'stderr' else ''}{line}"
            for each in await self.messages(id)
            for line in each.get("lines", ())
        ]
        return [line for line in lines if line.strip("! ")]

    def events(self, kind: str) -> list[Json]:
        return [dict(event.fields) | {"actor": event.actor} for event in self.common.audit.events if event.kind == kind]


class Moving:
    """The clock of the server."""

    def __init__(self) -> None:
        self.now = float(int(time.time()))

    def __call__(self) -> float:
        return self.now

    def ms(self) -> int:
        return int(self.now * 1000)


def with_django(
    house: House, common: Shared, store: MemoryRunners, wakeups: Wakeups, clock: Moving, patience: Patience = QUICK
) -> None:
    """Let a server have Django projects."""
    executor = DjangoExecutor(store, wakeups, LineAssembler, clock.ms, time.monotonic, 0.05, patience)
    house.resolver.django = DjangoTargets(
        common.projects, store, load_profile("django"), executor, house.resolver.limits, clock.ms
    )


@asynccontextmanager
async def open_shop(patience: Patience = QUICK, recheck: float = 5.0) -> AsyncIterator[Shop]:
    """The server, which listens."""
    common = shared()
    house, clock, wakeups = build(common), Moving(), Wakeups()
    store = MemoryRunners(common.projects, clock.ms, common.new_id)
    with_django(house, common, store, wakeups, clock, patience)
    house.gateway.lifecycle.enqueued = wakeups.wake
    runners = Runners(store, house.runner, common.executions, common.audit, wakeups, str, clock.ms, recheck)
    assert ANN.user
    project = await common.projects.add("shop", ANN.user.id)
    key = await store.add_key(project.id, "production", secret_hash(SECRET))
    async with _listening(_app(common, runners, clock)) as url:
        async with httpx.AsyncClient(base_url=url, timeout=BOUND, verify=False) as client:
            yield Shop(house, store, runners, key, project.id, common, client, clock)
        await house.gateway.close()


def _app(common: Shared, runners: Runners, clock: Moving) -> FastAPI:
    window = MovingWindow(Rate(10_000, 60))
    tokens = Authenticator(
        common.identities, Tokens(b"k" * 64, lambda: 0.0, common.new_id), common.clock, time.monotonic
    )
    security = Security(Connections(100, 100), (), 0, True, None, tokens, window, common.new_id)
    access = Access(security, common.audit, window, Rejections(common.audit, window), str)
    app = FastAPI(max_body_size=256 * 1024)
    add_problems(app, access.rejected, LARGER_BODIES)
    gate = RunnerGate(access, runners, secret_hash, MovingWindow(Rate(5, 60)), clock)
    app.include_router(runner_routes(gate))
    return app


@asynccontextmanager
async def _listening(app: FastAPI) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        settings: Json = {"http": "h11", "ws": "none", "lifespan": "off", "log_config": None}
        server = uvicorn.Server(uvicorn.Config(app, **settings))
        serving = asyncio.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
