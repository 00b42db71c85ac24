"""What only the bus through Redis has to bear: outages, lost messages, dead servers, hostile content."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis as Client

from backend.bus import answers, incoming, relay
from backend.bus.link import COMMANDS, INBOX_TTL, Link
from backend.bus.messages import Beat, Block, Credit, End, Follow, Instruct, Message, decode, encode
from backend.bus.redis import RedisBus
from backend.core.execution.bus import Relay
from backend.core.execution.model import CloseInput, Delivery, Write
from tests.bus.servers import BOUND, FOLDER, ID, OWNER, Local, Recording, Viewer, stored
from tests.redis_server import Redis
from tests.serving import ROOT

LINE = "x" * 99 + "\n"
MINE = "0" * 32  # the inbox of a requester that the test plays
LATER = 4e9  # a deadline that does not pass


@asynccontextmanager
async def pair(redis: Redis, local: Local, other: Local, reports: list[str]) -> AsyncIterator[RedisBus]:
    """`local` is there as OWNER and FOLDER; what is yielded is the bus of another server."""
    bus, elsewhere = RedisBus(redis.url, reports.append), RedisBus(redis.url, reports.append)
    async with bus.joined(OWNER, FOLDER, local), elsewhere.joined("owner-2", "folder-2", other):
        yield elsewhere


@asynccontextmanager
async def connected(redis: Redis) -> AsyncIterator[Any]:
    client = Client.from_url(f"unix://{redis.path}")
    try:
        yield client
    finally:
        await client.aclose()


async def server_at(client: Any, address: str) -> str:
    """The server that is there."""
    (server,) = await client.zrange(f"gatepost:bus:at:{address}", 0, -1)
    return str(server.decode())


async def eventually(ask: Callable[[], Awaitable[object]], expected: object) -> None:
    """Ask until the answer is the expected one. Each question waits for itself."""
    async with asyncio.timeout(BOUND):
        while await ask() != expected:
            await asyncio.sleep(0.02)


async def test_an_outage_loses_and_doubles_nothing(redis: Redis, local: Local, other: Local) -> None:
    recording, viewers, reports = Recording(local.recordings), [Viewer() for _ in range(5)], list[str]()
    async with pair(redis, local, other, reports) as bus:
        watching = [asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send)) for viewer in viewers]
        for number in range(30):
            recording.write(f"before {number}\n" * 100)
            await asyncio.sleep(0)
        await viewers[0].until("before 3")
        redis.stop()
        for number in range(30):
            recording.write(f"during {number}\n" * 100)
        begun = time.monotonic()
        assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.UNREACHABLE
        assert time.monotonic() - begun < 20
        begun = time.monotonic()
        assert await bus.follow(FOLDER, ID, 0, Viewer().send) is Relay.UNREACHABLE
        assert time.monotonic() - begun < 20
        assert not await bus.check()
        redis.start()
        await eventually(lambda: bus.instruct(OWNER, ID, CloseInput()), Delivery.DELIVERED)
        recording.write("after\n")
        recording.end()
        async with asyncio.timeout(BOUND):
            assert set(await asyncio.gather(*watching)) == {Relay.ENDED}
    assert [viewer.numbers for viewer in viewers] == [list(range(1, 6004))] * 5
    assert len(reports) == 4
    assert {sentence.split(":")[0] for sentence in reports} == {"The bus is away", "The bus is back"}


async def test_a_copy_survives_an_outage(redis: Redis, local: Local, other: Local) -> None:
    recording, viewer, go_on = Recording(local.recordings), Viewer(), asyncio.Event()
    for _ in range(60):
        recording.write(LINE * 300)

    async def send(block: bytes) -> None:
        await viewer.send(block)
        await go_on.wait()

    async with pair(redis, local, other, []) as bus:
        copying = asyncio.create_task(bus.copy(FOLDER, ID, send, 0, None))
        await viewer.until("started")
        redis.stop()
        redis.start()
        await eventually(lambda: bus.instruct(OWNER, ID, CloseInput()), Delivery.DELIVERED)
        go_on.set()
        async with asyncio.timeout(BOUND):
            assert await copying == len(stored(local))
    assert viewer.received == stored(local)
    recording.end()


async def test_a_redis_that_hangs_is_away(redis: Redis, local: Local, other: Local) -> None:
    async with pair(redis, local, other, []) as bus:
        assert redis.process
        redis.process.send_signal(signal.SIGSTOP)
        try:
            begun = time.monotonic()
            assert await bus.instruct(OWNER, ID, Write(b"late")) is Delivery.UNREACHABLE
            assert await bus.check() is False
            assert time.monotonic() - begun < 20
        finally:
            redis.process.send_signal(signal.SIGCONT)
        await eventually(lambda: bus.instruct(OWNER, ID, Write(b"next")), Delivery.DELIVERED)
    assert Write(b"late") not in local.delivered


async def test_a_server_starts_without_redis_and_joins_later(redis: Redis, local: Local, other: Local) -> None:
    reports: list[str] = []
    redis.stop()
    begun = time.monotonic()
    async with pair(redis, local, other, reports) as bus:
        assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.UNREACHABLE
        assert time.monotonic() - begun < 20
        assert len(reports) == 2
        redis.start()
        await eventually(lambda: bus.instruct(OWNER, ID, CloseInput()), Delivery.DELIVERED)
        assert len(reports) == 4


async def test_a_server_without_redis_does_not_try_without_a_pause(
    redis: Redis, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    enough = asyncio.Event()
    sleep = asyncio.sleep

    async def slept(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 8:
            enough.set()
        await sleep(0)

    monkeypatch.setattr("backend.bus.link.asyncio.sleep", slept)
    redis.stop()
    async with RedisBus(redis.url, lambda _: None).joined(OWNER, FOLDER, local), asyncio.timeout(BOUND):
        await enough.wait()
    assert all(pause >= 0.05 for pause in pauses)
    assert all(0.5 <= pause <= 1 for pause in pauses[4:8])


async def test_nothing_is_left_behind(redis: Redis, local: Local, other: Local) -> None:
    recording, viewer = Recording(local.recordings), Viewer()
    async with connected(redis) as client:
        async with pair(redis, local, other, []) as bus:
            watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
            await viewer.until("started")
            assert await _all_expire(client)
            assert await client.exists(f"gatepost:bus:at:{OWNER}")
        async with asyncio.timeout(30):
            assert await watching is Relay.UNREACHABLE
        assert not await client.exists(f"gatepost:bus:at:{OWNER}", f"gatepost:bus:at:{FOLDER}")
        assert await _all_expire(client)
        await eventually(lambda: _connections(client), 1)
    recording.end()


async def _all_expire(client: Any) -> bool:
    return all([0 < await client.ttl(key) <= INBOX_TTL for key in await client.keys("*")])


async def _connections(client: Any) -> int:
    return len(await client.client_list())


@pytest.mark.usefixtures("patient")
async def test_connections_are_few_however_many_watch(redis: Redis, local: Local, other: Local) -> None:
    recording, viewers = Recording(local.recordings), [Viewer() for _ in range(150)]
    async with connected(redis) as client, pair(redis, local, other, []) as bus, asyncio.timeout(BOUND):
        watching = [asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send)) for viewer in viewers]
        await local.until_following(150)
        assert await _connections(client) <= 2 * (COMMANDS + 1) + 1
        recording.end()
        assert set(await asyncio.gather(*watching)) == {Relay.ENDED}


async def test_a_server_with_too_many_viewers_is_unreachable_for_more(
    redis: Redis, local: Local, other: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "RELAYS", 1)
    recording, viewer = Recording(local.recordings), Viewer()
    async with pair(redis, local, other, []) as bus, asyncio.timeout(BOUND):
        watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
        await viewer.until("started")
        assert await bus.follow(FOLDER, ID, 0, viewer.send) is Relay.UNREACHABLE
        assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.DELIVERED
        recording.end()
        assert await watching is Relay.ENDED
        assert await bus.follow(FOLDER, ID, 1, viewer.send) is Relay.ENDED
    assert viewer.numbers == [1, 2, 2]


async def test_lost_and_doubled_messages_are_made_good(
    redis: Redis, local: Local, other: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    push, spoilt = Link.push, list[int]()

    async def unreliable(self: Link, server: str, message: Message) -> bool:
        if isinstance(message, Block) and message.number in {3, 5} and message.number not in spoilt:
            spoilt.append(message.number)
            if message.number == 3:
                await push(self, server, message)
            else:
                return True
        return await push(self, server, message)

    monkeypatch.setattr(Link, "push", unreliable)
    recording, viewer = Recording(local.recordings), Viewer()
    for _ in range(40):
        recording.write(LINE * 300)
    recording.end()
    async with pair(redis, local, other, []) as bus, asyncio.timeout(BOUND):
        assert await bus.follow(FOLDER, ID, 0, viewer.send) is Relay.ENDED
    assert spoilt == [3, 5]
    assert viewer.received == stored(local)


async def test_a_viewer_that_hangs_is_left_and_comes_back(
    redis: Redis, local: Local, other: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SILENCE", 0.3)
    monkeypatch.setattr(relay, "BEAT_EVERY", 0.1)
    recording, viewer, go_on = Recording(local.recordings), Viewer(), asyncio.Event()
    for _ in range(40):
        recording.write(LINE * 300)

    async def send(block: bytes) -> None:
        await viewer.send(block)
        await go_on.wait()

    async with pair(redis, local, other, []) as bus, asyncio.timeout(BOUND):
        watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, send))
        await viewer.until("started")
        await local.until_following(1)
        await local.until_following(0)
        go_on.set()
        recording.end()
        assert await watching is Relay.ENDED
    assert viewer.received == stored(local)


async def test_silence_is_answered_with_beats(
    redis: Redis, local: Local, other: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither side gives up an execution that says nothing for longer than either is patient."""
    monkeypatch.setattr(relay, "SILENCE", 0.5)
    monkeypatch.setattr(incoming, "SILENCE", 0.5)
    monkeypatch.setattr(relay, "BEAT_EVERY", 0.1)
    pushed: list[Message] = []
    push = Link.push

    async def counted(self: Link, server: str, message: Message) -> bool:
        pushed.append(message)
        return await push(self, server, message)

    monkeypatch.setattr(Link, "push", counted)
    recording, viewer = Recording(local.recordings), Viewer()
    async with pair(redis, local, other, []) as bus, asyncio.timeout(BOUND):
        watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
        while sum(isinstance(message, Beat) for message in pushed) < 12:
            await asyncio.sleep(0.02)
        recording.end()
        assert await watching is Relay.ENDED
    assert sum(isinstance(message, Follow) for message in pushed) == 1
    assert viewer.numbers == [1, 2]


