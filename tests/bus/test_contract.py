"""What both buses promise."""

import asyncio
import errno
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from backend.application.recordings import BEHIND_ALL
from backend.bus.progress import LAST_BLOCKS
from backend.core.execution.bus import Relay
from backend.core.execution.model import (
    CloseInput,
    Delivery,
    Instruction,
    Resize,
    Signal,
    SignalName,
    Stop,
    StopReason,
    Write,
)
from backend.core.recording.reader import Send
from tests.bus.servers import BOUND, FOLDER, ID, OTHER, OWNER, Local, NewBus, Recording, Viewer, stored, two_servers

INSTRUCTIONS: list[Instruction] = [
    Stop(StopReason.CANCELLED, "Zoë \\ud800"),
    Signal(SignalName.HUP),
    Write(b"\x00\xff\n{}\r\n"),
    Write(b""),
    Write(b"end", last=True),
    Write(b"x" * (1 << 20)),
    CloseInput(),
    Resize(80, 24),
]
LINE = "x" * 99 + "\n"


@pytest.mark.parametrize("instruction", INSTRUCTIONS, ids=lambda each: type(each).__name__)
async def test_an_instruction_arrives_as_it_was(
    new_bus: NewBus, local: Local, other: Local, instruction: Instruction
) -> None:
    async with two_servers(new_bus, local, other) as bus:
        assert await bus.instruct(OWNER, ID, instruction) is Delivery.DELIVERED
        assert local.delivered == [instruction]
        assert other.delivered == []


@pytest.mark.parametrize("answer", Delivery)
async def test_the_answer_comes_back(new_bus: NewBus, local: Local, other: Local, answer: Delivery) -> None:
    local.answer = answer
    async with two_servers(new_bus, local, other) as bus:
        assert await bus.instruct(OWNER, ID, CloseInput()) is answer
        assert await bus.instruct(OWNER, OTHER, CloseInput()) is Delivery.NOT_RUNNING


async def test_a_server_that_is_not_there_is_unreachable_at_once(new_bus: NewBus, local: Local, other: Local) -> None:
    viewer = Viewer()
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(1):
        assert await bus.instruct("absent", ID, CloseInput()) is Delivery.UNREACHABLE
        assert await bus.follow("absent", ID, 0, viewer.send) is Relay.UNREACHABLE
        assert await bus.copy("absent", ID, viewer.send, 0, None) is Relay.UNREACHABLE
        assert await bus.check()
    assert not viewer.received


async def test_instructions_arrive_in_order_and_each_once(new_bus: NewBus, local: Local, other: Local) -> None:
    async with two_servers(new_bus, local, other) as bus:
        for number in range(50):
            await bus.instruct(OWNER, ID, Write(b"%d" % number))
        assert local.delivered == [Write(b"%d" % number) for number in range(50)]


@pytest.mark.usefixtures("patient")
async def test_many_instructions_at_once(new_bus: NewBus, local: Local, other: Local) -> None:
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        asked = [Write(b"%d" % number) for number in range(200)]
        answers = await asyncio.gather(*(bus.instruct(OWNER, ID, each) for each in asked))
        assert set(answers) == {Delivery.DELIVERED}
        assert sorted(local.delivered, key=repr) == sorted(asked, key=repr)


async def test_a_finished_recording_comes_complete_and_from_the_middle(
    new_bus: NewBus, local: Local, other: Local
) -> None:
    recording = Recording(local.recordings)
    for _ in range(20):
        recording.write(LINE * 500)
    recording.end()
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        complete, middle = Viewer(), Viewer()
        assert await bus.follow(FOLDER, ID, 0, complete.send) is Relay.ENDED
        assert bytes(complete.received) == stored(local)
        assert await bus.follow(FOLDER, ID, 4321, middle.send) is Relay.ENDED
        assert middle.numbers == list(range(4322, 10003))


async def test_a_recording_that_does_not_exist_is_unknown(new_bus: NewBus, local: Local, other: Local) -> None:
    viewer = Viewer()
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        assert await bus.follow(FOLDER, OTHER, 0, viewer.send) is Relay.UNKNOWN
        assert await bus.copy(FOLDER, OTHER, viewer.send, 0, None) is Relay.UNKNOWN


