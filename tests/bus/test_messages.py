"""What servers write to each other: it comes back as it was, and anything else is no message."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.bus.messages import HEADER_LIMIT, Close, End, Follow, Instruct, Message, Result, decode, encode
from backend.core.execution.model import Stop, StopReason, Write

TOKENS = st.text("0123456789abcdef", min_size=32, max_size=32)
IDS = st.text("0123456789ABCDEFGHJKMNPQRSTVWXYZ", min_size=26, max_size=26)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=100)
NUMBERS = st.integers(-(2**63), 2**63)
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "id": TOKENS,
    "reply": TOKENS,
    "replaces": TOKENS | st.just(""),
    "execution": IDS,
    "deadline": st.floats(0, 1e10),
    "strerror": TEXTS,
    "data": st.binary(max_size=300),
    "by": TEXTS,
}


def of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Messages of a class."""
    types = kind.__dataclass_fields__
    known = {name: FIELDS[name] for name in types if name in FIELDS}
    numbers = {name: NUMBERS for name, field in types.items() if field.type is int}
    return st.builds(kind, **known, **numbers)


MESSAGES = st.one_of(*(of(kind) for kind in get_args(Message)))


@given(MESSAGES)
def test_a_message_comes_back(message: Message) -> None:
    assert decode(encode(message)) == message


@given(st.binary() | MESSAGES.map(encode).flatmap(lambda item: st.builds(cut, st.just(item), st.integers(0, 400))))
def test_no_bytes_are_an_error(item: bytes) -> None:
    decode(item)


def cut(item: bytes, at: int) -> bytes:
    return item[:at] + b"\x00" + item[at + 1 :]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(MESSAGES, st.data())
def test_a_field_of_another_type_is_no_error(message: Message, data: st.DataObject) -> None:
    header = json.loads(encode(message).partition(b"\n")[0])
    name = data.draw(st.sampled_from(sorted(header)))
    header[name] = data.draw(JSON)
    decode(json.dumps(header).encode() + b"\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("id", "x" * 32),
        ("id", "A" * 32),
        ("id", 7),
        ("id", None),
        ("reply", "0" * 33),
        ("reply", "0" * 32 + "\n"),
        ("execution", "../../etc/passwd" * 2),
        ("execution", "\n"),
        ("execution", 1),
        ("after_seq", "1"),
        ("after_seq", None),
        ("deadline", "never"),
        ("replaces", 5),
        ("kind", "Unknown"),
        ("kind", None),
    ],
)
def test_a_wrong_field_is_no_message(name: str, value: object) -> None:
    header = json.loads(encode(Follow("1" * 32, "2" * 32, 1.0, "", "A" * 26, 0)))
    assert decode(json.dumps(header).encode() + b"\n")
    assert decode(json.dumps({**header, name: value}).encode() + b"\n") is None
    del header[name]
    assert decode(json.dumps(header).encode() + b"\n") is None


def test_what_is_too_long_or_too_deep_is_no_message() -> None:
    assert decode(b" " * HEADER_LIMIT + encode(Close("1" * 32))) is None
    assert decode(b"[" * (HEADER_LIMIT - 1) + b"\n") is None
    assert decode(encode(Instruct("1" * 32, "2" * 32, 1.0, "A" * 26, Write(b"x" * (3 << 20))))) is None


def test_half_a_character_is_no_name() -> None:
    item = encode(Instruct("1" * 32, "2" * 32, 1.0, "A" * 26, Stop(StopReason.CANCELLED, "ann")))
    assert decode(item)
    assert decode(item.replace(b"ann", rb"\ud800")) is None


def test_an_end_has_a_known_result() -> None:
    item = encode(End("1" * 32, 0, Result.ENDED))
    assert decode(item) == End("1" * 32, 0, Result.ENDED)
    assert decode(item.replace(b'"ended"', b'"begun"')) is None
