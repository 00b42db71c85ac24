"""The terminal's protocol without a socket: frames in, actions out."""

import json
from typing import Any

import pytest

from backend.core.decisions import Decision
from backend.core.execution.model import CloseInput, Delivery, Resize, Signal, SignalName, Stop, StopReason, Write
from backend.core.execution.targets import TargetRef
from backend.core.identity import Principal, Role, User
from backend.core.recording.messages import Pong, Queued, Ready, Refused
from backend.transports.terminal_protocol import (
    FRAME_LIMIT,
    WAITING_LIMIT,
    WATCH_LIMIT,
    Actions,
    Close,
    Follow,
    Identify,
    Instruct,
    Reject,
    Say,
    Submit,
    TerminalProtocol,
    Unfollow,
    Welcome,
)

A, B, C = (f"01ARZ3NDEKTSV4RRFFQ69G5FA{letter}" for letter in "ABC")
VISITOR = Principal("visitor:1", "10.0.0.1")
ANN = Principal(
    "user:ann", "10.0.0.1", Role.OPERATOR.permissions, User("1", "ann", Role.OPERATOR, "agent", False, 0, 0)
)
DENIED = Decision.deny("blocked.rm", "rm is blocked.", "See help.")


@pytest.fixture
def protocol() -> TerminalProtocol:
    made = TerminalProtocol(VISITOR, "Gatepost", "1.0")
    made.welcomed("terminal")
    return made


def frame(**fields: Any) -> str:
    return json.dumps(fields)


def rule(actions: Actions) -> str:
    """The rule of the one refusal among the actions."""
    (said,) = [action.message for action in actions if isinstance(action, Say)]
    assert isinstance(said, Refused)
    return said.rule


class TestAuthentication:
    def test_a_visitor_is_welcomed(self) -> None:
        protocol = TerminalProtocol(VISITOR, "Gatepost", "1.0")
        assert protocol.identified(VISITOR) == [Welcome()]
        (said,) = protocol.welcomed("terminal")
        assert isinstance(said, Say)
        assert isinstance(said.message, Ready)
        assert (said.message.profile, said.message.user) == ("terminal", None)

    def test_without_a_token_the_first_message_may_bring_one(self) -> None:
        protocol = TerminalProtocol(VISITOR, "Gatepost", "1.0")
        assert rule(protocol.identified(DENIED, may_try=True)) == "blocked.rm"
        assert protocol.receive(frame(type="auth", token="t")) == [Identify("t")]
        assert protocol.identified(ANN) == [Welcome()]
        assert protocol.principal is ANN

    def test_another_first_message_is_no_token(self) -> None:
        protocol = TerminalProtocol(VISITOR, "Gatepost", "1.0")
        protocol.identified(DENIED, may_try=True)
        assert protocol.receive(frame(command="ls")) == [Identify(None)]
        reject, _, close = protocol.identified(DENIED)
        assert (reject, close) == (Reject("blocked.rm"), Close(4001, "blocked.rm"))

    def test_a_visitor_becomes_an_account_once(self, protocol: TerminalProtocol) -> None:
        assert protocol.receive(frame(type="auth", token="t")) == [Identify("t")]
        assert protocol.identified(ANN) == [Welcome()]
        assert rule(protocol.receive(frame(type="auth", token="t"))) == "auth.unneeded"

    def test_who_is_known_already_is_told_so(self, protocol: TerminalProtocol) -> None:
        assert rule(protocol.identified(VISITOR)) == "auth.unneeded"

    def test_after_its_token_expired_nothing_is_taken(self, protocol: TerminalProtocol) -> None:
        protocol.receive(frame(type="attach", execution=A))
        protocol.receive(frame(command="one"))
        protocol.receive(frame(command="two"))
        unfollow, said, close = protocol.expired()
        assert (unfollow, close) == (Unfollow(A), Close(4001, "auth.ended"))
        assert rule([said]) == "auth.ended"
        assert protocol.receive(frame(command="ls")) == []
        assert protocol.followed(A, None) == []


