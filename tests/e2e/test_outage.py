"""Redis or PostgreSQL is away for ten seconds under load: clear errors meanwhile, nothing lost or doubled afterwards."""

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from backend.core.execution.ownership import LEASE
from tests.accounts import begin, client, gatepost
from tests.client import terminal
from tests.e2e.services import Service, clients, running_service, until_said
from tests.serving import all_processes, files_below
from tests.storage.conftest import running_postgresql

COUNT = 2
AWAY = 10.0  # seconds
ANSWER_BOUND = 4.0  # seconds for any answer; 3 and what a busy machine adds
LAST_ANSWER_BOUND = (
    15.0  # seconds for a request that was half done as the outage began: up to three transactions, and load
)
HEALTH_BOUND = 3.0  # seconds
SETTLED_BOUND = 3 * LEASE + 15.0  # seconds until an execution of which nobody knows whether it was recorded is `lost`
REFUSALS = {"storage.unavailable", "execution.unreachable"}
TICKS = "for ((i = 0; ; i++)); do echo tick $i; sleep 0.1; done"
ECHO = "echo up; while read -r line; do echo got $line; done"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Any]]:
    with running_postgresql() as postgresql:
        postgresql.psql("create database outage")
        uri = postgresql.get_uri(database="outage")
        with running_service(tmp_path_factory.mktemp("outage"), uri, COUNT) as running:
            yield running, postgresql


def tree(pid: int) -> list[int]:
    """A process and its descendants."""
    everything, found = all_processes(), [pid]
    for each in found:
        found += [process.pid for process in everything.values() if process.parent == each]
    return found


def send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


class Outage:
    """A store that can go away and come back."""

    def __init__(self, service: Service, postgresql: Any, store: str, how: str) -> None:
        self.redis, self.postgresql = service.redis, postgresql
        self.store, self.how = store, how
        self._frozen: list[int] = []

    def begin(self) -> None:
        process = self.redis.process
        assert process
        pids = [process.pid] if self.store == "redis" else tree(self.postgresql.get_pid())
        if self.how == "frozen":
            self._frozen = pids
            send(pids, signal.SIGSTOP)
        elif self.store == "redis":
            self.redis.stop()
        else:
            send(pids, signal.SIGKILL)

    def end(self) -> None:
        if self.how == "frozen":
            send(self._frozen, signal.SIGCONT)
        elif self.store == "redis":
            self.redis.start()
        else:
            self.postgresql.ensure_postgres_running()


@dataclass(frozen=True)
class Asked:
    """A request, when it was sent, and its answer."""

    key: str
    sent: float
    seconds: float
    status: int
    body: dict[str, Any]


@dataclass
class Load:
    """What the clients ask until `over`, and what they are answered."""

    over: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[Asked] = field(default_factory=list)

    async def repeat(self, name: str, ask: Callable[[str], Any], pause: float) -> None:
        number = 0
        while not self.over.is_set():
            key = f"{name}-{number}"
            self.asked.append(await answered(key, ask))
            number += 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), pause)

    def of(self, prefix: str, *statuses: int) -> list[Asked]:
        return [each for each in self.asked if each.key.startswith(prefix) and each.status in statuses]

    async def until(self, count: int, prefix: str, *statuses: int) -> None:
        """Wait for so many more of these answers from each server."""
        names = [f"{prefix}{number}-" for number in range(COUNT)]
        before = {name: len(self.of(name, *statuses)) for name in names}
        with suppress(TimeoutError):
            async with asyncio.timeout(40):
                while any(len(self.of(name, *statuses)) < before[name] + count for name in names):
                    await asyncio.sleep(0.05)
                return
        pytest.fail(
            f"not answered with {statuses}: {[each for each in self.asked if prefix in each.key][-2 * COUNT :]}"
        )