async def test_a_requester_that_died_is_forgotten(
    redis: Redis, local: Local, other: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "SILENCE", 0.3)
    monkeypatch.setattr(relay, "BEAT_EVERY", 0.1)
    recording = Recording(local.recordings)
    for _ in range(40):
        recording.write(LINE * 300)
    async with connected(redis) as client, pair(redis, local, other, []):
        inbox = f"gatepost:bus:inbox:{await server_at(client, OWNER)}"
        await client.rpush(inbox, encode(Follow("1" * 32, MINE, LATER, "", ID, 0)))
        await local.until_following(1)
        await local.until_following(0)
        await eventually(lambda: _last_kind(client), "End")
        items = [decode(item) for item in await client.lrange(f"gatepost:bus:inbox:{MINE}", 0, -1)]
        assert sum(isinstance(item, Block) for item in items) == relay.WINDOW
        assert 0 < await client.ttl(f"gatepost:bus:inbox:{MINE}") <= INBOX_TTL
    recording.end()


async def _last_kind(client: Any) -> str:
    item = await client.lindex(f"gatepost:bus:inbox:{MINE}", -1)
    return type(decode(item)).__name__ if item else ""


async def test_a_late_instruction_is_not_delivered_and_a_repeated_one_once(
    redis: Redis, local: Local, other: Local
) -> None:
    async with connected(redis) as client, pair(redis, local, other, []):
        inbox = f"gatepost:bus:inbox:{await server_at(client, OWNER)}"
        now = (await client.time())[0]
        late = Instruct("1" * 32, MINE, now - 1.0, ID, Write(b"late"))
        twice = Instruct("2" * 32, MINE, now + 60.0, ID, Write(b"twice"))
        await client.rpush(inbox, encode(late), encode(twice), encode(twice))
        await eventually(lambda: client.llen(f"gatepost:bus:inbox:{MINE}"), 2)
        answers = {decode(item) for item in await client.lrange(f"gatepost:bus:inbox:{MINE}", 0, -1)}
    assert local.delivered == [Write(b"twice")]
    assert len(answers) == 1


