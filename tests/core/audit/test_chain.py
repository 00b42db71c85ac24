"""The chain as a value: whatever is changed in it is found, and said where."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.audit.chain import (
    EMPTY,
    GENESIS,
    Anchor,
    ChainedEvent,
    Head,
    Succession,
    TrustedKey,
    Verifier,
    extend,
    link_hash,
)
from backend.core.audit.events import Event, Kind

SIGNED = b"signed "
TRUST = TrustedKey(b"key", lambda key, statement, signature: key == b"key" and signature == SIGNED + statement)

Chain = tuple[Head, list[ChainedEvent], bytes]


def event(number: int, **fields: object) -> Event:
    return Event(f"E{number}", "2026-01-02T03:04:05.678Z", Kind.SUBMITTED, "user:ann", "10.0.0.1", fields)


def chain(length: int = 9, head: Head = EMPTY) -> Chain:
    """A chain and the signature of its head, which nobody here can make for another."""
    head, links = extend(head, (event(number, command=f"echo {number}") for number in range(length)))
    return head, links, SIGNED + head.statement()


def problem(head: Head, links: list[ChainedEvent], signature: bytes, *anchors: Anchor) -> str:
    verifier = Verifier(head, TRUST, anchors)
    for link in links:
        if not verifier.check(link):
            break
    return verifier.finish(signature).problem


def remade(links: list[ChainedEvent], previous: bytes = GENESIS) -> list[ChainedEvent]:
    """The chain with all hashes made anew, which anybody can do."""
    made = []
    for link in links:
        previous = link_hash(previous, link.body)
        made.append(replace(link, hash=previous))
    return made


def edited(link: ChainedEvent, **fields: object) -> ChainedEvent:
    content = {**json.loads(link.body), **fields}
    return replace(link, body=json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def cut(head: Head, links: list[ChainedEvent], seq: int) -> Head:
    return Head(head.first_seq, head.first_previous, seq, links[seq - 1].hash)


def test_a_whole_chain_is_good() -> None:
    assert problem(*chain()) == ""
    assert problem(*chain(0)) == ""
    head, links, signature = chain()
    for number in (0, 1, 5, 9):
        place = Anchor(number, links[number - 1].hash if number else GENESIS)
        assert problem(head, links, signature, place) == ""


def flip(links: list[ChainedEvent]) -> list[ChainedEvent]:
    body = links[4].body.replace("echo 4", "echo 5")
    return [*links[:4], replace(links[4], body=body), *links[5:]]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (flip, "event 5 was changed, or the one before it"),
        (lambda links: [*links[:4], edited(links[4], actor="user:bob"), *links[5:]], "event 5 was changed"),
        (lambda links: [*links[:4], replace(links[4], hash=bytes(32)), *links[5:]], "event 5 was changed"),
        (lambda links: [*links[:4], *remade(links[4:5], links[3].hash), *links[5:]], ""),
        (lambda links: [*links[:4], *remade(flip(links)[4:5], links[3].hash), *links[5:]], "event 6 was changed"),
        (lambda links: links[:4] + links[5:], "event 5 is missing"),
        (lambda links: links[:4] + links[7:], "events 5 to 7 are missing"),
        (lambda links: links[1:], "event 1 is missing"),
        (lambda links: links[:-1], "the chain ends at event 8, its signed head at 9: the tail was changed"),
        (lambda links: [], "the chain ends at event 0, its signed head at 9"),
        (lambda links: [*links[:4], links[5], links[4], *links[6:]], "event 5 is missing"),
        (lambda links: [*links[:5], *links[4:]], "found event 5 where event 6 was expected"),
        (
            lambda links: [*links[:4], replace(links[5], seq=5), replace(links[4], seq=6), *links[6:]],
            "event 5 was changed",
        ),
        (
            lambda links: remade([*links[:5], *(replace(link, seq=link.seq + 1) for link in links[4:])]),
            "event 6 is in the place of another",
        ),
        (
            lambda links: remade([*links[:4], replace(links[5], seq=5), replace(links[4], seq=6), *links[6:]]),
            "event 5 is in the place of another",
        ),
        (lambda links: remade(flip(links)), "the chain ends at event 9, its signed head at 9: the tail was changed"),
        (lambda links: [*links, edited(links[8], seq=10)], "found event 9 where event 10 was expected"),
        (
            lambda links: remade([*links, replace(edited(links[8], seq=10), seq=10)]),
            "the chain ends at event 10, its signed head at 9",
        ),
    ],
)
def test_what_was_changed_is_found_and_said_where(
    change: Callable[[list[ChainedEvent]], list[ChainedEvent]], said: str
) -> None:
    head, links, signature = chain()
    found = problem(head, change(links), signature)
    assert found.startswith(said)
    assert bool(found) == bool(said)


def test_a_chain_made_anew_has_no_signature_and_not_the_noted_event() -> None:
    head, links, signature = chain()
    other = remade(flip(links))
    new = cut(head, other, 9)
    assert problem(new, other, signature).startswith("the signature of the head is wrong")
    with_the_key = SIGNED + new.statement()
    assert problem(new, other, with_the_key) == ""
    assert problem(new, other, with_the_key, Anchor(4, links[3].hash)) == ""
    assert problem(new, other, with_the_key, Anchor(7, links[6].hash)) == (
        "event 7 is not the one that was anchored: the chain was rewritten"
    )


def test_an_older_head_with_the_tail_cut_off_is_told_from_the_noted_place_only() -> None:
    head, links, _ = chain()
    older = cut(head, links, 6)
    signature = SIGNED + older.statement()
    assert problem(older, links[:6], signature) == ""
    assert problem(older, links[:6], signature, head.end) == (
        "the chain ends at event 6, but event 9 was anchored: the tail was cut off"
    )


@pytest.mark.parametrize("field", ["first_seq", "first_previous", "seq", "hash"])
def test_a_changed_head_is_found(field: str) -> None:
    head, links, signature = chain()
    value = getattr(head, field)
    other: Any = value + 1 if isinstance(value, int) else b"\1" * 32
    changed = replace(head, **{field: other})
    assert problem(changed, links, signature)
    assert problem(changed, links[1:], signature)


def test_an_honestly_pruned_chain_is_good_and_a_dishonestly_pruned_one_is_not() -> None:
    head, links, signature = chain()
    pruned = Head(4, links[2].hash, head.seq, head.hash)
    signed = SIGNED + pruned.statement()
    assert problem(pruned, links[3:], signed) == ""
    assert problem(pruned, links[3:], signed, Anchor(3, links[2].hash), Anchor(1, b"x" * 32)) == ""
    assert problem(pruned, links[3:], signed, Anchor(3, b"x" * 32)).startswith("event 3 is not the one")
    assert problem(pruned, links, signed) == "found event 1 where event 4 was expected"
    assert problem(pruned, links[4:], signed) == "event 4 is missing"
    assert problem(pruned, links[3:], signature)


def test_what_broke_before_is_remembered() -> None:
    head, links = extend(EMPTY, [event(1), replace(event(2), kind=Kind.CHAIN_BROKEN)])
    verifier = Verifier(head, TRUST)
    assert all(map(verifier.check, links))
    assert verifier.finish(SIGNED + head.statement()).breaks == (2,)


def signs(key: bytes, statement: bytes) -> bytes:
    """A signature that only who has the key can make, here."""
    return b"by " + key + b": " + statement


OLD, NEW, NEXT, STOLEN = (letter * 32 for letter in (b"o", b"n", b"x", b"s"))


def rotated(
    head: Head, links: list[ChainedEvent], old: bytes, new: bytes, signer: bytes | None = None
) -> tuple[Head, list[ChainedEvent]]:
    """The chain with an event that puts a key in the place of another; `signer` vouches for it."""
    change = Succession(head.end, old, new)
    fields = change.fields(signs(signer or old, change.statement()))
    head, more = extend(head, [replace(event(90 + head.seq, **fields), kind=Kind.KEY_ROTATED), event(head.seq)])
    return head, [*links, *more]


def trusting(key: bytes, head: Head, links: list[ChainedEvent], signer: bytes, at: Anchor = EMPTY.end) -> str:
    """What who trusts `key` finds in a chain whose head `signer` signed."""
    verifier = Verifier(head, TrustedKey(key, lambda key, statement, given: given == signs(key, statement)), (), at)
    for link in links:
        if not verifier.check(link):
            break
    return verifier.finish(signs(signer, head.statement())).problem


def test_a_change_of_the_key_is_followed_from_any_key_of_the_chain() -> None:
    head, links = extend(EMPTY, map(event, range(3)))
    assert trusting(OLD, head, links, OLD) == ""
    head, links = rotated(head, links, OLD, NEW)
    for key in (OLD, NEW):
        assert trusting(key, head, links, NEW) == ""
    head, links = rotated(head, links, NEW, NEXT)
    for key in (OLD, NEW, NEXT):
        assert trusting(key, head, links, NEXT) == ""
        assert trusting(key, head, links, OLD).startswith("the signature of the head is wrong")
    assert trusting(STOLEN, head, links, NEXT).startswith("the signature of the head is wrong")
    part = Anchor(5, links[4].hash)
    assert trusting(NEW, head, links[5:], NEXT, part) == ""
    assert trusting(OLD, head, links[5:], NEXT, part), "the part has no event that leads from this key"


def test_after_a_change_the_older_key_signs_nothing_unnoticed() -> None:
    begun, first = extend(EMPTY, map(event, range(3)))
    head, links = rotated(begun, first, OLD, NEW)
    for key in (OLD, NEW):
        more, tail = extend(head, [event(7)])
        assert trusting(key, more, [*links, *tail], OLD).startswith("the signature of the head is wrong")
        again = rotated(head, links, OLD, STOLEN)
        assert trusting(key, *again, STOLEN) == "event 6 replaces the key, and the old key did not sign it"
        forged = rotated(head, links, NEW, STOLEN, signer=OLD)
        assert trusting(key, *forged, STOLEN) == "event 6 replaces the key, and the old key did not sign it"
    # Without the event, who knows the new key finds it out; who knows the older one needs a place that was noted.
    assert trusting(NEW, begun, first, OLD).startswith("the signature of the head is wrong")
    assert trusting(NEW, *rotated(begun, first, OLD, STOLEN), STOLEN).startswith("the signature of the head is wrong")


def test_a_key_that_was_left_is_not_taken_again() -> None:
    head, links = rotated(*rotated(*extend(EMPTY, [event(1)]), OLD, NEW), NEW, OLD)
    assert trusting(OLD, head, links, OLD) == "event 4 returns to a key that was replaced before"


def test_a_change_holds_for_its_place_in_its_chain_alone() -> None:
    head, links = extend(EMPTY, map(event, range(3)))
    other, _ = extend(EMPTY, map(event, range(7, 10)))
    change = Succession(other.end, OLD, NEW)
    for place in (change, Succession(Anchor(2, head.hash), OLD, NEW), Succession(head.end, NEW, OLD)):
        fields = Succession(head.end, OLD, NEW).fields(signs(OLD, place.statement()))
        after, more = extend(head, [replace(event(5, **fields), kind=Kind.KEY_ROTATED)])
        found = trusting(OLD, after, [*links, *more], NEW)
        assert found == "event 4 replaces the key, and the old key did not sign it"


@pytest.mark.parametrize("fields", [{}, {"new_key": 7}, {"signature": "zz"}, {"old_key": None}, {"old_key": ["00"]}])
def test_a_change_that_says_nothing_is_told(fields: dict[str, object]) -> None:
    known = Succession(EMPTY.end, OLD, NEW).fields(b"") if fields else {}
    head, links = extend(EMPTY, [replace(event(1, **{**known, **fields}), kind=Kind.KEY_ROTATED)])
    assert trusting(OLD, head, links, NEW) == "event 1 replaces the key without naming the new one"


CHANGES = st.sampled_from(["flip", "drop", "swap", "copy", "cut", "hash", "renumber", "remake"])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_edit_of_any_kind_passes(data: st.DataObject) -> None:
    head, links, signature = chain(6)
    before = list(links)
    for change in data.draw(st.lists(CHANGES, min_size=1, max_size=4)):
        if not links:
            break
        at = data.draw(st.integers(0, len(links) - 1))
        links = _changed(links, change, at, data)
    assert bool(problem(head, links, signature)) == (links != before)


def _changed(links: list[ChainedEvent], change: str, at: int, data: st.DataObject) -> list[ChainedEvent]:
    link, rest = links[at], (links[:at], links[at + 1 :])
    match change:
        case "flip":
            raw = bytearray(link.body.encode())
            raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 6))
            return [*rest[0], replace(link, body=raw.decode("utf-8", "surrogateescape")), *rest[1]]
        case "drop":
            return rest[0] + rest[1]
        case "swap":
            other = data.draw(st.integers(0, len(links) - 1))
            swapped = list(links)
            swapped[at], swapped[other] = swapped[other], swapped[at]
            return swapped
        case "copy":
            return [*links[: at + 1], link, *rest[1]]
        case "cut":
            return rest[0]
        case "hash":
            return [*rest[0], replace(link, hash=bytes(32)), *rest[1]]
        case "renumber":
            return [*rest[0], replace(link, seq=link.seq + data.draw(st.sampled_from([-1, 0, 1]))), *rest[1]]
        case _:
            return remade(links)


@given(st.recursive(st.text() | st.integers(), lambda each: st.lists(each) | st.dictionaries(st.text(), each)))
def test_nothing_in_an_event_takes_the_place_of_its_number(hostile: object) -> None:
    named = '"seq":7,'
    for fields in ({"command": hostile}, {"command": named, "seq": 7, named: hostile}, {"command": {"seq": 7, "a": 1}}):
        head, links = extend(EMPTY, [event(1, **fields), event(2, **fields)])
        assert problem(head, links, SIGNED + head.statement()) == ""
        moved = remade([replace(links[0], seq=1), replace(links[1], seq=2, body=links[0].body)])
        found = problem(Head(1, GENESIS, 2, moved[1].hash), moved, b"")
        assert found == "event 2 is in the place of another"


@pytest.mark.parametrize(
    "body", ["", "[]", "7", '{"seq":"1"}', '{"seq":true}', '{"seq":1.0}', "{}", "[" * 100_000, '{"seq":1' + "0" * 9999]
)
def test_an_event_that_says_nothing_is_told(body: str) -> None:
    made = remade([ChainedEvent(1, body, b"")])
    found = problem(Head(1, GENESIS, 1, made[0].hash), made, b"")
    assert found == "event 1 is in the place of another"


@pytest.mark.parametrize(
    "text", ["", "1", "1:", ":" + "0" * 64, "-1:" + "0" * 64, "1:" + "g" * 64, "1:00", "²:" + "0" * 64]
)
def test_an_anchor_is_read_strictly(text: str) -> None:
    with pytest.raises(ValueError):
        Anchor.parse(text)


def test_an_anchor_is_what_it_prints() -> None:
    place = Anchor(12, bytes(range(32)))
    assert Anchor.parse(f"{place}\n") == place


def test_a_body_is_the_same_for_the_same_event_and_without_what_is_none() -> None:
    one = event(1, b=None, a="ä\ud800")
    assert one.body(3) == (
        '{"a":"ä\\ud800","actor":"user:ann","address":"10.0.0.1","event_id":"E1","kind":"submitted","seq":3,'
        '"time":"2026-01-02T03:04:05.678Z"}'
    )
