"""Closing what a dead server left, while others run commands."""

import asyncio
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import structlog

from backend.application.local_executions import LocalExecutions
from backend.core.audit.attempts import Attempt
from backend.core.audit.chain import ChainedEvent
from backend.core.errors import StorageError
from backend.core.execution.lifecycle import complete_message
from backend.core.execution.model import Status
from backend.core.execution.ownership import LEASE_MS, Contact
from backend.core.execution.registry import Registry
from backend.core.recording.reader import Send
from backend.core.recording.writer import Recorder
from backend.runtime.recovery import Recovery
from backend.storage.owner_locks import OwnerLocks
from backend.storage.recording_digests import Comparison
from backend.storage.recordings import FileRecordings, RecordingFile
from tests.core.recording.recorded import COMPLETE, STARTED
from tests.storage.conftest import Clock, clock, new_id, postgresql
from tests.storage.contract.conftest import world
from tests.storage.contract.worlds import Server, World
from tests.storage.writing import ENDED, FOLDER, attempt

__all__ = ["clock", "new_id", "postgresql", "world"]

DEAD, ALIVE, ELSEWHERE = "D" * 26, "A" * 26, "E" * 26


@dataclass
class House:
    """A service with a data folder, in which the server DEAD dies and the server ALIVE does not."""

    world: World
    clock: Clock
    folder: Path
    dead: Server
    alive: Server

    def __post_init__(self) -> None:
        self.recordings = FileRecordings(self.folder / "recordings")

    async def begin(self, server: Server) -> tuple[Attempt, RecordingFile, Recorder]:
        one = attempt()
        log = self.recordings.create(one.id)
        await server.log.open(one)
        recorder = Recorder(one.id, log, lambda: 0.0)
        recorder.add(STARTED)
        return one, log, recorder

    async def left(self) -> Attempt:
        """An execution whose server died."""
        one, log, _ = await self.begin(self.dead)
        os.close(log._fd)
        return one

    async def wait_a_lease(self) -> None:
        """Time passes, in which the server that lives extends its leases."""
        self.clock.now += LEASE_MS - 1
        await self.alive.ownership.renew()
        self.clock.now += 1

    def recovery(self, server: Server, folder: str = FOLDER, *, steady: bool = True) -> Recovery:
        """The recovery of a server, which has reached the database for long if it is `steady`."""
        contact = Contact()
        if steady:
            contact.reached(self.clock.now - LEASE_MS)
            contact.reached(self.clock.now)
        locks = OwnerLocks(self.folder / "owners", server.ownership.owner)
        recordings = FileRecordings(self.recordings.folder)
        return Recovery(server.ownership, recordings, folder, locks, contact, self.clock)

    async def status(self, one: Attempt) -> Status:
        found = await self.world.history.get(one.id)
        assert found
        return found.status

    async def kinds(self, one: Attempt) -> list[str]:
        return [event["kind"] for event in await self.world.events() if event.get("execution") == one.id]


@pytest.fixture
async def house(world: World, clock: Clock, tmp_path: Path) -> House:
    return House(world, clock, tmp_path, await world.server(DEAD), await world.server(ALIVE))


async def test_each_gets_the_ending_that_its_recording_tells(house: House) -> None:
    alive, _, _ = await house.begin(house.alive)
    true, _, recorder = await house.begin(house.dead)
    recorder.end(COMPLETE)
    cut = await house.left()
    gone, log, _ = await house.begin(house.dead)
    os.close(log._fd)
    Path(log.path).unlink()
    await house.wait_a_lease()
    assert await house.recovery(house.alive).run_once() == 3
    assert [await house.status(each) for each in (alive, true, cut, gone)] == [
        Status.RUNNING,
        Status(COMPLETE.status),
        Status.LOST,
        Status.LOST,
    ]
    found = await house.world.history.get(true.id)
    assert found
    assert (found.exit_code, found.duration_ms) == (COMPLETE.exit_code, COMPLETE.duration_ms)
    assert [(await house.kinds(each))[2:] for each in (alive, true, cut, gone)] == [
        [],
        ["finished"],
        ["lost"],
        ["lost"],
    ]