def hostile_items() -> list[bytes]:
    """What no server writes."""
    header = json.loads(encode(Follow("1" * 32, MINE, LATER, "", ID, 0)))
    wrong: list[Any] = [None, [], {}, "x", -1, 1e308, True, "\ud800", "../../etc/passwd", "gatepost:bus:at:folder-1"]
    spoilt = [{**header, name: value} for name in header for value in wrong if name not in {"after_seq", "deadline"}]
    return [
        b"",
        b"\n",
        b"\xff\x00\xfe\n\xff",
        b"[" * 10_000 + b"\n",
        b'{"kind":' * 1000 + b"\n",
        b"1" * 8000 + b"\n",
        json.dumps({"kind": "Follow", "more": "x" * (5 << 20)}).encode() + b"\n",
        b"x" * (5 << 20),
        encode(Instruct("3" * 32, MINE, LATER, ID, Write(b"x" * (3 << 20)))),
        encode(Credit("4" * 32, 10**9)),
        encode(Block("5" * 32, 0, b"block")),
        encode(End("6" * 32, -1, "ended")),  # type: ignore[arg-type]
        *(json.dumps(each).encode() + b"\n" for each in spoilt),
    ]


@pytest.mark.usefixtures("patient")
async def test_hostile_content_is_ignored(redis: Redis, local: Local, other: Local) -> None:
    recording, viewer, reports = Recording(local.recordings), Viewer(), list[str]()
    async with connected(redis) as client, pair(redis, local, other, reports) as bus, asyncio.timeout(BOUND):
        watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
        await viewer.until("started")
        for address in (OWNER, "owner-2"):
            await client.rpush(f"gatepost:bus:inbox:{await server_at(client, address)}", *hostile_items())
        await client.zadd(f"gatepost:bus:at:{OWNER}", {b"\xff\xfe": LATER, "gatepost:bus:x": LATER})
        assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.DELIVERED
        recording.end()
        assert await watching is Relay.ENDED
    assert local.delivered == [CloseInput()]
    assert viewer.numbers == [1, 2]
    assert reports == []


