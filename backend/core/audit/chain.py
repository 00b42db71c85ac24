"""The chain of the audit: each event contains the hash of the one before, and the head is signed.

An event is stored as its canonical JSON text; its hash is SHA-256 over the hash of the event before and that text. The
head states where the chain begins and ends and is signed, so that without the key the tail cannot be cut off and the
chain cannot be rewritten. The key is replaced by an event that the old key signed. Everything here is pure; storing
the chain is the work of `backend.storage`.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import field
from typing import Any, Self

from backend.core.audit.events import LONGEST_BODY, Event, Kind
from backend.core.dataclasses import dataclass

GENESIS = bytes(32)


@dataclass(frozen=True, slots=True)
class ChainedEvent:
    """An event in its place. `hash` covers the event and all before it."""

    seq: int
    body: str
    hash: bytes

    @property
    def content(self) -> dict[str, Any]:
        """The fields of the event; empty when its text cannot be parsed."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place in the chain that was recorded elsewhere: the number of an event and its hash."""

    seq: int
    hash: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `SEQ:HASH`. Raises ValueError."""
        seq, _, digest = text.strip().partition(":")
        if not (seq.isascii() and seq.isdecimal() and len(seq) < 20 and len(digest) == 64):
            raise ValueError("an anchor is written SEQ:HASH, with the 64 hexadecimal digits of the hash")
        return cls(int(seq), bytes.fromhex(digest))

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash.hex()}"


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain begins and ends: the first event that is stored with the hash before it, the last with its own."""

    first_seq: int
    first_previous: bytes
    seq: int
    hash: bytes

    def statement(self) -> bytes:
        """What is signed."""
        return f"gatepost audit head {self.first_seq}:{self.first_previous.hex()}:{self.end}".encode()

    @property
    def start(self) -> Anchor:
        """The place before the first event."""
        return Anchor(self.first_seq - 1, self.first_previous)

    @property
    def end(self) -> Anchor:
        """The place of the last event."""
        return Anchor(self.seq, self.hash)


EMPTY = Head(1, GENESIS, 0, GENESIS)


@dataclass(frozen=True, slots=True)
class Succession:
    """The replacement of one public key by another, for all that follows a place in the chain. The old key signs it."""

    place: Anchor
    old: bytes
    new: bytes

    def statement(self) -> bytes:
        """What is signed. It is valid only for this place of this chain."""
        return f"gatepost audit key {self.place} {self.old.hex()} {self.new.hex()}".encode()

    def fields(self, signature: bytes) -> dict[str, str]:
        """The details of its event."""
        return {"old_key": self.old.hex(), "new_key": self.new.hex(), "signature": signature.hex()}

    @classmethod
    def read(cls, place: Anchor, content: Mapping[str, Any]) -> tuple[Self, bytes]:
        """The succession that an event describes, and its signature. Raises ValueError for malformed fields."""
        texts = [content.get(name) for name in ("old_key", "new_key", "signature")]
        old, new, signature = (bytes.fromhex(text if isinstance(text, str) else "-") for text in texts)
        return cls(place, old, new), signature


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """The public key that is trusted; `check(key, statement, signature)` returns whether a key made a signature."""

    key: bytes
    check: Callable[[bytes, bytes, bytes], bool]


def link_hash(previous: bytes, body: str) -> bytes:
    """The hash of an event with `body` behind `previous`."""
    return hashlib.sha256(previous + body.encode("utf-8", "surrogatepass")).digest()


def extend(head: Head, events: Iterable[Event]) -> tuple[Head, list[ChainedEvent]]:
    """Append events to a chain. Raises ValueError for one that is too long to be read again."""
    links, seq, last = [], head.seq, head.hash
    for event in events:
        seq += 1
        body = event.body(seq)
        if len(body) > LONGEST_BODY:
            raise ValueError(f"an event of {len(body)} characters is too long for the audit")
        last = link_hash(last, body)
        links.append(ChainedEvent(seq, body, last))
    return Head(head.first_seq, head.first_previous, seq, last), links


@dataclass(frozen=True, slots=True)
class Verification:
    """The result of a verification: how many events are intact, and the first problem (empty when there is none).

    `begins` is the number of the first event that was checked. `breaks` are the numbers of the events which record that an
    anchored place was gone when a server started, `rotations` those of the events that replaced the key; `unseen` are the
    anchors before the part that was checked; `unsigned` is how many of the events were written after the head was
    signed.
    """

    head: Head
    events: int
    problem: str
    begins: int = 1
    breaks: Sequence[int] = ()
    rotations: Sequence[int] = ()
    unseen: Sequence[Anchor] = ()
    unsigned: int = 0


