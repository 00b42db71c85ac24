"""Notifications from the end of an execution to the receiver: on SQLite and PostgreSQL, over real sockets."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from backend.application.executions import ExecutionService
from backend.application.notifier import Notifier
from backend.core.audit.attempts import Attempt, Completion
from backend.core.execution.model import Status
from backend.core.identity import Role, User, acting_as
from backend.core.notifications.model import Delivery, DeliveryStatus, EventType, Failure, Notification
from backend.core.notifications.rules import CLAIM, MOST_ATTEMPTS, new_secret
from backend.core.policy.egress import parse_hosts
from backend.executors.local.egress import own_addresses
from backend.notifiers.senders import Senders
from backend.notifiers.webhook import Webhooks
from backend.runtime.clock import new_id
from backend.storage.database import Database
from backend.storage.execution_history import SqlExecutionHistory
from backend.storage.identities import SqlIdentities
from backend.storage.notifications import SqlNotifications
from backend.storage.projects import SqlProjects
from tests.notifiers.receivers import receiving
from tests.recipes.house import House, house  # noqa: F401
from tests.storage.conftest import START
from tests.storage.writing import Ledger, attempt, refusal

USUAL = frozenset({EventType.FAILED, EventType.LOST, EventType.RECOVERED})


@dataclass
class Desk:
    """The stores of a service, and what ends in it."""

    database: Database
    ledger: Ledger
    service: ExecutionService
    now: int = START
    sent: list[Delivery] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.store = SqlNotifications(self.database)
        self.users = SqlIdentities(self.database, lambda: self.now, new_id)
        self.projects = SqlProjects(self.database, lambda: self.now, new_id)
        history = SqlExecutionHistory(self.database)
        self.service = replace(self.service, history=history, projects=self.projects)

    def notifier(self, port: int = 1) -> Notifier:
        senders = Senders(Webhooks(own_addresses, parse_hosts(f"127.0.0.1:{port}")), None)
        return Notifier(self.store, self.service, self.users, senders, lambda: self.now, new_id, lambda: 0)

    async def user(self, name: str, role: Role = Role.OPERATOR) -> User:
        user = await self.users.add_user(name, role)
        assert user
        return user

    async def asked(
        self, owner: User, subject: str = "executions", events: frozenset[EventType] = USUAL, port: int = 1
    ) -> Notification:
        url = f"http://127.0.0.1:{port}/"
        new = Notification(new_id(), owner.id, "a name", subject, events, url, None, new_secret(b"k" * 32), START)
        assert await self.store.add(new, 9)
        return new

    async def ends(self, owner: User, status: Status, command: str = "echo x", **fields: Any) -> Attempt:
        """An execution of an account that is opened and closed."""
        tried = attempt(command, principal=acting_as(owner), **fields)
        await self.ledger.executions.open(tried)
        await self.ledger.executions.close(tried, Completion(status, 0, 1))
        return tried

    async def events(self, notification: Notification, port: int = 1) -> list[str]:
        await self.notifier(port).run_once()
        return [str(each.event) for each in await self.store.deliveries(notification.id, 99)][::-1]


@pytest.fixture
def desk(database: Database, ledger: Ledger, house: House) -> Desk:  # noqa: F811
    return Desk(database, ledger, house.service)


async def test_failures_and_recoveries_are_reported(desk: Desk) -> None:
    ann = await desk.user("ann")
    assert await desk.ends(ann, Status.FAILED)  # nobody has asked yet
    assert await desk.store.ended(9) == []
    usual, every = await desk.asked(ann), await desk.asked(ann, events=frozenset(EventType))
    for status in (Status.SUCCEEDED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.TIMED_OUT, Status.LOST):
        await desk.ends(ann, status)
    await desk.ends(ann, Status.SUCCEEDED, "echo other")
    await desk.ends(ann, Status.SUCCEEDED)
    assert await desk.events(usual) == ["recovered", "failed", "failed", "lost", "recovered"]
    assert len(await desk.events(every)) == 8


async def test_each_is_reported_to_those_who_may_view_it(desk: Desk) -> None:
    ann, bob, root = await desk.user("ann"), await desk.user("bob"), await desk.user("root", Role.ADMIN)
    project = await desk.projects.add("shop", ann.id)
    subject, schedule = f"project:{project.id}", "5" * 26
    asked = {
        "own": await desk.asked(ann),
        "bob's own": await desk.asked(bob),
        "bob's of the project": await desk.asked(bob, subject),
        "root's of the project": await desk.asked(root, subject),
        "root's of the schedule": await desk.asked(root, f"schedule:{schedule}"),
        "bob's of the schedule": await desk.asked(bob, f"schedule:{schedule}"),
    }
    await desk.ends(ann, Status.FAILED, project=project.id)
    await desk.ends(ann, Status.FAILED, schedule=schedule)
    refused = attempt("rm", refusal(), principal=acting_as(ann), schedule=schedule)
    await desk.ledger.executions.refuse(refused)
    await desk.ledger.executions.refuse(attempt("rm", refusal(), principal=acting_as(ann)))
    counts = {name: len(await desk.events(each)) for name, each in asked.items()}
    assert counts == {
        "own": 3,
        "bob's own": 0,
        "bob's of the project": 0,
        "root's of the project": 1,
        "root's of the schedule": 2,
        "bob's of the schedule": 0,
    }
    await desk.users.set_disabled(root.id, True)
    await desk.ends(ann, Status.FAILED, project=project.id)
    assert len(await desk.events(asked["root's of the project"])) == 1


async def test_a_message_reaches_the_receiver_once(desk: Desk) -> None:
    ann = await desk.user("ann")
    async with receiving() as receiver:
        notification = await desk.asked(ann, port=receiver.port)
        ended = await desk.ends(ann, Status.FAILED, "cat 'ä'")
        await asyncio.gather(*(desk.notifier(receiver.port).run_once() for _ in range(4)))  # four servers
    ((_, body),) = receiver.requests
    message = json.loads(body)
    assert (message["event"], message["execution"]["id"], message["execution"]["command"]) == (
        "failed",
        ended.id,
        "cat 'ä'",
    )
    (delivery,) = await desk.store.deliveries(notification.id, 9)
    assert (delivery.status, delivery.attempts, delivery.error) == (DeliveryStatus.DELIVERED, 1, "")


async def test_an_account_with_many_messages_delays_those_of_no_other(desk: Desk) -> None:
    ann, bob = await desk.user("ann"), await desk.user("bob")
    for owner, count in ((ann, 5), (bob, 1)):
        await desk.asked(owner)
        for _ in range(count):
            await desk.ends(owner, Status.FAILED)
    notifier = desk.notifier()
    for execution in await desk.store.ended(10):
        await desk.store.looked_at(execution, await notifier._deliveries(execution))
    due = await desk.store.due(desk.now, 3)
    assert sorted(each.owner_id for each, _ in due) == sorted([ann.id, ann.id, bob.id])


async def test_a_receiver_that_fails_is_tried_again_and_then_given_up(desk: Desk) -> None:
    ann = await desk.user("ann")
    async with receiving(b"HTTP/1.1 503 Busy\r\n\r\n") as receiver:
        notification = await desk.asked(ann, port=receiver.port)
        await desk.ends(ann, Status.LOST)
        waits = []
        for _ in range(MOST_ATTEMPTS):
            await desk.notifier(receiver.port).run_once()
            await desk.notifier(receiver.port).run_once()  # too early
            (delivery,) = await desk.store.deliveries(notification.id, 9)
            waits.append((delivery.next_ms - desk.now) // 1000)
            desk.now = delivery.next_ms
        assert len(receiver.requests) == MOST_ATTEMPTS
        assert waits[:4] == [10, 30, 90, 270]
        assert (delivery.status, delivery.error) == (DeliveryStatus.DEAD, "the receiver answered 503")
        desk.now += 10**9
        await desk.notifier(receiver.port).run_once()
        assert len(receiver.requests) == MOST_ATTEMPTS


async def test_a_server_that_dies_while_it_sends_loses_nothing(desk: Desk) -> None:
    ann = await desk.user("ann")
    async with receiving() as receiver:
        await desk.asked(ann, port=receiver.port)
        await desk.ends(ann, Status.FAILED)
        notifier = desk.notifier(receiver.port)
        dying = replace(notifier, sender=Dying())
        with pytest.raises(KeyError):
            await dying.run_once()
        await notifier.run_once()
        assert receiver.requests == []
        desk.now += CLAIM
        await notifier.run_once()
        assert len(receiver.requests) == 1


class Dying:
    """A sender in a server that ends."""

    async def send(self, notification: Notification, delivery: Delivery) -> Failure | None:
        raise KeyError

    def refusal(self, url: str | None, email: str | None) -> str:
        return ""


async def test_of_many_servers_one_looks_at_an_end(desk: Desk) -> None:
    ann = await desk.user("ann")
    notification = await desk.asked(ann)
    ended = await desk.ends(ann, Status.FAILED)
    await desk.ends(ann, Status.FAILED)
    new = Delivery(new_id(), notification.id, ended.id, EventType.FAILED, "{}", START, START)
    looked = await asyncio.gather(*(desk.store.looked_at(ended.id, [replace(new, id=new_id())]) for _ in range(6)))
    assert sorted(looked) == [False] * 5 + [True]
    assert await desk.store.has_work(0)  # the other end
    assert len(await desk.store.ended(9)) == 1
    (delivery,) = await desk.store.deliveries(notification.id, 9)
    later = replace(delivery, next_ms=START + 5)
    claims = await asyncio.gather(*(desk.store.replace(delivery, later) for _ in range(6)))
    assert sorted(claims) == [False] * 5 + [True]
    (other,) = await desk.store.ended(9)
    assert await desk.store.looked_at(other, [])
    assert [await desk.store.has_work(now) for now in (START, START + 5)] == [False, True]
    assert await desk.store.due(START, 9) == []
    assert await desk.store.due(START + 5, 9) == [(notification, later)]


async def test_what_is_stored(desk: Desk) -> None:
    ann, bob = await desk.user("ann"), await desk.user("bob")
    mine, other = await desk.asked(ann), await desk.asked(bob, "schedule:5")
    assert (await desk.store.get(mine.id), await desk.store.get("\0")) == (mine, None)
    assert (await desk.store.of(ann.id), await desk.store.of(None)) == ([mine], [mine, other])
    assert not await desk.store.add(replace(mine, id=new_id()), 1)
    done = Delivery(new_id(), mine.id, "E", EventType.LOST, "{}", START, START, DeliveryStatus.DEAD, 3, "why")
    await desk.ends(ann, Status.FAILED)
    (ended,) = await desk.store.ended(9)
    await desk.store.looked_at(ended, [done, replace(done, id=new_id(), status=DeliveryStatus.PENDING)])
    assert done in await desk.store.deliveries(mine.id, 9)
    assert await desk.store.delivery(mine.id, done.id) == done
    assert [await desk.store.delivery(*ids) for ids in ((other.id, done.id), (mine.id, "\0"))] == [None, None]
    assert await desk.store.dead() == {mine.id: 1}
    assert await desk.store.prune(START + 1) == 1
    assert await desk.store.dead() == {}
    assert await desk.store.delete(mine.id)
    assert not await desk.store.delete(mine.id)
    assert await desk.store.due(START, 9) == []