async def test_keys_of_another_type_are_replaced(redis: Redis, local: Local, other: Local) -> None:
    async with connected(redis) as client, pair(redis, local, other, []) as bus:
        await client.set(f"gatepost:bus:inbox:{await server_at(client, OWNER)}", "text")
        await client.set(f"gatepost:bus:at:{OWNER}", "text")
        await client.set("gatepost:bus:at:owner-2", "text")
        await eventually(lambda: bus.instruct(OWNER, ID, CloseInput()), Delivery.DELIVERED)
        assert await client.type("gatepost:bus:at:owner-2") == b"zset"


async def test_a_dead_server_of_the_folder_is_passed_over(
    redis: Redis, local: Local, other: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "ANSWER_BOUND", 0.3)
    Recording(local.recordings).end()
    async with connected(redis) as client, pair(redis, local, other, []) as bus, asyncio.timeout(BOUND):
        await client.zadd(f"gatepost:bus:at:{FOLDER}", {str(number) * 32: LATER for number in range(2)})
        await client.zadd("gatepost:bus:at:dead", {"5" * 32: LATER})
        viewer = Viewer()
        assert await bus.follow(FOLDER, ID, 0, viewer.send) is Relay.ENDED
        assert viewer.received == stored(local)
        assert await bus.follow("dead", ID, 0, viewer.send) is Relay.UNREACHABLE
        assert await bus.instruct("dead", ID, CloseInput()) is Delivery.UNREACHABLE