@dataclass(slots=True)
class Verifier:
    """Checks a chain link by link. `problem` is the first problem, empty while there is none.

    `at` is the place that it has reached; it begins at the start of the chain, or of a part of it. `anchors` are places
    recorded earlier. `end` is where the chain ends by now, if events were written since the head was signed: they are
    checked as well. `keys` are the keys that the events name, the last of which must have signed the head; the trusted
    one must be among them.
    """

    head: Head
    trust: TrustedKey
    anchors: tuple[Anchor, ...] = ()
    at: Anchor = Anchor(0, GENESIS)
    problem: str = ""
    checked: int = 0
    breaks: list[int] = field(default_factory=list)
    rotations: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    begins: int = 1
    end: Anchor | None = None
    signed: Anchor = field(init=False)  # the place of the head, or of the last link before it, as it was found

    def __post_init__(self) -> None:
        if not self.at.seq:
            self.at = self.head.start
        self.signed = self.at
        self.problem = "" if self.at.seq >= self.head.first_seq else self._beginning()
        self.begins = self.at.seq + 1
        self._check_anchors()

    def _beginning(self) -> str:
        return "" if self.at == self.head.start else f"the chain does not begin at event {self.head.first_seq}"

    def check_all(self, links: Iterable[ChainedEvent]) -> bool:
        """Check the next links; False when one of them is wrong."""
        return all(map(self.check, links))

    def check(self, link: ChainedEvent) -> bool:
        """Check the next link; False at the first that is wrong, and for every link after it."""
        self.problem = self.problem or self._check_link(link)
        if self.problem:
            return False
        self.at = Anchor(link.seq, link.hash)
        self.checked += 1
        if link.seq <= self.head.seq:
            self.signed = self.at
        self._check_anchors()
        return not self.problem

    def _check_link(self, link: ChainedEvent) -> str:
        expected = self.at.seq + 1
        if link.seq < expected:
            return f"found event {link.seq} where event {expected} was expected"
        if link.seq > expected:
            missing = f"event {expected} is" if link.seq == expected + 1 else f"events {expected} to {link.seq - 1} are"
            return f"{missing} missing"
        if link_hash(self.at.hash, link.body) != link.hash:
            return f"event {link.seq} was changed, or the one before it"
        # A rewritten chain can move an event; the place that the event itself states must agree.
        content = link.content
        if type(content.get("seq")) is not int or content["seq"] != link.seq:
            return f"event {link.seq} is in the place of another"
        if content.get("kind") == Kind.CHAIN_BROKEN:
            self.breaks.append(link.seq)
        return self._change_key(content) if content.get("kind") == Kind.KEY_ROTATED else ""

    def _change_key(self, content: Mapping[str, Any]) -> str:
        self.rotations.append(self.at.seq + 1)
        try:
            found, signature = Succession.read(self.at, content)
        except ValueError:
            return f"event {self.at.seq + 1} replaces the key without naming the new one"
        self.keys = self.keys or [found.old]
        if found.old != self.keys[-1] or not self.trust.check(found.old, found.statement(), signature):
            return f"event {self.at.seq + 1} replaces the key, and the old key did not sign it"
        if found.new in self.keys:
            return f"event {self.at.seq + 1} returns to a key that was replaced before"
        self.keys.append(found.new)
        return ""

    def _check_anchors(self) -> None:
        for anchor in self.anchors:
            if anchor.seq == self.at.seq and anchor.hash != self.at.hash and not self.problem:
                self.problem = f"event {anchor.seq} is not the one that was anchored: the chain was rewritten"

    def finish(self, signature: bytes) -> Verification:
        """The verdict after the last link; `signature` is that of the head."""
        problem = self.problem or self._check_head(signature)
        unseen = tuple(anchor for anchor in self.anchors if anchor.seq < self.begins - 1)
        notes = tuple(self.breaks), tuple(self.rotations), unseen
        return Verification(self.head, self.checked, problem, self.begins, *notes, max(0, self.at.seq - self.head.seq))

    def _check_head(self, signature: bytes) -> str:
        keys = self.keys or [self.trust.key]
        if self.trust.key not in keys or not self.trust.check(keys[-1], self.head.statement(), signature):
            return "the signature of the head is wrong: the head was changed, or signed with another key"
        signed, end = self.signed, self.end or self.head.end
        if signed != self.head.end:
            return f"the chain ends at event {signed.seq}, its signed head at {self.head.seq}: the tail was changed"
        if self.at != end:
            what = "signed head" if end == self.head.end else "recorded end"
            return f"the chain ends at event {self.at.seq}, its {what} at {end.seq}: the tail was changed"
        last = max((anchor.seq for anchor in self.anchors), default=0)
        if end.seq < last:
            return f"the chain ends at event {self.at.seq}, but event {last} was anchored: the tail was cut off"
        return ""