@pytest.mark.usefixtures("patient")
async def test_many_viewers_watch_live(new_bus: NewBus, local: Local, other: Local) -> None:
    recording, viewers = Recording(local.recordings), [Viewer() for _ in range(40)]
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        watching = [asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send)) for viewer in viewers]
        await local.until_following(40)
        for number in range(20):
            recording.write(f"line {number}\n")
            await viewers[number].until(f"line {number}")
        recording.end()
        assert set(await asyncio.gather(*watching)) == {Relay.ENDED}
        assert {bytes(viewer.received) for viewer in viewers} == {stored(local)}


async def test_the_server_itself_counts_a_viewer_that_is_sent_nothing(
    new_bus: NewBus, local: Local, other: Local
) -> None:
    recording, viewer = Recording(local.recordings), Viewer()
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        following = asyncio.create_task(bus.follow(OWNER, ID, BEHIND_ALL, viewer.send))
        await local.until_following(1)
        recording.write(LINE)
        recording.end()
        assert await following is Relay.ENDED
        await local.until_following(0)
    assert not viewer.received


async def test_a_slow_viewer_holds_back_its_server_and_no_other_viewer(
    new_bus: NewBus, local: Local, other: Local
) -> None:
    recording = Recording(local.recordings)
    for _ in range(100):
        recording.write(LINE * 300)
    recording.end()
    slow, fast, go_on = Viewer(), Viewer(), asyncio.Event()

    async def send(block: bytes) -> None:
        await go_on.wait()
        await slow.send(block)

    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, send))
        await local.until_following(1)
        assert await bus.follow(FOLDER, ID, 0, fast.send) is Relay.ENDED
        assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.DELIVERED
        assert local.sent - fast.blocks <= 8
        go_on.set()
        assert await watching is Relay.ENDED
        assert slow.received == fast.received == stored(local)


async def test_a_block_of_a_mebibyte(new_bus: NewBus, local: Local, other: Local) -> None:
    recording = Recording(local.recordings)
    recording.write("é" * (1 << 19) + "\n")
    recording.end()
    viewer = Viewer()
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        assert await bus.follow(FOLDER, ID, 0, viewer.send) is Relay.ENDED
    assert viewer.received == stored(local)
    assert len(viewer.received) > 1 << 20


async def test_a_copy_is_what_is_stored_between_two_places(new_bus: NewBus, local: Local, other: Local) -> None:
    recording = Recording(local.recordings)
    for _ in range(10):
        recording.write(LINE * 200)
    begin = len(stored(local))
    recording.write("last\n")
    now = stored(local)
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        for first, end in ((0, None), (0, begin), (begin, None), (begin, len(now)), (len(now), None)):
            viewer = Viewer()
            place = len(now) if end is None else end
            assert await bus.copy(FOLDER, ID, viewer.send, first, end) == place
            assert viewer.received == now[first:place]
    recording.end()


async def test_a_cancelled_viewer_frees_the_server(new_bus: NewBus, local: Local, other: Local) -> None:
    recording, viewer = Recording(local.recordings), Viewer()
    async with two_servers(new_bus, local, other) as bus:
        watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
        await viewer.until("started")
        watching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await watching
        async with asyncio.timeout(30):
            await local.until_following(0)
    recording.end()


async def test_a_viewer_can_be_cancelled_at_any_moment(new_bus: NewBus, local: Local, other: Local) -> None:
    recording = Recording(local.recordings)
    recording.write(LINE * 5000)
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        for steps in range(80):
            watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, Viewer().send))
            for _ in range(steps):
                await asyncio.sleep(0)
            watching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await watching
        await local.until_following(0)
        assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.DELIVERED
    recording.end()


async def test_an_error_of_the_viewer_ends_it_and_frees_the_server(new_bus: NewBus, local: Local, other: Local) -> None:
    recording = Recording(local.recordings)

    async def send(block: bytes) -> None:
        raise ConnectionResetError("the viewer left")

    async with two_servers(new_bus, local, other) as bus:
        with pytest.raises(ConnectionResetError, match="the viewer left"):
            await bus.follow(FOLDER, ID, 0, send)
        async with asyncio.timeout(30):
            await local.until_following(0)
    recording.end()


class Unreadable(Local):
    """A server whose disk fails after the first block."""

    async def follow_here(self, execution: str, after_seq: int, send: Send) -> bool:
        await super().copy_here(execution, send, 0, None)
        raise OSError(errno.EIO, "Input/output error")

    async def copy_here(self, execution: str, send: Send, begin: int, end: int | None) -> int | None:
        raise OSError(errno.EACCES, "Permission denied")