ELSEWHERE = """
import asyncio, sys
from pathlib import Path
from backend.bus.redis import RedisBus
from backend.core.execution.model import Delivery
from tests.bus.servers import FOLDER, OWNER, Local, Recording
class Printing(Local):
    async def deliver(self, execution, instruction):
        print(instruction.data.decode(), flush=True)
        return Delivery.DELIVERED
async def serve():
    local = Printing(Path(sys.argv[2]))
    recording = Recording(local.recordings)
    async with RedisBus(sys.argv[1], print).joined(OWNER, FOLDER, local):
        print("joined", flush=True)
        await asyncio.Event().wait()
asyncio.run(serve())
"""


@pytest.fixture
def elsewhere(redis: Redis, tmp_path: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A server in a process of its own, OWNER and FOLDER. It prints what is written to its executions."""
    words = [sys.executable, "-c", ELSEWHERE, redis.url, str(tmp_path / "elsewhere")]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"joined\n"
            yield process
        finally:
            process.kill()


async def test_a_server_that_is_killed_becomes_unreachable(
    redis: Redis, elsewhere: "subprocess.Popen[bytes]", other: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming, "SILENCE", 0.5)
    monkeypatch.setattr(incoming, "ANSWER_BOUND", 0.5)
    viewer, bus = Viewer(), RedisBus(redis.url, lambda _: None)
    async with bus.joined("owner-2", "folder-2", other), asyncio.timeout(BOUND):
        assert await bus.instruct(OWNER, ID, Write(b"first")) is Delivery.DELIVERED
        watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
        await viewer.until("started")
        elsewhere.kill()
        assert await watching is Relay.UNREACHABLE
        assert await bus.instruct(OWNER, ID, Write(b"second")) is Delivery.UNREACHABLE
    assert viewer.numbers == [1]


async def test_a_server_that_was_halted_does_not_deliver_what_is_too_late(
    redis: Redis, elsewhere: "subprocess.Popen[bytes]", other: Local
) -> None:
    bus = RedisBus(redis.url, lambda _: None)
    async with bus.joined("owner-2", "folder-2", other), asyncio.timeout(BOUND):
        elsewhere.send_signal(signal.SIGSTOP)
        assert await bus.instruct(OWNER, ID, Write(b"late")) is Delivery.UNREACHABLE
        elsewhere.send_signal(signal.SIGCONT)
        await eventually(lambda: bus.instruct(OWNER, ID, Write(b"next")), Delivery.DELIVERED)
    elsewhere.kill()
    assert elsewhere.stdout
    assert elsewhere.stdout.read() == b"next\n"


async def test_no_server_is_reached_before_and_after(redis: Redis, local: Local) -> None:
    bus, viewer = RedisBus(redis.url, lambda _: None), Viewer()

    async def outside() -> None:
        assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.UNREACHABLE
        assert await bus.follow(FOLDER, ID, 0, viewer.send) is Relay.UNREACHABLE
        assert await bus.copy(FOLDER, ID, viewer.send, 0, None) is Relay.UNREACHABLE
        assert not await bus.check()

    await outside()
    for _ in range(2):
        async with bus.joined(OWNER, FOLDER, local):
            assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.DELIVERED
            assert await bus.check()
        await outside()


async def test_the_url_may_have_any_form(redis: Redis, local: Local) -> None:
    query = "?socket_timeout=0.01&decode_responses=true&protocol=3&max_connections=1&db=1"
    for scheme in ("redis+unix", "unix"):
        bus = RedisBus(f"{scheme}://{redis.path}{query}", lambda _: None)
        async with bus.joined(OWNER, FOLDER, local):
            asked = (bus.instruct(OWNER, ID, CloseInput()) for _ in range(30))
            assert set(await asyncio.gather(*asked)) == {Delivery.DELIVERED}


async def test_a_password_is_never_said(local: Local) -> None:
    for url in ("redis://:sesame@host:sesame/0", "sesame://sesame", "redis://[sesame", "redis://:ses/ame@sesame/0"):
        with pytest.raises(ValueError) as raised:
            RedisBus(url, lambda _: None)
        assert str(raised.value) == "the URL of Redis is malformed"
        assert raised.value.__suppress_context__
    reports: list[str] = []
    async with RedisBus("redis://:sesame@127.0.0.1:1/0", reports.append).joined(OWNER, FOLDER, local):
        assert len(reports) == 1
        assert "sesame" not in reports[0]
