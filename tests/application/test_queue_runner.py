"""Executions that wait, and the servers that start them: recorded, instructed and leased like any other."""

import asyncio
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pytest

from backend.application import recordings
from backend.application.submission import CommandSpec
from backend.core.audit.attempts import Attempt
from backend.core.decisions import Decision
from backend.core.errors import RecordingError, StorageError
from backend.core.execution.model import Delivery, Status, Stop, StopReason
from backend.core.execution.ownership import LEASE_MS
from backend.core.execution.requests import Waiting
from backend.core.execution.targets import Target, TargetRef
from backend.core.identity import Principal
from backend.core.policy.files import Unseen
from tests.application.servers import Servers, part, view
from tests.recipes.house import ANN, BOB, VISITOR, House, Speaker, build, load_profile

SHOP, WEB = TargetRef("farm", "shop"), TargetRef("farm", "web")
CANCEL = Stop(StopReason.CANCELLED, "user:ann")


@dataclass(slots=True)
class Farm:
    """The resolver of a server with machines that wait; it runs those that it has `reached`."""

    rest: Any
    reached: frozenset[TargetRef]
    closed: set[str] = field(default_factory=set)

    def reachable(self) -> frozenset[TargetRef]:
        return self.reached

    async def resolve(self, who: Principal, ref: TargetRef) -> Target | Decision:
        match ref:
            case TargetRef("farm", name) if name in self.closed:
                return Decision.deny("target.unknown", f"{ref} is closed.")
            case TargetRef("farm"):
                files, limits = Unseen(PurePosixPath("/srv")), replace(self.rest.limits, detach_grace=0)
                return Target(ref, load_profile("agent"), files, Speaker(), limits, waits=True)
            case _:
                found: Target | Decision = await self.rest.resolve(who, ref)
                return found


def farm(house: House, *reached: TargetRef) -> Farm:
    """Give a server its machines."""
    made = Farm(house.resolver, frozenset(reached))
    object.__setattr__(house.service.submission, "resolver", made)
    return made


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, servers: Servers) -> None:
    """`here` accepts what `there` runs."""
    monkeypatch.setattr(recordings, "POLL", 0)
    farm(servers.here)
    farm(servers.there, SHOP)


async def wait(servers: Servers, line: str = "echo hi", who: Principal = ANN, **fields: Any) -> str:
    """Submit a command that waits; its id."""
    spec = CommandSpec(line, fields.pop("target", SHOP), detached=True, **fields)
    waiting = await servers.here.service.submit(who, spec)
    assert isinstance(waiting, Waiting)
    assert servers.status(waiting.id) is Status.QUEUED
    return waiting.id


async def ended(house: House, id: str) -> None:
    """Wait for the end of an execution that was started there."""
    if live := house.service.local.registry.find(id):
        assert live.task
        await live.task


async def test_it_runs_where_its_target_is_reached_and_is_followed_from_elsewhere(servers: Servers) -> None:
    received = bytearray()

    async def send(block: bytes) -> None:
        received.extend(block)

    id = await wait(servers, client_ref="mine")
    following = asyncio.create_task(servers.here.service.follow(ANN, id, 0, send))
    assert await servers.here.runner.run_once() == 0
    assert await servers.there.runner.run_once() == 1
    assert await following is None
    assert [name in received for name in (b'"lines":["hi"]', b'"id":"mine"', b'"status":"succeeded"')] == [True] * 3
    record = await view(servers.here.service, ANN, id)
    owner, folder = servers.there.service.owner, servers.there.service.folder
    assert (record.status, record.target) == (Status.SUCCEEDED, "farm:shop")
    assert (record.owner, record.folder) == (owner, folder)
    assert servers.kinds(id) == ["submitted", "started", "finished"]
    assert await servers.there.runner.run_once() == 0


async def test_other_targets_wait_on(servers: Servers) -> None:
    id = await wait(servers, target=WEB)
    assert await servers.there.runner.run_once() == 0
    farm(servers.here, WEB)
    assert await servers.here.runner.run_once() == 1
    await ended(servers.here, id)
    assert servers.status(id) is Status.SUCCEEDED


