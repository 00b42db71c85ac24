"""The use cases of an execution, asked of the server that runs it and of another one."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from backend.application import recordings, submission
from backend.application.executions import Output
from backend.application.recordings import Recording
from backend.application.submission import CommandSpec, Existing, IdempotencyKey
from backend.bus import memory
from backend.core.audit.attempts import Attempt, Completion
from backend.core.decisions import Decision
from backend.core.errors import StorageError
from backend.core.execution import registry
from backend.core.execution.model import (
    CloseInput,
    Delivery,
    Instruction,
    Resize,
    Signal,
    SignalName,
    Status,
    Stop,
    StopReason,
    Write,
)
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import Target, TargetRef
from backend.core.identity import Principal, Project
from backend.core.policy.admit import Plan
from backend.core.ports import Filter
from backend.core.recording.writer import RecordingLog
from tests.application.servers import Servers, part, view
from tests.bus.servers import BOUND, Viewer
from tests.recipes.house import ANN, BOB, ROOT, VISITOR, House, Quiet, build, shared

CANCEL = Stop(StopReason.CANCELLED, ANN.name)
LOST = Completion(Status.LOST, None, 0)
ONCE = IdempotencyKey("key", b"body")


def rule(answer: object) -> str:
    """The rule of a refusal, or what came instead."""
    decision = answer.decision if isinstance(answer, Refused) else answer
    return decision.rule if isinstance(decision, Decision) else f"not refused: {answer}"


class TestStarting:
    async def test_a_key_starts_one_execution_whichever_server_is_asked(self, servers: Servers) -> None:
        first = await servers.here.service.submit(ANN, CommandSpec("echo one"), ONCE)
        assert isinstance(first, Execution)
        for house in (servers.here, servers.there):
            assert await house.service.submit(ANN, CommandSpec("echo one"), ONCE) == Existing(first.id)
        another = await servers.there.service.submit(BOB, CommandSpec("echo one"), ONCE)
        assert isinstance(another, Execution)
        assert [kind for kind in servers.kinds(first.id) if kind == "submitted"] == ["submitted"]

    async def test_a_key_stands_for_one_request(self, servers: Servers) -> None:
        await servers.here.service.submit(ANN, CommandSpec("echo one"), ONCE)
        answer = await servers.there.service.submit(ANN, CommandSpec("echo two"), replace(ONCE, body_hash=b"other"))
        assert rule(answer) == "idempotency.mismatch"

    async def test_a_key_whose_command_has_not_begun_is_waited_for(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(submission, "WAIT", 0)
        claimed = await servers.common.keys.claim(ANN.name, ONCE.key, ONCE.body_hash, servers.common.new_id())
        assert rule(await servers.there.service.submit(ANN, CommandSpec("echo"), ONCE)) == "idempotency.waiting"
        await servers.common.keys.release(ANN.name, ONCE.key, claimed.execution)
        assert isinstance(await servers.there.service.submit(ANN, CommandSpec("echo"), ONCE), Execution)

    async def test_a_refused_command_gives_its_key_back(self, servers: Servers) -> None:
        for house in (servers.here, servers.there):
            assert rule(await house.service.submit(ANN, CommandSpec("sudo ls"), ONCE)) == "blocked.sudo"

    async def test_a_server_that_stops_starts_nothing(self, servers: Servers) -> None:
        await servers.here.gateway.close()
        assert rule(await servers.here.service.submit(ANN, CommandSpec("echo"))) == "server.stopping"

    async def test_an_explanation_runs_and_records_nothing(self, servers: Servers) -> None:
        service = servers.here.service
        assert isinstance(await service.explain(ANN, CommandSpec("echo one")), Plan)
        assert rule(await service.explain(ANN, CommandSpec("sudo ls"))) == "blocked.sudo"
        unknown = CommandSpec("ls", TargetRef("project", "01NONE"))
        assert rule(await service.explain(ANN, unknown)) == "project.unknown"
        assert rule(await service.target(ANN, unknown.target)) == "project.unknown"
        assert (servers.common.executions.rows, servers.common.audit.events) == ({}, [])

    async def test_an_account_whose_profile_is_missing_gets_one_answer_everywhere(self, servers: Servers) -> None:
        assert ANN.user
        service, who = servers.here.service, replace(ANN, user=replace(ANN.user, profile="gone"))
        spec = CommandSpec("ls")
        for once in (None, ONCE):
            assert rule(await service.submit(who, spec, once)) == "target.unknown"
        assert rule(await service.explain(who, spec)) == "target.unknown"
        assert rule(await service.target(who, spec.target)) == "target.unknown"
        unknown = await service.submit(who, CommandSpec("ls", TargetRef("project", "01NONE")))
        assert rule(unknown) == "target.unknown"

    async def test_a_start_that_fails_leaves_nothing(self, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
        async def crash(log: Any, attempt: Attempt) -> None:
            raise RuntimeError("crashed")

        monkeypatch.setattr(type(servers.here.log), "open", crash)
        with pytest.raises(RuntimeError, match="crashed"):
            await servers.here.service.submit(ANN, CommandSpec("echo one"))
        assert not servers.here.service.local.registry.live
        assert not servers.here.gateway.slots.taken
        async with asyncio.timeout(BOUND):
            await servers.here.gateway.close()

    async def test_what_fails_after_the_record_is_recorded_as_the_end(self, servers: Servers) -> None:
        class Broken(Seen):
            def started(self, execution: Execution) -> None:
                raise RuntimeError("no more metrics")

        seen = servers.here.gateway.lifecycle.observer = Broken()
        id = await servers.start()
        await servers.ended(id)
        assert seen.ends == [Status.FAILED]
        assert servers.status(id) is Status.FAILED
        assert not servers.here.service.local.registry.live


class Seen(Quiet):
    """Notes how executions ended."""

    def __init__(self) -> None:
        self.ends: list[Status] = []

    def ended(self, execution: Execution, completion: Completion) -> None:
        self.ends.append(completion.status)

    def handed_over(self, execution: Execution) -> None: ...

    def on_crash(self, execution: str, error: Exception) -> None: ...


class TestReading:
    async def test_any_server_shows_a_record(self, servers: Servers) -> None:
        id = await servers.start("echo one")
        await servers.ended(id)
        records = [await view(house.service, ANN, id) for house in (servers.here, servers.there)]
        assert records[0] == records[1]
        assert (records[0].status, records[0].owner) == (Status.SUCCEEDED, servers.here.service.owner)

    async def test_a_page_has_the_callers_own_or_for_administrators_everyones(self, servers: Servers) -> None:
        mine, other = await servers.start("echo one"), await servers.start("echo two", BOB)
        service = servers.there.service

        async def ids(who: Principal, *, everyone: bool = False) -> list[str] | str:
            found = await service.page(who, Filter(limit=10), everyone=everyone)
            return rule(found) if isinstance(found, Decision) else [record.id for record in found]

        assert await ids(ANN) == [mine]
        assert await ids(VISITOR) == []
        assert await ids(ANN, everyone=True) == "role.forbidden"
        assert await ids(ROOT, everyone=True) == [other, mine]
        assert rule(await service.page(ANN, Filter(), TargetRef("project", "01NONE"))) == "project.unknown"

    async def test_another_server_follows_live_and_from_any_number(self, servers: Servers) -> None:
        id, live, late = await servers.start("cat 9"), Viewer(), Viewer()
        following = asyncio.create_task(servers.there.service.follow(ANN, id, 0, live.send))
        await live.until('"9"')
        assert await servers.there.service.instruct(ANN, id, Signal(SignalName.USR1)) is Delivery.DELIVERED
        await live.until("USR1")
        assert await servers.there.service.instruct(ANN, id, CANCEL) is Delivery.DELIVERED
        assert await following is None
        assert json.loads(bytes(live.received).splitlines()[-1])["status"] == "cancelled"
        assert await servers.there.service.follow(ANN, id, 2, late.send) is None
        assert (live.numbers, late.numbers) == ([1, 2, 3, 4], [3, 4])

    async def test_another_server_reads_slices_and_downloads(self, servers: Servers) -> None:
        id = await servers.start("cat 123456789")
        service = servers.there.service
        output = await service.read_output(ANN, id, part(2, 3))
        assert isinstance(output, Output)
        assert (output.part.data, output.part.next_offset, output.part.total) == ("345", 5, 10)
        assert not output.completed
        await service.instruct(ANN, id, CANCEL)
        await servers.ended(id)
        output = await service.read_output(ANN, id, part(5))
        assert isinstance(output, Output)
        assert (output.part.data, output.completed) == ("6789\n", True)
        downloads = [Viewer(), Viewer()]
        for house, viewer in zip((servers.here, servers.there), downloads, strict=True):
            recording = await house.service.recording(ANN, id)
            assert isinstance(recording, Recording)
            assert not recording.running
            assert await recording.copy(viewer.send) is None
        assert downloads[0].received == downloads[1].received != b""

    async def test_a_recording_that_was_deleted_is_so_on_every_server(self, servers: Servers) -> None:
        id = await servers.start("echo one")
        await servers.ended(id)
        found = servers.here.recordings.find(id)
        assert found
        found.discard()
        for house in (servers.here, servers.there):
            assert rule(await house.service.follow(ANN, id, 0, Viewer().send)) == "execution.unknown"
            assert rule(await house.service.follow_started(id, 0, Viewer().send)) == "execution.forgotten"
            assert isinstance(await house.service.read_output(ANN, id, part()), Output)
        recording = await servers.there.service.recording(ANN, id)
        assert isinstance(recording, Recording)
        assert rule(await recording.copy(Viewer().send)) == "execution.forgotten"

    async def test_what_never_ran_has_no_output_whichever_server_is_away(self, servers: Servers) -> None:
        alone = build(servers.common)
        refused = await alone.service.submit(ANN, CommandSpec("sudo ls"))
        assert isinstance(refused, Refused)
        for house in (alone, servers.there):
            output = await house.service.read_output(ANN, refused.execution, part())
            assert isinstance(output, Output)
            assert (output.part.data, output.completed) == ("", True)
            assert rule(await house.service.recording(ANN, refused.execution)) == "execution.forgotten"
            assert rule(await house.service.follow(ANN, refused.execution, 0, Viewer().send)) == "execution.unknown"

    async def test_what_waits_has_no_output_yet_whichever_server_is_away(self, servers: Servers) -> None:
        alone = build(servers.common)
        own = await alone.resolver.resolve(ANN, TargetRef("local"))
        assert not isinstance(own, Decision)
        object.__setattr__(alone.service.submission, "resolver", Waits(replace(own, waits=True)))
        waiting = await alone.service.submit(ANN, CommandSpec("echo later", detached=True))
        assert isinstance(waiting, Waiting)
        for house in (alone, servers.there):
            output, viewer = await house.service.read_output(ANN, waiting.id, part()), Viewer()
            assert isinstance(output, Output)
            assert (output.part.data, output.completed) == ("", False)
            recording = await house.service.recording(ANN, waiting.id)
            assert isinstance(recording, Recording)
            assert await recording.copy(viewer.send) is None
            assert viewer.received == b""

    async def test_a_disk_that_fails_is_an_answer(self, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
        id = await servers.start("echo one")
        await servers.ended(id)

        def fail(execution: str) -> RecordingLog | None:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(servers.here.recordings, "find", fail)
        for house in (servers.here, servers.there):
            assert rule(await house.service.follow(ANN, id, 0, Viewer().send)) == "recording.unavailable"
            assert rule(await house.service.read_output(ANN, id, part())) == "recording.unavailable"


@dataclass(frozen=True, slots=True)
class Waits:
    """Resolves every name to one target."""

    target: Target

    async def resolve(self, who: Principal, ref: TargetRef) -> Target | Decision:
        return self.target


class TestViewers:
    @pytest.fixture
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recordings, "COUNT_AGAIN", 0)
        monkeypatch.setattr(registry, "FIRST_VIEWER", 0.1)

    async def run(self, house: House) -> Execution:
        """Start a command that ends soon after its last viewer has gone."""
        house.resolver.limits = replace(house.resolver.limits, detach_grace=0.1)
        started = await house.service.submit(ANN, CommandSpec("cat 9"))
        assert isinstance(started, Execution)
        return started

    async def until_counted(self, running: Execution) -> None:
        async with asyncio.timeout(BOUND):
            while not running.viewers:
                await asyncio.sleep(0)
        assert running.abandon is None

    @pytest.mark.parametrize("elsewhere", [False, True], ids=["same folder", "another folder"])
    async def test_one_that_is_connected_to_another_server_counts(self, impatient: None, elsewhere: bool) -> None:
        common = shared()
        runs = build(common)
        neighbour, other = build(common, shares=runs), build(common)
        # The neighbour is found first under the folder that both share, but it does not run the command.
        async with neighbour.joined(), runs.joined(), other.joined():
            running, viewer = await self.run(runs), Viewer()
            service = other.service if elsewhere else neighbour.service
            following = asyncio.create_task(service.follow(ANN, running.id, 0, viewer.send))
            await viewer.until('"9"')
            await self.until_counted(running)
            following.cancel()
            assert running.task
            await running.task
        assert running.instructions.reason is StopReason.ABANDONED
        assert viewer.numbers == [1, 2]

    async def test_one_counts_as_soon_as_the_server_that_runs_it_can_be_reached(self, impatient: None) -> None:
        common = shared()
        runs = build(common)
        neighbour = build(common, shares=runs)
        async with neighbour.joined():
            running, viewer = await self.run(runs), Viewer()
            following = asyncio.create_task(neighbour.service.follow(ANN, running.id, 0, viewer.send))
            await viewer.until('"9"')
            async with runs.joined():
                await self.until_counted(running)
                running.instructions.stop(StopReason.CANCELLED)
                assert await following is None
        assert viewer.numbers == [1, 2, 3]


class TestInstructing:
    @pytest.mark.parametrize(
        ("instruction", "stdin", "delivery"),
        [
            (Signal(SignalName.HUP), False, Delivery.DELIVERED),
            (Write(b"x"), True, Delivery.DELIVERED),
            (Write(b"x" * (1 << 21)), True, Delivery.NOT_READING),
            (Write(b"x"), False, Delivery.CLOSED),
            (CloseInput(), False, Delivery.CLOSED),
            (Resize(80, 24), True, Delivery.CLOSED),
            (CANCEL, False, Delivery.DELIVERED),
        ],
    )
    async def test_the_answer_is_that_of_the_server_that_runs_it(
        self, servers: Servers, instruction: Instruction, stdin: bool, delivery: Delivery
    ) -> None:
        for house in (servers.here, servers.there):
            id = await servers.start(stdin=stdin)
            viewer = Viewer()
            following = asyncio.create_task(servers.here.service.follow(ANN, id, 0, viewer.send))
            await viewer.until('"9"')
            assert await house.service.instruct(ANN, id, instruction) is delivery
            await servers.here.service.instruct(ANN, id, CANCEL)
            await following

    async def test_what_has_ended_receives_nothing(self, servers: Servers) -> None:
        id = await servers.start("echo one")
        await servers.ended(id)
        for house in (servers.here, servers.there):
            assert await house.service.instruct(ANN, id, CANCEL) is Delivery.NOT_RUNNING

    async def test_a_server_that_is_away_is_unreachable(self, servers: Servers) -> None:
        async with AsyncExitStack() as stack:
            third = build(servers.common)
            await stack.enter_async_context(third.joined())
            started = await third.service.submit(ANN, CommandSpec("cat 9", detached=True))
            assert isinstance(started, Execution)
            await stack.aclose()
            assert await servers.there.service.instruct(ANN, started.id, CANCEL) is Delivery.UNREACHABLE
            assert rule(await servers.there.service.read_output(ANN, started.id, part())) == "execution.unreachable"
            await third.gateway.close()

    async def test_a_stop_between_the_record_and_the_start_is_not_lost(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The record is there for all servers some moments before the server that wrote it goes on."""
        stopped: list[Delivery | Decision] = []
        opened = type(servers.here.log).open

        async def open_slowly(log: Any, attempt: Attempt) -> None:
            await opened(log, attempt)
            stopped.append(await servers.there.service.instruct(ANN, attempt.id, CANCEL))

        monkeypatch.setattr(type(servers.here.log), "open", open_slowly)
        id = await servers.start()
        await servers.ended(id)
        assert stopped == [Delivery.DELIVERED]
        assert servers.status(id) is Status.CANCELLED

    async def test_a_stop_that_comes_as_an_execution_is_claimed_reaches_its_owner(
        self, servers: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        resolver = servers.there.resolver
        own = await resolver.resolve(ANN, TargetRef("local"))
        assert not isinstance(own, Decision)

        async def waits(who: Principal, ref: TargetRef) -> Any:
            return replace(own, waits=True)

        monkeypatch.setattr(type(resolver), "resolve", lambda _, who, ref: waits(who, ref))
        waiting = await servers.there.service.submit(ANN, CommandSpec("cat 9", detached=True))
        assert isinstance(waiting, Waiting)
        delivered: list[str] = []

        async def claim_first(ownership: Any, execution: str, completion: Completion) -> bool:
            assert await servers.here.ownership.claim(execution)
            return False

        async def deliver(local: Any, execution: str, instruction: Instruction) -> Delivery:
            delivered.append(execution)
            return Delivery.DELIVERED

        monkeypatch.setattr(type(servers.there.ownership), "cancel_queued", claim_first)
        monkeypatch.setattr(type(servers.here.service.local), "deliver", deliver)
        assert await servers.there.service.instruct(ANN, waiting.id, CANCEL) is Delivery.DELIVERED
        assert delivered == [waiting.id]


class TestLoss:
    @pytest.fixture(autouse=True)
    def impatient(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recordings, "POLL", 0)
        monkeypatch.setattr(memory, "LAST_BLOCKS", 0)

    async def run_and_die(self, servers: Servers) -> tuple[House, str, Viewer, "asyncio.Task[Decision | None]"]:
        """A third server starts a command that is followed from `there`, then it is gone."""
        third, viewer = build(servers.common), Viewer()
        async with third.joined():
            started = await third.service.submit(ANN, CommandSpec("cat 9", detached=True))
            assert isinstance(started, Execution)
            following = asyncio.create_task(servers.there.service.follow(ANN, started.id, 0, viewer.send))
            await viewer.until('"9"')
        return third, started.id, viewer, following

    async def close(self, house: House, dead: str) -> list[bool]:
        """What a server does when it finds a dead one."""
        await house.ownership.release_dead([dead])
        return [await house.ownership.close_expired(each, 0, LOST) for each in await house.ownership.expired(0)]

    async def test_a_follower_gets_the_end_and_the_first_end_stays(self, servers: Servers) -> None:
        third, id, viewer, following = await self.run_and_die(servers)
        assert await self.close(servers.here, third.service.owner) == [True]
        assert await self.close(servers.there, third.service.owner) == []
        async with asyncio.timeout(BOUND):
            assert await following is None
        assert viewer.numbers == [1, 2, 3, 4]
        problem, complete = map(json.loads, bytes(viewer.received).splitlines()[-2:])
        assert (problem["rule"], complete["status"]) == ("server.lost", "lost")
        # It was only frozen: it stops what it runs, and overwrites nothing.
        lost = await third.ownership.renew()
        assert lost == {id}
        third.gateway.lifecycle.registry.stop(lost, StopReason.LEASE_LOST)
        await third.gateway.close()
        assert (servers.status(id), servers.kinds(id)) == (Status.LOST, ["submitted", "started", "lost"])

    @pytest.mark.parametrize("noticed", [False, True])
    async def test_a_server_that_was_frozen_reports_the_end_that_is_on_record(
        self, servers: Servers, noticed: bool
    ) -> None:
        seen = servers.here.gateway.lifecycle.observer = Seen()
        id, viewer = await servers.start(), Viewer()
        following = asyncio.create_task(servers.here.service.follow(ANN, id, 0, viewer.send))
        await viewer.until('"9"')
        assert await self.close(servers.there, servers.here.service.owner) == [True]
        if noticed:
            servers.here.gateway.lifecycle.registry.stop(await servers.here.ownership.renew(), StopReason.LEASE_LOST)
        else:
            await servers.here.service.instruct(ANN, id, CANCEL)
        assert await following is None
        assert viewer.numbers == [1, 2, 3, 4]
        problem, complete = map(json.loads, bytes(viewer.received).splitlines()[-2:])
        assert (problem["rule"], complete["status"], complete["exit_code"]) == ("server.lost", "lost", None)
        await asyncio.sleep(0)
        assert seen.ends == [Status.LOST] == [servers.status(id)]

    async def test_a_follower_that_comes_later_gets_the_end_too(self, servers: Servers) -> None:
        third, id, _, following = await self.run_and_die(servers)
        await self.close(servers.here, third.service.owner)
        await following
        for house in (servers.here, servers.there):
            viewer = Viewer()
            assert await house.service.follow(ANN, id, 0, viewer.send) is None
            assert viewer.numbers == [1, 2]
        await third.gateway.close()

    async def test_who_waits_in_vain_is_told(self, servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recordings, "LOST_BOUND", 0)
        third, _, _, following = await self.run_and_die(servers)
        assert rule(await following) == "execution.unreachable"
        await third.gateway.close()

    async def test_an_execution_that_has_ended_is_not_said_to_be_lost(self, servers: Servers) -> None:
        third, id, viewer, following = await self.run_and_die(servers)
        execution = third.gateway.lifecycle.registry.find(id)
        assert execution
        await execution.seen()  # else the end may still be sent by the way that it is losing
        third.gateway.lifecycle.registry.stop(frozenset({id}), StopReason.CANCELLED)
        assert rule(await following) == "execution.unreachable"
        assert viewer.numbers == [1, 2]
        await third.gateway.close()


class Revoked:
    """No token is valid any more."""

    async def is_valid(self, principal: Principal) -> bool:
        return False


async def test_no_execution_is_shown_for_a_token_that_has_ended(servers: Servers) -> None:
    id = await servers.start("echo one")
    assert await servers.here.service.still_allowed(ANN, id)
    object.__setattr__(servers.here.service, "tokens", Revoked())
    assert not await servers.here.service.still_allowed(ANN)
    assert not await servers.here.service.still_allowed(ANN, id)


class Away:
    """Projects in a database that is away."""

    async def get(self, id: str) -> Project | None:
        raise StorageError("The database is away.")


class TestOutage:
    CALLS: tuple[Callable[[House, str], Awaitable[object]], ...] = (
        lambda house, id: house.service.submit(ANN, CommandSpec("echo one")),
        lambda house, id: house.service.submit(ANN, CommandSpec("echo one"), ONCE),
        lambda house, id: house.service.submit(ANN, CommandSpec("ls", TargetRef("project", "01P"))),
        lambda house, id: house.service.explain(ANN, CommandSpec("ls", TargetRef("project", "01P"))),
        lambda house, id: house.service.target(ANN, TargetRef("project", "01P")),
        lambda house, id: house.service.view(ANN, id),
        lambda house, id: house.service.page(ANN, Filter()),
        lambda house, id: house.service.page(ANN, Filter(), TargetRef("project", "01P")),
        lambda house, id: house.service.follow(ANN, id, 0, Viewer().send),
        lambda house, id: house.service.follow_started(id, 0, Viewer().send),
        lambda house, id: house.service.recording(ANN, id),
        lambda house, id: house.service.read_output(ANN, id, part()),
        lambda house, id: house.service.instruct(ANN, id, CANCEL),
    )

    @pytest.fixture
    def away(self, servers: Servers) -> Servers:
        """The servers, of which nobody can reach the database."""
        servers.there.resolver.projects = Away()  # type: ignore[assignment]
        return servers

    @pytest.mark.parametrize("number", range(len(CALLS)))
    async def test_every_use_case_says_so(self, away: Servers, number: int) -> None:
        id = await away.start("echo one")
        await away.ended(id)
        away.common.executions.outage = StorageError("The database is away.")
        assert rule(await self.CALLS[number](away.there, id)) == "storage.unavailable"

    async def test_viewers_go_on_and_the_end_is_written_later(self, away: Servers) -> None:
        id, viewer = await away.start(), Viewer()
        following = asyncio.create_task(away.there.service.follow(ANN, id, 0, viewer.send))
        await viewer.until('"9"')
        away.common.executions.outage = StorageError("The database is away.")
        for house in (away.here, away.there):
            assert await house.service.still_allowed(ANN, id)
        assert await away.here.service.instruct(ANN, id, CANCEL) is Delivery.DELIVERED
        assert await following is None
        assert viewer.numbers == [1, 2, 3]
        away.common.executions.outage = None
        assert away.status(id) is Status.RUNNING
        assert await away.here.log.retry_unwritten() == 1
        assert (away.status(id), away.kinds(id)) == (
            Status.CANCELLED,
            ["submitted", "started", "cancelled", "finished"],
        )

    async def test_a_follower_waits_through_an_outage_for_the_loss(
        self, away: Servers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(recordings, "POLL", 0)
        monkeypatch.setattr(memory, "LAST_BLOCKS", 0)
        loss = TestLoss()
        third, _, viewer, following = await loss.run_and_die(away)
        away.common.executions.outage = StorageError("The database is away.")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not following.done()
        away.common.executions.outage = None
        await loss.close(away.here, third.service.owner)
        async with asyncio.timeout(BOUND):
            assert await following is None
        assert viewer.numbers == [1, 2, 3, 4]
        await third.gateway.close()