async def answered(key: str, ask: Callable[[str], Any]) -> Asked:
    sent = time.monotonic()
    answer = await ask(key)
    return Asked(key, sent, time.monotonic() - sent, answer.status_code, answer.json())


def short(api: httpx.AsyncClient) -> Callable[[str], Any]:
    """Start a command that writes its key to a file."""

    def ask(key: str) -> Any:
        body = {"command": f"pyguard bash -c 'echo {key} >>ran.log'"}
        return api.post("/api/executions", json=body, headers={"idempotency-key": key})

    return ask


def line(api: httpx.AsyncClient, execution: str) -> Callable[[str], Any]:
    """Write a line to an execution."""
    return lambda key: api.post(f"/api/executions/{execution}/stdin", json={"data": f"{key}\n"})


def probe(api: httpx.AsyncClient, path: str) -> Callable[[str], Any]:
    return lambda _: api.get(path)


@dataclass
class Viewer:
    """Follows an execution to its end, from where it was when its stream ended early."""

    api: httpx.AsyncClient
    execution: str
    lines: list[tuple[int, str]] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    ended: bool = False

    async def follow(self) -> None:
        while not self.ended:
            headers = {"last-event-id": str(self.lines[-1][0])} if self.lines else {}
            with suppress(httpx.TransportError):
                async with self.api.stream(
                    "GET", f"/api/executions/{self.execution}/events", headers=headers
                ) as stream:
                    async for text in stream.aiter_lines():
                        self._take(text)
            await asyncio.sleep(0 if self.ended else 0.3)

    def _take(self, text: str) -> None:
        if text.startswith("data: ") and "seq" in (message := json.loads(text[6:])):
            self.at.append(time.monotonic())
            self.lines += numbered([message])
            self.ended = message["type"] == "complete"

    def silence(self, begin: float, end: float) -> float:
        """The longest time without a message meanwhile."""
        moments = [begin, *(at for at in self.at if begin < at < end), end]
        return max(later - earlier for earlier, later in pairwise(moments))