class TestQueue:
    def test_commands_of_the_oldest_frame_run_in_turn(self, protocol: TerminalProtocol) -> None:
        (first,) = protocol.receive(frame(command="one"))
        assert isinstance(first, Submit)
        assert (first.spec.command, first.spec.stdin, first.in_turn) == ("one", False, True)
        assert protocol.receive(frame(command="two")) == []
        assert protocol.submitted(first, A) == [Follow(A, 0, started=True)]
        (second,) = protocol.followed(A, None)
        assert isinstance(second, Submit)
        assert second.spec.command == "two"

    def test_one_that_starts_later_is_named_before(self, protocol: TerminalProtocol) -> None:
        (submit,) = protocol.receive(frame(type="run", command="@shop migrate", id="7"))
        assert isinstance(submit, Submit)
        said, follow = protocol.submitted(submit, A, queued=True)
        assert isinstance(said, Say)
        assert isinstance(said.message, Queued)
        assert (said.message.execution, said.message.id) == (A, "7")
        assert follow == Follow(A, 0, started=True)
        (instruct,) = protocol.receive(frame(type="cancel", execution=A))
        assert isinstance(instruct, Instruct)

    def test_a_refused_one_makes_room_for_the_next(self, protocol: TerminalProtocol) -> None:
        (first,) = protocol.receive(frame(command="rm x"))
        protocol.receive(frame(command="two"))
        assert isinstance(first, Submit)
        said, second = protocol.submitted(first, DENIED)
        assert isinstance(said, Say)
        assert isinstance(said.message, Refused)
        assert (said.message.command, said.message.rule) == ("rm x", "blocked.rm")
        assert isinstance(second, Submit)

    def test_an_empty_line_is_no_command(self, protocol: TerminalProtocol) -> None:
        assert protocol.receive(frame(command="  ")) == []
        assert protocol.receive(frame(type="run", command=" ")) == []

    def test_the_queue_is_bounded(self, protocol: TerminalProtocol) -> None:
        for number in range(WAITING_LIMIT + 1):
            protocol.receive(frame(command=f"echo {number}"))
        assert rule(protocol.receive(frame(command="one more"))) == "limits.queue"

    def test_run_starts_at_once(self, protocol: TerminalProtocol) -> None:
        protocol.receive(frame(command="one"))
        (submit,) = protocol.receive(frame(type="run", command="two", project=A, timeout=3, id="mine"))
        assert isinstance(submit, Submit)
        assert (submit.spec.target, submit.spec.stdin, submit.spec.client_ref) == (
            TargetRef("project", A),
            True,
            "mine",
        )
        assert not submit.in_turn

    def test_run_names_any_target(self, protocol: TerminalProtocol) -> None:
        (submit,) = protocol.receive(frame(type="run", command="ls", target="machine:web-01"))
        assert isinstance(submit, Submit)
        assert submit.spec.target == TargetRef("machine", "web-01")

    @pytest.mark.parametrize(
        "named",
        [{"target": ""}, {"target": "a:b:c"}, {"target": "A:b"}, {"target": "a:\n"}, {"target": "local", "project": A}],
    )
    def test_a_target_that_cannot_be_is_refused(self, protocol: TerminalProtocol, named: dict[str, str]) -> None:
        assert rule(protocol.receive(frame(type="run", command="ls", **named))) == "frame.invalid"