async def test_servers_that_race_start_each_execution_once(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [await wait(servers, f"echo {number}") for number in range(6)]
    houses = [servers.there, *(build(servers.common) for _ in range(3))]
    for house in houses:
        farm(house, SHOP)
    claim = type(servers.there.ownership).claim

    async def claim_slowly(ownership: Any, execution: str) -> bool:
        await asyncio.sleep(0)  # the others come between
        return await claim(ownership, execution)

    monkeypatch.setattr(type(servers.there.ownership), "claim", claim_slowly)
    assert sum(await asyncio.gather(*(house.runner.run_once() for house in houses))) == len(ids)
    for house in houses:
        await house.gateway.close()
    for id in ids:
        assert servers.kinds(id).count("started") == 1
        assert servers.status(id).is_final


async def test_a_cancelled_one_never_runs(servers: Servers) -> None:
    id = await wait(servers)
    assert await servers.here.service.instruct(ANN, id, CANCEL) is Delivery.DELIVERED
    assert await servers.there.runner.run_once() == 0
    assert servers.kinds(id) == ["submitted", "cancelled", "finished"]
    assert servers.status(id) is Status.CANCELLED


@pytest.mark.parametrize("house", ["here", "there"])
@pytest.mark.parametrize("first", ["cancel", "claim"])
async def test_a_stop_during_the_claim_ends_it(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, house: str, first: str
) -> None:
    id = await wait(servers, "cat 9")
    claim = type(servers.there.ownership).claim

    async def claim_and_stop(ownership: Any, execution: str) -> bool:
        claimed = await claim(ownership, execution) if first == "claim" else False
        assert await getattr(servers, house).service.instruct(ANN, id, CANCEL) is Delivery.DELIVERED
        return claimed or await claim(ownership, execution)

    monkeypatch.setattr(type(servers.there.ownership), "claim", claim_and_stop)
    assert await servers.there.runner.run_once() == (first == "claim")
    await ended(servers.there, id)
    assert servers.status(id) is Status.CANCELLED
    assert servers.kinds(id).count("started") == (first == "claim")
    assert servers.there.service.local.registry.live == {}
    assert servers.there.gateway.slots.taken.total() == 0


async def test_it_is_leased_and_takes_instructions(servers: Servers) -> None:
    id = await wait(servers, "cat 9")
    await servers.there.runner.run_once()
    assert await servers.there.ownership.renew() == frozenset()
    now = servers.common.clock()
    assert await servers.here.ownership.expired(now + LEASE_MS - 1) == []
    [record] = await servers.here.ownership.expired(now + LEASE_MS)
    assert record.id == id
    assert await servers.here.service.instruct(ANN, id, CANCEL) is Delivery.DELIVERED
    await ended(servers.there, id)
    assert (servers.status(id), servers.there.log.holdings.ids) == (Status.CANCELLED, frozenset())


async def test_without_a_slot_it_waits(servers: Servers) -> None:
    small = build(servers.common, slots=1)
    farm(small, SHOP)
    first, second = await wait(servers, "cat 9"), await wait(servers)
    assert await small.runner.run_once() == 1
    assert servers.status(second) is Status.QUEUED
    await small.service.instruct(ANN, first, CANCEL)
    await ended(small, first)
    assert await small.runner.run_once() == 1
    await ended(small, second)
    assert servers.status(second) is Status.SUCCEEDED


async def test_a_server_that_stops_takes_nothing(servers: Servers) -> None:
    id = await wait(servers)
    await servers.there.gateway.close()
    assert await servers.there.runner.run_once() == 0
    assert servers.status(id) is Status.QUEUED


@pytest.mark.parametrize("failing", ["recording", "claim"])
async def test_what_cannot_be_recorded_waits(servers: Servers, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    id = await wait(servers)

    def no_file(_: Any, execution: str) -> Any:
        raise RecordingError("The disk is full.")

    async def no_claim(_: Any, execution: str) -> bool:
        raise StorageError("The database cannot be reached.")

    with monkeypatch.context() as patch:
        if failing == "recording":
            patch.setattr(type(servers.there.recordings), "create", no_file)
        else:
            patch.setattr(type(servers.there.ownership), "claim", no_claim)
        assert await servers.there.runner.run_once() == 0
    assert (servers.status(id), servers.there.service.local.registry.live) == (Status.QUEUED, {})
    assert await servers.there.runner.run_once() == 1
    await ended(servers.there, id)
    assert servers.status(id) is Status.SUCCEEDED


async def test_an_outage_is_reported(servers: Servers) -> None:
    await wait(servers)
    servers.common.executions.outage = StorageError("The database cannot be reached.")
    with pytest.raises(StorageError):
        await servers.there.runner.run_once()


@pytest.mark.parametrize("why", ["disabled", "closed"])
async def test_what_its_account_may_not_run_any_more_is_denied(servers: Servers, why: str) -> None:
    id = await wait(servers, who=BOB)
    if why == "disabled":
        await servers.common.identities.set_disabled("01BOB", True)
    else:
        farm(servers.there, SHOP).closed.add("shop")
    assert await servers.there.runner.run_once() == 0
    assert (servers.status(id), servers.kinds(id)) == (Status.DENIED, ["submitted", "finished"])
    reason = "farm:shop is closed." if why == "closed" else "You may view executions, but not run commands."
    assert servers.common.audit.events[-1].fields["reason"] == reason


async def test_a_job_that_cannot_be_read_fails_and_the_next_one_runs(servers: Servers) -> None:
    spoilt, next = await wait(servers), await wait(servers)
    servers.common.executions.rows[spoilt].job = "{}"
    assert await servers.there.runner.run_once() == 1
    await ended(servers.there, next)
    assert (servers.status(spoilt), servers.status(next)) == (Status.FAILED, Status.SUCCEEDED)


async def test_it_is_run_as_it_was_submitted(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    id = await wait(servers, who=VISITOR, timeout=7, metadata_only=True, stdin=True)
    opened: list[Attempt] = []
    started = type(servers.there.gateway.lifecycle.observer).started

    def note(observer: Any, execution: Any) -> None:
        opened.append(execution)
        started(observer, execution)

    monkeypatch.setattr(type(servers.there.gateway.lifecycle.observer), "started", note)
    await servers.there.runner.run_once()
    await ended(servers.there, id)
    request: Any = opened[0]
    request = request.request
    assert (request.principal.name, request.principal.address) == (VISITOR.name, VISITOR.address)
    assert (request.command, request.seconds, request.stdin, request.detached) == ("echo hi", 7, True, True)
    output = await servers.here.service.read_output(VISITOR, id, part())
    assert not isinstance(output, Decision)
    assert (output.part.data, output.completed) == ("", True)