async def test_a_server_that_dies_between_the_audit_and_the_last_line_leaves_the_same_in_both(
    house: House, tmp_path: Path
) -> None:
    before, log, recorder = await house.begin(house.dead)
    recorder.seal(COMPLETE)
    os.close(log._fd)  # dies before its end is on record
    behind, log, recorder = await house.begin(house.dead)
    ended = replace(ENDED, recording=recorder.seal(complete_message(ENDED)))
    assert await house.dead.log.close(behind, ended)
    os.close(log._fd)  # dies before its viewers get the end
    full, log, recorder = await house.begin(house.dead)
    stored = Path(log.path).read_bytes()
    disk, log._fd = log._fd, os.open("/dev/full", os.O_WRONLY)
    ended = replace(ENDED, recording=recorder.seal(complete_message(ENDED)))
    assert ended.recording
    assert await house.dead.log.close(full, ended)
    for fd in (disk, log._fd):
        os.close(fd)
    gone, log, _ = await house.begin(house.dead)
    os.close(log._fd)
    Path(log.path).unlink()
    await house.wait_a_lease()
    assert await house.recovery(house.alive).run_once() == 2
    local = LocalExecutions(Registry(), FileRecordings(house.recordings.folder), house.world.history)
    for one, status in ((before, COMPLETE.status), (behind, ENDED.status), (full, ENDED.status)):
        blocks: list[bytes] = []
        await local.copy_here(one.id, _into(blocks), 0, None)
        last = json.loads(b"".join(blocks).splitlines()[-1])
        assert (last["type"], last["status"]) == ("complete", status)
        assert await house.status(one) is Status(status)
    assert (house.recordings.folder / f"{full.id}.ndjson").read_bytes().startswith(stored)
    compared = Comparison(house.recordings.folder)
    bodies = [json.dumps(event) for event in await house.world.events()]
    compared.take(ChainedEvent(seq, body, b"") for seq, body in enumerate(bodies, 1))
    assert (compared.good, list(compared.missing)) == (3, [gone.id])
    assert compared.changed == []


def _into(blocks: list[bytes]) -> Send:
    async def send(block: bytes) -> None:
        blocks.append(block)

    return send


async def test_a_recording_that_cannot_be_read_is_logged_once_and_the_others_are_closed(house: House) -> None:
    left = [await house.left() for _ in range(4)]
    paths = [house.recordings.folder / f"{one.id}.ndjson" for one in left[:2]]
    for path in paths:
        path.unlink()
        path.mkdir()
    await house.wait_a_lease()
    recovery = house.recovery(house.alive)
    with structlog.testing.capture_logs() as logs:
        assert [await recovery.run_once() for _ in range(2)] == [2, 0]
    assert [(each["event"], each["execution"]) for each in logs] == [
        ("recording not readable", one.id) for one in sorted(left[:2], key=lambda one: one.id)
    ]
    assert [await house.status(one) for one in left] == [Status.RUNNING] * 2 + [Status.LOST] * 2
    paths[0].rmdir()
    assert await recovery.run_once() == 1


@pytest.mark.parametrize(
    "last",
    [
        '{"seq":1,"type":"complete","status":"unheard of"}\n',
        '{"type":"complete","execution":\n',
        '{"type":"stdout","execution":"x","seq":2,"ms":1,"lines":["\\q"]}\n',
    ],
)
async def test_what_has_an_invalid_recording_is_lost(house: House, last: str) -> None:
    one, other = await house.left(), await house.left()
    (house.recordings.folder / f"{one.id}.ndjson").write_text(last)
    await house.wait_a_lease()
    recovery = house.recovery(house.alive)
    with structlog.testing.capture_logs() as logs:
        assert [await recovery.run_once() for _ in range(2)] == [2, 0]
    assert [(each["event"], each["execution"]) for each in logs] == [("recording invalid", one.id)]
    assert [await house.status(each) for each in (one, other)] == [Status.LOST] * 2
    assert "recording" not in [event for event in await house.world.events() if event.get("execution") == one.id][-1]


async def test_servers_that_do_it_at_once_write_each_ending_once(house: House) -> None:
    left = [await house.left() for _ in range(5)]
    await house.wait_a_lease()
    servers = [await house.world.server(letter * 26) for letter in "WXYZ"]
    closed = await asyncio.gather(*(house.recovery(server).run_once() for server in servers))
    assert sum(closed) == len(left)
    assert await house.recovery(house.alive).run_once() == 0
    for one in left:
        assert await house.kinds(one) == ["submitted", "started", "lost"]