def numbered(messages: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """The lines of messages with their numbers; several in a row may share a message."""
    found = []
    for message in messages:
        texts = message.get("lines") or [message.get("line", message["type"])]
        found += [(message["seq"] + place, text) for place, text in enumerate(texts)]
    return found


@asynccontextmanager
async def tasks(*work: Any) -> AsyncIterator[list["asyncio.Task[None]"]]:
    running = [asyncio.create_task(each) for each in work]
    try:
        yield running
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


@pytest.mark.parametrize("how", ["frozen", "killed"])
@pytest.mark.parametrize("store", ["redis", "postgresql"])
async def test_an_outage_costs_clear_errors_and_nothing_else(
    service: tuple[Service, Any], store: str, how: str
) -> None:
    running, postgresql = service
    outage, load, mark = Outage(running, postgresql, store, how), Load(), f"{store}-{how}-"
    async with clients(running) as apis, terminal(running.servers[0]) as visitor:
        ticking = [await begin(api, TICKS) for api in apis]
        echoing = await begin(apis[0], ECHO, stdin=True)
        await until_said(running.servers[0], echoing)
        await visitor.start("cat")
        viewers = [Viewer(api, id) for id in (*ticking, echoing) for api in apis]
        own = [viewers[0], viewers[COUNT + 1]]
        work = [load.repeat(f"{mark}run{number}", short(api), 0.15) for number, api in enumerate(apis)]
        work += [load.repeat(f"{mark}line{number}", line(api, echoing), 0.15) for number, api in enumerate(apis)]
        for number, api in enumerate(apis):
            work += [load.repeat(f"{mark}health{number}", probe(api, path), 0.3) for path in ("/health", "/healthz")]
        async with tasks(*(viewer.follow() for viewer in viewers)) as following, tasks(*work) as loading:
            await load.until(5, f"{mark}run", 202)
            await load.until(5, f"{mark}line", 202)
            await asyncio.to_thread(outage.begin)
            began = time.monotonic()
            try:
                await visitor.send(type="stdin", data="meanwhile\n")
                assert (await visitor.until("stdout"))[-1]["line"] == "meanwhile"
                await visitor.send(type="run", command="pyguard true", id="no")
                refused = (await visitor.until("error", ANSWER_BOUND + 2))[-1]
                assert refused["rule"] == "storage.unavailable"
                await load.until(1, f"{mark}run", 503)
                await asyncio.sleep(max(0.0, began + AWAY - time.monotonic()))  # this is how long the outage lasts
            finally:
                ended = time.monotonic()
                await asyncio.to_thread(outage.end)
                back = time.monotonic()
            await load.until(5, f"{mark}run", 202)
            await load.until(5, f"{mark}line", 202)
            load.over.set()
            await asyncio.gather(*loading)
            for api, id in zip((*apis, apis[0]), (*ticking, echoing), strict=True):
                await api.post(f"/api/executions/{id}/cancel")
            async with asyncio.timeout(30):
                await asyncio.gather(*following)
        await visitor.send(type="stdin_close")
        assert (await visitor.until("complete"))[-1]["status"] == "succeeded"

        _check_answers(load, began, ended, back)
        assert [viewer.silence(began, ended) < ANSWER_BOUND for viewer in own] == [True] * COUNT
        _check_viewers(running, viewers, dict(zip((*ticking, echoing), (0, 1, 0), strict=True)))
        _check_input(viewers[-1], load, f"{mark}line")
        again = await _send_again(apis, load, f"{mark}run")
        await _check_executions(running, apis[0], load, again, f"{mark}run", (*ticking, echoing))


@pytest.mark.parametrize("store", ["redis", "postgresql"])
async def test_a_server_stops_in_time_although_a_store_is_frozen(service: tuple[Service, Any], store: str) -> None:
    running, postgresql = service
    server = running.servers[1]
    async with client(server, running.token) as api, terminal(server) as visitor:
        await visitor.start("cat")
        asked = [short(api), line(api, await begin(api, ECHO, stdin=True))]
        outage = Outage(running, postgresql, store, "frozen")
        await asyncio.to_thread(outage.begin)
        try:
            async with tasks(*(ask("k") for ask in asked)):
                await asyncio.to_thread(server.stop)
                assert (await visitor.until("complete"))[-1]["status"] == "cancelled"
        finally:
            await asyncio.to_thread(outage.end)
    await asyncio.to_thread(running.start, 1)


def _check_answers(load: Load, began: float, ended: float, back: float) -> None:
    """Every answer came in time, and those that are errors name their rule."""
    for each in load.asked:
        if "health" in each.key:
            assert (each.status, each.seconds < HEALTH_BOUND) == (200, True), each
            continue
        assert each.status in {202, 503}, each
        assert each.seconds < (ANSWER_BOUND if each.sent > began else LAST_ANSWER_BOUND), each
        if each.status == 503:
            assert each.body["rule"] in REFUSALS, each
            assert each.sent < back + ANSWER_BOUND, each
    # The limits fail closed: nothing is admitted that cannot be counted or recorded.
    meanwhile = [each for each in load.asked if "run" in each.key and began + 1 < each.sent < ended - ANSWER_BOUND - 1]
    assert {each.status for each in meanwhile} <= {503}  # none, when what was half done took until then


def _check_viewers(running: Service, viewers: list[Viewer], places: dict[str, int]) -> None:
    for viewer in viewers:
        recorded = numbered(running.servers[places[viewer.execution]].recording(viewer.execution))
        assert viewer.lines == recorded
        assert [seq for seq, _ in recorded] == list(range(1, len(recorded) + 1))


def _check_input(viewer: Viewer, load: Load, prefix: str) -> None:
    """What was accepted arrived once, what was refused at most once."""
    got = Counter(text.removeprefix("got ") for _, text in viewer.lines if text.startswith("got "))
    assert {each.key: got[each.key] for each in load.of(prefix, 202) if got[each.key] != 1} == {}
    assert [each.key for each in load.of(prefix, 503) if got[each.key] > 1] == []


async def _send_again(apis: list[httpx.AsyncClient], load: Load, prefix: str) -> list[Asked]:
    """Send what was refused again, with the same keys, to the same servers."""
    found = []
    for each in load.of(prefix, 503):
        number = int(each.key.removeprefix(prefix).partition("-")[0])
        found.append(await answered(each.key, short(apis[number])))
    # A key whose claim was written as the outage began cannot be used for a minute.
    waiting = [each for each in found if each.status != 202]
    assert {each.body["rule"] for each in waiting} <= {"idempotency.waiting"}
    assert len(waiting) <= COUNT
    return found


async def _check_executions(
    running: Service, api: httpx.AsyncClient, load: Load, again: list[Asked], prefix: str, others: tuple[str, ...]
) -> None:
    """One row, one recording with one end, one event of the end for each; and each ran once."""
    rows = await _settled(api)
    assert len({row["id"] for row in rows}) == len(rows)
    statuses = {row["id"]: row["status"] for row in rows}
    accepted = {each.key: each.body["id"] for each in (*load.of(prefix, 202), *again) if each.status == 202}
    recordings = {path.stem: path for server in running.servers for path in server.recordings.glob("*.ndjson")}
    env = {**running.env, "GATEPOST_DATA_DIR": str(running.folder / "0" / "data")}
    assert json.loads(gatepost(running.folder / "0", "audit", "verify", "--json", env=env).stdout)["verified"]
    ends = _ends(gatepost(running.folder / "0", "audit", "export", env=env).stdout)
    ran = _ran(running)
    for key, id in accepted.items():
        lost = statuses[id] == "lost"  # recorded as the outage began, answered with 503 and then again by its key
        assert (statuses[id] in {"succeeded", "lost"}, ran[key]) == (True, 0 if lost else 1), (key, id, statuses[id])
        assert not lost or key in {each.key for each in again}
    for id in (*accepted.values(), *others):
        assert ends[id] == ["lost" if statuses[id] == "lost" else "finished"], id
        if statuses[id] != "lost":
            types = [json.loads(text)["type"] for text in recordings[id].read_text().splitlines()]
            assert (types[-1], types.count("complete")) == ("complete", 1), id
    unknown = {each.key for each in again} - accepted.keys()
    assert {key: ran[key] for key in unknown if ran[key] > 1} == {}
    assert {key for key in ran if key.startswith(prefix)} <= accepted.keys() | unknown


async def _settled(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    """All executions, none of which is running any more."""
    async with asyncio.timeout(SETTLED_BOUND):
        while True:
            rows = await _all_rows(api)
            if not any(row["status"] == "running" for row in rows):
                return rows
            await asyncio.sleep(0.5)


async def _all_rows(api: httpx.AsyncClient) -> list[dict[str, Any]]:
    rows, before = [], None
    while True:
        params = {"limit": 200} | ({"before": before} if before else {})
        page = (await api.get("/api/executions", params=params)).json()
        rows += page["executions"]
        if not (before := page["next_before"]):
            return rows


def _ends(exported: str) -> dict[str, list[str]]:
    """The events of the end of each execution."""
    found: dict[str, list[str]] = {}
    for text in exported.splitlines()[1:-1]:
        event = json.loads(json.loads(text)["body"])
        if event["kind"] in {"finished", "lost"}:
            found.setdefault(event["execution"], []).append(event["kind"])
    return found


def _ran(running: Service) -> Counter[str]:
    """How often the command of each key has run, on any server."""
    files: list[Path] = [path for server in running.servers for path in files_below(server.data_dir, "ran.log")]
    return Counter(key for path in files for key in path.read_text().split())
