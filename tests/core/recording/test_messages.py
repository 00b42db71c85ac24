"""What a client may say."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backend.core.recording.messages import CLIENT_MESSAGE, Command, Ping, Run

ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


def test_the_oldest_frame_has_no_type() -> None:
    assert CLIENT_MESSAGE.validate_json('{"command":"ls"}') == Command(command="ls")


def test_fields_of_the_future_are_ignored() -> None:
    assert CLIENT_MESSAGE.validate_json('{"type":"ping","colour":"red"}') == Ping(type="ping")


def test_run_has_defaults() -> None:
    message = CLIENT_MESSAGE.validate_json('{"type":"run","command":"ls"}')
    assert message == Run(type="run", command="ls", cwd=".", timeout=None, dry_run=False, id=None)


@pytest.mark.parametrize(
    "message",
    [
        {},
        [],
        "ls",
        None,
        3,
        {"type": "other"},
        {"type": None},
        {"type": ["run"], "command": "ls"},
        {"command": 3},
        {"type": "run"},
        {"type": "run", "command": "ls", "timeout": 0},
        {"type": "run", "command": "ls", "timeout": "soon"},
        {"type": "run", "command": "ls", "id": "x" * 65},
        {"type": "attach", "execution": "../../etc/passwd"},
        {"type": "attach", "execution": ID, "after_seq": -1},
        {"type": "attach"},
        {"type": "cancel", "execution": ID.lower()},
        {"type": "stdin"},
        {"type": "auth"},
    ],
)
def test_what_is_no_message_is_refused(message: object) -> None:
    with pytest.raises(ValidationError):
        CLIENT_MESSAGE.validate_json(json.dumps(message))


@given(st.text())
def test_any_text_is_a_message_or_a_validation_error(text: str) -> None:
    try:
        CLIENT_MESSAGE.validate_json(text)
    except ValidationError:
        return
