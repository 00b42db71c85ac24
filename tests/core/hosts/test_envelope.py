"""Messages of enrolled hosts: what is accepted, and nothing else."""

import hmac
import json
from typing import Any

import pytest

from backend.core.hosts.envelope import Envelope, Party
from backend.core.hosts.messages import LONGEST, Dropped, SeenIds

NOW = 1_700_000_000
WEB, DB, WRONG = Party("web-01", "s" * 32), Party("db-01", "s" * 32), Party("web-01", "t" * 32)


def sealed(**changes: Any) -> bytes:
    return WEB.seal("host", "run", {"a": [1, "ä"]}, **{"nonce": "n1", "now": NOW, **changes})


def test_a_message_is_accepted_once() -> None:
    seen = SeenIds()
    assert WEB.open(sealed(), "host", NOW + 299, seen) == Envelope("run", {"a": [1, "ä"]})
    assert WEB.open(sealed(), "host", NOW, seen) == Dropped("it was used before")
    assert isinstance(WEB.open(sealed(nonce="n2"), "host", NOW, seen), Envelope)
    output = b'{"type":"stdout"}\n{"type":"stderr"}\n'
    assert WEB.open(sealed(nonce="n3", output=output), "host", NOW, seen) == Envelope("run", {"a": [1, "ä"]}, output)


def changed(**content: Any) -> bytes:
    signature, message, _ = sealed().split(b"\n")
    return b"\n".join([signature, json.dumps({**json.loads(message), **content}).encode(), b""])


def sealed_text(text: bytes) -> bytes:
    """What is signed, but no message."""
    signed = text + b"\n"
    return hmac.new(b"s" * 32, signed, "sha256").hexdigest().encode() + b"\n" + signed


@pytest.mark.parametrize(
    ("data", "party", "to", "now", "reason"),
    [
        (sealed(), WEB, "server", NOW, "it is for another receiver"),
        (sealed(), DB, "host", NOW, "it is for another receiver"),
        (sealed(), WRONG, "host", NOW, "its signature is not valid"),
        (sealed(), WEB, "host", NOW + 301, "it is stale: its clock and this one differ by 301 s"),
        (sealed(), WEB, "host", NOW - 301, "it is stale: its clock and this one differ by 301 s"),
        (changed(body={"a": 2}), WEB, "host", NOW, "its signature is not valid"),
        (changed(nonce="n2"), WEB, "host", NOW, "its signature is not valid"),
        (changed(timestamp=NOW + 1), WEB, "host", NOW, "its signature is not valid"),
        (b"", WEB, "host", NOW, "it is not signed"),
        (sealed() + b"x", WEB, "host", NOW, "its signature is not valid"),
        (b"\xc3\xa4" * 32 + b"\n{}\n", WEB, "host", NOW, "its signature is not valid"),
        (b"[" * 100_000, WEB, "host", NOW, "it is not signed"),
        (sealed(output=b"x" * LONGEST), WEB, "host", NOW, "it is not signed"),
        (sealed_text(b"[" * 100_000), WEB, "host", NOW, "it is malformed"),
        (sealed_text(b"[5]"), WEB, "host", NOW, "it is malformed"),
    ],
)
def test_everything_else_is_dropped(data: bytes, party: Party, to: Any, now: int, reason: str) -> None:
    assert party.open(data, to, now, SeenIds()) == Dropped(reason)


def test_an_entry_of_the_registry_is_signed() -> None:
    fields = {"status": "online", "last_heartbeat": "5"}
    entry = {**fields, "signature": WEB.sign_fields(fields)}
    assert WEB.check_fields(entry)
    for forged in ({**entry, "status": "offline"}, fields, {**entry, "signature": "ä"}, {**entry, "more": "x"}):
        assert not WEB.check_fields(forged)
    assert not DB.check_fields(entry)
