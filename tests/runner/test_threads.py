"""Heartbeats and questions for work, against a server that answers as a test says."""

import threading
from typing import Any

import pytest

from gatepost_django.heartbeats import AWAY_PAUSES, DENIED_PAUSES, Heartbeats
from gatepost_django.polling import AT_ONCE, EVERY, WAIT, Polling
from gatepost_django.protocol import ManagementCommand, Offer, commands_hash, read_beat, read_offers
from gatepost_django.standing import Active, Away, Denied, Standing, Suspended
from tests.runner.peer import Peer, peer

COMMANDS = [
    ManagementCommand("migrate", "django.core", "usage: ü" * 1000),
    ManagementCommand("check", "django.core", ""),
]
ID = "01a22368-a70b-208a-965b-58262488832a"
ACTIVE = {"runner_state": "active", "commands_in_sync": True, "pending_executions": 0}
OFFER = {"id": ID, "command": "migrate", "args": "--plan", "timeout": 60, "use_metadata_only_mode": False}


def heartbeats(server: Peer) -> Heartbeats:
    versions = {"runner_version": "x"}
    return Heartbeats(server.server(), Standing(), versions, COMMANDS, 30, threading.Event(), lambda: None)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ((200, ACTIVE), Active()),
        ((200, {"runner_state": "suspended", "suspension_reason": "maintenance"}), Suspended("maintenance")),
        ((401, {"detail": "It was revoked."}), Denied("It was revoked.")),
        ((400, {"detail": "The clock is 10 min ahead."}), Away("The clock is 10 min ahead.")),
        ((503, {"detail": "The database is away."}), Away("The database is away. (503)")),
    ],
)
def test_what_a_heartbeat_learns(answer: tuple[int, Any], state: object) -> None:
    with peer(answer) as server:
        beats = heartbeats(server)
        assert beats.beat(beats.server.client()) == state


def test_commands_are_sent_when_the_server_does_not_know_them_with_less_help_if_they_are_too_much() -> None:
    behind = {**ACTIVE, "commands_in_sync": False}
    with peer((200, behind), (413, "<html>"), (200, {"commands_hash": "sha256:its"}), (200, ACTIVE)) as server:
        beats = heartbeats(server)
        assert beats.beat(beats.server.client()) == Active()
        (_, _, first), (_, _, long), (path, _, short) = server.seen
        assert first["commands_hash"] == commands_hash(COMMANDS)
        assert path == "/api/runner/commands/sync/"
        assert [len(each["commands"][0]["help_text"]) for each in (long, short)] == [8000, 1000]
        beats.beat(beats.server.client())
        assert server.seen[-1][2]["commands_hash"] == "sha256:its"


def test_a_key_that_is_refused_is_tried_less_and_less_often() -> None:
    with peer((200, ACTIVE)) as server:
        beats = heartbeats(server)
        pauses = []
        for beats.failures in range(1, 10):
            pauses.append((beats._pause(Denied("")), beats._pause(Away(""))))
        assert [each for each, _ in pauses] == [*DENIED_PAUSES, 300, 300]
        assert [each for _, each in pauses] == [*AWAY_PAUSES, *[30] * 4]
        assert beats._pause(Active()) == 30


class Claims:
    """What is begun instead of an execution; each is refused at once if `won` is false."""

    def __init__(self, won: bool) -> None:
        self.won, self.offers = won, list[Offer]()

    def begin(self, offer: Offer, done: Any) -> bool:
        self.offers.append(offer)
        if not self.won:
            done(False)
        return True


class Stopping(threading.Event):
    """Records what is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.pauses: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(round(timeout or 0.0, 2))
        return False


def polling(server: Peer, claims: Claims) -> Polling:
    times = iter(range(0, 100_000, 0x10))  # each answer takes 16 s
    return Polling(server.server(), Standing(), claims, Stopping(), lambda: float(next(times)))


def test_no_more_is_claimed_than_there_are_slots() -> None:
    offers = [{**OFFER, "id": ID[:-1] + str(number)} for number in range(9)]
    with peer((200, {"executions": offers})) as server:
        poll = polling(server, claims := Claims(won=True))
        poll.poll(poll.server.client())
        assert len(claims.offers) == AT_ONCE
        assert server.seen[0][0] == f"/api/runner/pending/?wait={WAIT:g}"


def test_a_server_that_answers_at_once_is_polled() -> None:
    with peer((200, {"executions": []})) as server:
        poll = polling(server, Claims(won=True))
        poll.poll(poll.server.client())
        poll.clock = lambda: 0.0
        poll.poll(poll.server.client())
        assert isinstance(poll.stopping, Stopping)
        assert poll.stopping.pauses == [0.0, EVERY]


def test_a_server_that_refuses_to_wait_is_asked_without() -> None:
    with peer((422, {"detail": "Unknown parameter."}), (200, {"executions": []})) as server:
        poll = polling(server, Claims(won=True))
        for _ in range(2):
            poll.poll(poll.server.client())
        assert [path for path, _, _ in server.seen][1] == "/api/runner/pending/"


def test_what_others_got_is_not_claimed_again_and_again() -> None:
    with peer((200, {"executions": [OFFER]})) as server:
        poll = polling(server, claims := Claims(won=False))
        poll.clock = lambda: 0.0
        for _ in range(4):
            poll.poll(poll.server.client())
        assert len(claims.offers) == 1
        assert isinstance(poll.stopping, Stopping)
        assert poll.stopping.pauses == [0.05, 0.1, 0.2]


def test_a_key_that_is_refused_is_left_to_the_heartbeats() -> None:
    with peer((403, {"detail": "No."})) as server:
        poll = polling(server, Claims(won=True))
        poll.poll(poll.server.client())
        assert poll.standing.state == Denied("No.")


@pytest.mark.parametrize(
    "answer",
    [{}, {"executions": None}, {"executions": [1, {"id": "../x", "command": "migrate"}, {"id": ID}, {"command": "x"}]}],
)
def test_offers_that_cannot_be_read_are_left_out(answer: Any) -> None:
    assert read_offers(answer) == []


def test_offers_and_heartbeats_are_read() -> None:
    assert read_offers({"executions": [OFFER]}) == [Offer(ID, "migrate", "--plan", 60.0, False)]
    unlimited = {**OFFER, "timeout": None, "use_metadata_only_mode": True}
    assert read_offers({"executions": [unlimited]}) == [Offer(ID, "migrate", "--plan", None, True)]
    assert read_beat({}).in_sync