class TestInstructions:
    @pytest.mark.parametrize(
        ("fields", "instruction"),
        [
            ({"type": "cancel"}, Stop(StopReason.CANCELLED, VISITOR.name)),
            ({"type": "stdin", "data": "é"}, Write("é".encode())),
            ({"type": "stdin_close"}, CloseInput()),
            ({"type": "signal", "signal": "INT"}, Signal(SignalName.INT)),
            ({"type": "resize", "columns": 80, "rows": 24}, Resize(80, 24)),
        ],
    )
    def test_they_go_to_the_one_that_is_named_and_else_to_the_newest(
        self, protocol: TerminalProtocol, fields: dict[str, Any], instruction: object
    ) -> None:
        assert rule(protocol.receive(frame(**fields))) == "execution.not_running"
        for execution in (A, B):
            protocol.receive(frame(type="attach", execution=execution))
        assert protocol.receive(frame(**fields)) == [Instruct(B, instruction)]  # type: ignore[arg-type]
        assert protocol.receive(frame(execution=A, **fields)) == [Instruct(A, instruction)]  # type: ignore[arg-type]
        assert rule(protocol.receive(frame(execution=C, **fields))) == "execution.not_running"

    def test_a_cancel_that_comes_as_the_command_ends_is_no_error(self, protocol: TerminalProtocol) -> None:
        protocol.receive(frame(type="attach", execution=A))
        stop = Instruct(A, Stop(StopReason.CANCELLED, VISITOR.name))
        assert protocol.instructed(stop, Delivery.NOT_RUNNING) == []
        protocol.followed(A, None)
        assert protocol.receive(frame(type="cancel")) == []
        assert protocol.receive(frame(type="cancel", execution=A)) == []
        assert rule(protocol.receive(frame(type="cancel", execution=B))) == "execution.not_running"
        assert rule(protocol.receive(frame(type="stdin", data="x"))) == "execution.not_running"

    @pytest.mark.parametrize(
        ("delivery", "expected"),
        [
            (Delivery.NOT_RUNNING, "execution.not_running"),
            (Delivery.NOT_READING, "stdin.full"),
            (Delivery.CLOSED, "stdin.closed"),
            (Delivery.UNREACHABLE, "execution.unreachable"),
        ],
    )
    def test_what_has_no_effect_is_reported(
        self, protocol: TerminalProtocol, delivery: Delivery, expected: str
    ) -> None:
        assert rule(protocol.instructed(Instruct(A, Write(b"x")), delivery)) == expected
        assert protocol.instructed(Instruct(A, Write(b"x")), Delivery.DELIVERED) == []


class TestFollowing:
    def test_an_execution_is_followed_once_and_only_so_many(self, protocol: TerminalProtocol) -> None:
        assert protocol.receive(frame(type="attach", execution=A, after_seq=7)) == [Follow(A, 7)]
        assert rule(protocol.receive(frame(type="attach", execution=A))) == "attach.twice"
        for number in range(WATCH_LIMIT - 1):
            protocol.receive(frame(type="attach", execution=f"{B[:-1]}{number}"))
        assert rule(protocol.receive(frame(type="attach", execution=C))) == "limits.watching"
        protocol.followed(A, None)
        assert protocol.receive(frame(type="attach", execution=C)) == [Follow(C, 0)]

    def test_one_that_is_not_there_is_refused_and_forgotten(self, protocol: TerminalProtocol) -> None:
        protocol.receive(frame(type="attach", execution=A))
        assert rule(protocol.followed(A, DENIED)) == "blocked.rm"
        assert protocol.following == []

    def test_one_that_may_not_be_seen_any_more_is_not_sent_any_more(self, protocol: TerminalProtocol) -> None:
        protocol.receive(frame(type="attach", execution=A))
        unfollow, _ = protocol.forbidden(A, DENIED)
        assert unfollow == Unfollow(A)


class TestFrames:
    @pytest.mark.parametrize("text", [None, "", "{", "[]", '{"type":"other"}', '{"command":3}', "nul\0", "\ud800"])
    def test_what_is_no_message_is_answered(self, protocol: TerminalProtocol, text: str | None) -> None:
        actions = protocol.receive(text)
        assert actions[0] == Reject("frame.invalid")
        assert rule(actions) == "frame.invalid"

    def test_a_frame_that_is_too_large_closes(self, protocol: TerminalProtocol) -> None:
        for text in ("x" * (FRAME_LIMIT + 1), "é" * (FRAME_LIMIT // 2 + 1)):
            assert protocol.receive(text) == [Reject("limits.frame"), Close(1009, "limits.frame")]

    def test_a_ping_is_answered(self, protocol: TerminalProtocol) -> None:
        assert protocol.receive(frame(type="ping", id="7")) == [Say(Pong(id="7"))]
