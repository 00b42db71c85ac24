"""Messages of strangers: whatever they are, reading them raises nothing."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.hosts.envelope import Party
from backend.core.hosts.messages import (
    DEEPEST,
    MOST_AGE,
    Command,
    SeenIds,
    is_deep,
    read_answer,
    read_command,
    read_object,
    sign,
    verify,
)
from backend.core.hosts.registry import HostEntry
from backend.core.times import iso

NOW, SECRET = 1_700_000_000, "shared"
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("command_id", "command", "params", "timestamp", "sender", "auth", "host", "status", "type", "error", "output")
MESSAGES = st.dictionaries(st.sampled_from(NAMES), VALUES | st.sampled_from(["x", NOW, "success"]))


@given(MESSAGES)
def test_reading_never_raises(message: dict[str, Any]) -> None:
    read_answer(message)
    verify(message, "web-01", SECRET, NOW)
    verify(sign(message, SECRET, NOW), "web-01", SECRET, NOW)
    data = json.dumps(message).encode()
    read_command(data, "web-01", None, NOW, SeenIds())
    read_command(data, "web-01", SECRET, NOW, SeenIds())


@pytest.mark.parametrize("status", [[], {}, ["success"], None, 1])
def test_an_answer_needs_a_status(status: Any) -> None:
    assert read_answer({"command_id": "x", "status": status}) is None


@pytest.mark.parametrize("timestamp", [10**400, -(10**400), NOW + MOST_AGE + 1, NOW - MOST_AGE - 1])
def test_any_time_that_is_far_away_is_stale(timestamp: int) -> None:
    assert verify(sign({}, SECRET, timestamp), "web-01", SECRET, NOW) == "it is stale"
    party = Party("web-01", SECRET)
    assert "it is stale" in str(party.open(party.seal("host", "run", {}, "1", timestamp), "host", NOW, SeenIds()))


@pytest.mark.parametrize(("begin", "end"), [("[", "]"), ('{"a":', "}")])
def test_a_message_has_few_levels(begin: str, end: str) -> None:
    for levels in range(DEEPEST, 1100):
        deep = begin * levels + "1" + end * levels
        text = f'{{"command_id":"x","command":"echo","params":{deep},"timestamp":{NOW},"auth":{{"signature":"0"}}}}'
        assert not isinstance(read_command(text.encode(), "web-01", None, NOW, SeenIds()), Command)
        assert not isinstance(read_command(text.encode(), "web-01", SECRET, NOW, SeenIds()), Command)


def test_levels_are_counted_not_brackets() -> None:
    assert read_object(json.dumps({"output": "[" * 1000, "l": [[]] * 1000}).encode())
    assert not is_deep([[1]], 2)
    assert is_deep([[1]], 1)
    assert is_deep([[]], 1)


@given(st.dictionaries(st.sampled_from(sorted(HostEntry("x", True, 0).fields())), st.text() | st.floats().map(str)))
def test_an_entry_can_be_shown(fields: dict[str, str]) -> None:
    entry = HostEntry.parse("web-01", fields)
    assert iso(int(entry.last_heartbeat * 1000))
    assert iso(int(entry.started_at * 1000))
    assert Party("web-01", SECRET).check_fields(fields) is False