async def test_a_disk_that_fails_is_an_error_here(new_bus: NewBus, tmp_path: Path, other: Local) -> None:
    local, viewer = Unreadable(tmp_path / "unreadable"), Viewer()
    Recording(local.recordings).end()
    async with two_servers(new_bus, local, other) as bus, asyncio.timeout(BOUND):
        with pytest.raises(OSError, match="Input/output error") as raised:
            await bus.follow(FOLDER, ID, 0, viewer.send)
        assert raised.value.errno == errno.EIO
        assert viewer.received == stored(local)
        with pytest.raises(PermissionError, match="Permission denied"):
            await bus.copy(FOLDER, ID, viewer.send, 0, None)


async def test_a_server_that_leaves_is_unreachable_at_once(new_bus: NewBus, local: Local, other: Local) -> None:
    recording, viewer = Recording(local.recordings), Viewer()
    bus = new_bus()
    async with bus.joined("owner-2", "folder-2", other):
        async with new_bus().joined(OWNER, FOLDER, local):
            watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
            await viewer.until("started")
        async with asyncio.timeout(30):
            assert await watching is Relay.UNREACHABLE
            assert await bus.instruct(OWNER, ID, CloseInput()) is Delivery.UNREACHABLE
        assert local.following == 0
    recording.end()
    assert viewer.numbers == [1]


async def test_what_ends_as_its_server_leaves_arrives_to_its_end(new_bus: NewBus, local: Local, other: Local) -> None:
    recording, viewer, bus = Recording(local.recordings), Viewer(), new_bus()
    async with bus.joined("owner-2", "folder-2", other):
        async with new_bus().joined(OWNER, FOLDER, local):
            watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
            await viewer.until("started")
            for _ in range(50):  # more than is on its way at once
                recording.write(LINE * 200)
            recording.end()
        async with asyncio.timeout(BOUND):
            assert await watching is Relay.ENDED
    assert viewer.received == stored(local)


async def test_a_viewer_that_does_not_read_holds_no_server_up(new_bus: NewBus, local: Local, other: Local) -> None:
    recording, bus, reading = Recording(local.recordings), new_bus(), asyncio.Event()
    for _ in range(50):
        recording.write(LINE * 200)
    recording.end()

    async def send(block: bytes) -> None:
        await reading.wait()

    async with bus.joined("owner-2", "folder-2", other):
        async with asyncio.timeout(LAST_BLOCKS + 3):
            async with new_bus().joined(OWNER, FOLDER, local):
                watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, send))
                await local.until_following(1)
        assert not watching.done()
        watching.cancel()
        await asyncio.wait({watching})


async def test_another_server_of_the_folder_goes_on(
    new_bus: NewBus, local: Local, other: Local, tmp_path: Path
) -> None:
    recording, viewer, bus = Recording(local.recordings), Viewer(), new_bus()
    servers = {each: AsyncExitStack() for each in (local, Local(tmp_path / "local"))}
    async with bus.joined("owner-3", "folder-3", other), AsyncExitStack() as all_servers:
        for number, (server, stack) in enumerate(servers.items()):
            await all_servers.enter_async_context(stack)
            await stack.enter_async_context(new_bus().joined(f"owner-{number}", FOLDER, server))
        watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
        await viewer.until("started")
        recording.write("one\n" * 3)
        await viewer.until("one")
        (asked,) = (server for server in servers if server.following)
        await servers[asked].aclose()
        recording.write("two\n" * 3)
        await viewer.until("two")
        recording.end()
        async with asyncio.timeout(BOUND):
            assert await watching is Relay.ENDED
    assert viewer.numbers == list(range(1, 9))
    assert not any(server.following for server in servers)


async def test_a_server_that_leaves_ends_what_it_watches(new_bus: NewBus, local: Local, other: Local) -> None:
    recording, viewer = Recording(local.recordings), Viewer()
    async with new_bus().joined(OWNER, FOLDER, local):
        bus = new_bus()
        async with bus.joined("owner-2", "folder-2", other):
            watching = asyncio.create_task(bus.follow(FOLDER, ID, 0, viewer.send))
            await viewer.until("started")
            watching.cancel()
        async with asyncio.timeout(30):
            await asyncio.wait({watching})
            await local.until_following(0)
    recording.end()