async def test_what_another_folder_holds_is_left_to_its_server_until_its_lease_runs_out(house: House) -> None:
    elsewhere = await house.world.server(ELSEWHERE, "F" * 26)
    one = attempt()
    await elsewhere.log.open(one)
    house.clock.now += LEASE_MS - 1
    assert await house.recovery(house.alive).run_once() == 0
    assert await house.status(one) is Status.RUNNING
    house.clock.now += 1
    assert await house.recovery(house.alive).run_once() == 1
    assert await house.status(one) is Status.LOST
    assert not await elsewhere.log.close(one, ENDED)


async def test_a_recording_that_is_written_on_tells_no_end(house: House) -> None:
    one, log, recorder = await house.begin(house.dead)
    await house.wait_a_lease()
    assert await house.recovery(house.alive).run_once() == 1
    assert await house.status(one) is Status.LOST
    assert "recording" not in (await house.world.events())[-1], "what still grows has no digest"
    recorder.end(COMPLETE)
    assert not await house.dead.log.close(one, ENDED)
    assert not log.live


async def test_the_dead_of_this_folder_are_known_at_once(house: House) -> None:
    one = await house.left()
    theirs = await house.world.server(ELSEWHERE)
    another = attempt()
    await theirs.log.open(another)
    dead, living = (OwnerLocks(house.folder / "owners", owner) for owner in (DEAD, ELSEWHERE))
    for locks in (dead, living):
        locks.hold()
    dead.release()
    assert await house.recovery(house.alive, steady=False).run_once() == 1
    assert await house.status(one) is Status.LOST
    assert await house.status(another) is Status.RUNNING
    assert [path.stem for path in (house.folder / "owners").iterdir()] == [ELSEWHERE]


async def test_the_dead_are_looked_after_once_the_database_is_back(house: House) -> None:
    one = await house.left()
    locks = OwnerLocks(house.folder / "owners", DEAD)
    locks.hold()
    locks.release()
    recovery = house.recovery(house.alive)
    async with house.world.outage():
        with pytest.raises(StorageError):
            await recovery.run_once()
    assert await recovery.run_once() == 1
    assert await house.status(one) is Status.LOST


async def test_a_server_that_just_started_waits_before_it_judges_others(house: House) -> None:
    one = await house.left()
    house.clock.now += 10 * LEASE_MS
    recovery = house.recovery(house.alive, steady=False)
    for _ in range(3):
        assert await recovery.run_once() == 0
        house.clock.now += LEASE_MS // 3
    assert await recovery.run_once() == 1
    assert await house.status(one) is Status.LOST


async def test_after_an_outage_others_have_a_lease_to_come_back(house: House) -> None:
    left = await house.left()
    kept, _, _ = await house.begin(house.alive)
    recovery = house.recovery(house.alive)
    house.clock.now += LEASE_MS
    async with house.world.outage():
        with pytest.raises(StorageError):
            await recovery.run_once()
    assert await recovery.run_once() == 0
    assert await house.alive.ownership.renew() == frozenset()
    house.clock.now += LEASE_MS - 1
    assert await recovery.run_once() == 0
    assert await house.alive.ownership.renew() == frozenset()
    house.clock.now += 1
    assert await recovery.run_once() == 1
    assert [await house.status(each) for each in (left, kept)] == [Status.LOST, Status.RUNNING]


async def test_what_goes_on_without_its_server_is_left_to_another(house: House) -> None:
    cut = await house.left()
    ended, _, recorder = await house.begin(house.dead)
    recorder.end(COMPLETE)
    await house.wait_a_lease()
    recovery = replace(house.recovery(house.alive), goes_on=lambda target: target == cut.target)
    assert await recovery.run_once() == 2
    assert [await house.status(each) for each in (cut, ended)] == [Status.QUEUED, Status(COMPLETE.status)]
    there = await house.left()
    await house.wait_a_lease()
    elsewhere = replace(house.recovery(house.alive, ELSEWHERE), goes_on=lambda target: True)
    assert await elsewhere.run_once() == 1
    assert await house.status(there) is Status.QUEUED
