"""The audit: events in a chain, each holding the hash of the one before, with a signed head.

An event is stored as its canonical JSON text; its hash is SHA-256 over the hash of the event before and that text. The
head says where the chain begins and ends and is signed, so that a tail cannot be cut off or a chain be made anew
without the key. The key changes by an event that the older key signed. Everything here is pure; `backend.storage` stores it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

GENESIS = bytes(32)
LONGEST_BODY = 8 * 2**20  # characters of an event; a thousand words of a path each have half of it


class Kind(StrEnum):
    """What happened."""

    SUBMITTED = "submitted"
    DENIED = "denied"
    RATE_LIMITED = "rate_limited"
    STARTED = "started"
    CANCELLED = "cancelled"
    FINISHED = "finished"
    LOST = "lost"
    REJECTED = "rejected"
    LOGIN = "login"
    LOGIN_FAILED = "login_failed"
    LOGOUT = "logout"
    USER_CREATED = "user_created"
    USER_CHANGED = "user_changed"
    TOKEN_CREATED = "token_created"
    TOKEN_REVOKED = "token_revoked"
    LINK_CREATED = "link_created"
    PROJECT_CREATED = "project_created"
    PROJECT_CHANGED = "project_changed"
    PROJECT_DELETED = "project_deleted"
    PRUNED = "pruned"
    CHAIN_BROKEN = "chain_broken"
    KEY_ROTATED = "key_rotated"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, before it has a place in the chain. `time` is UTC, ISO 8601."""

    id: str
    time: str
    kind: Kind
    actor: str
    address: str
    fields: Mapping[str, Any]

    def body(self, seq: int) -> str:
        """The canonical text: keys sorted, no blanks, without fields that are None.

        Half a surrogate pair, which no database takes, stands there as its escape.
        """
        content = {
            **{name: value for name, value in self.fields.items() if value is not None},
            "event_id": self.id,
            "seq": seq,
            "time": self.time,
            "kind": self.kind,
            "actor": self.actor,
            "address": self.address,
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True, slots=True)
class Link:
    """An event in its place. `hash` covers the event and all before it."""

    seq: int
    body: str
    hash: bytes

    @property
    def content(self) -> dict[str, Any]:
        """What its text says, empty when it says nothing that can be read."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Anchor:
    """A place in the chain that was noted: the number of an event and its hash."""

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
    """Where a chain begins and ends: the first event that is kept with the hash before it, the last with its own."""

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
    """One public key in the place of another, from the event behind a place on. The older key signs it."""

    place: Anchor
    old: bytes
    new: bytes

    def statement(self) -> bytes:
        """What is signed. It holds for this place of this chain alone."""
        return f"gatepost audit key {self.place} {self.old.hex()} {self.new.hex()}".encode()

    def fields(self, signature: bytes) -> dict[str, str]:
        """The details of its event."""
        return {"old_key": self.old.hex(), "new_key": self.new.hex(), "signature": signature.hex()}

    @classmethod
    def read(cls, place: Anchor, content: Mapping[str, Any]) -> tuple[Self, bytes]:
        """The one that an event tells of, and its signature. Raises ValueError for fields that are none."""
        texts = [content.get(name) for name in ("old_key", "new_key", "signature")]
        old, new, signature = (bytes.fromhex(text if isinstance(text, str) else "-") for text in texts)
        return cls(place, old, new), signature


@dataclass(frozen=True, slots=True)
class Trust:
    """The public key that is trusted; `check(key, statement, signature)` tells whether a key made a signature."""

    key: bytes
    check: Callable[[bytes, bytes, bytes], bool]


def link_hash(previous: bytes, body: str) -> bytes:
    """The hash of an event with `body` behind `previous`."""
    return hashlib.sha256(previous + body.encode("utf-8", "surrogatepass")).digest()


def extend(head: Head, events: Iterable[Event]) -> tuple[Head, list[Link]]:
    """Put events at the end of a chain. Raises ValueError for one that nobody would read again."""
    links, seq, last = [], head.seq, head.hash
    for event in events:
        seq += 1
        body = event.body(seq)
        if len(body) > LONGEST_BODY:
            raise ValueError(f"an event of {len(body)} characters is too long for the audit")
        last = link_hash(last, body)
        links.append(Link(seq, body, last))
    return Head(head.first_seq, head.first_previous, seq, last), links


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: how many events are good, and what is wrong (empty when nothing is).

    `begins` is the number of the first event that was looked at. `breaks` are the numbers of the events which tell that a
    place noted before was gone when a server started, `rotations` those of the events that put another key in the place
    of the one before; `unseen` are the places noted before that lie in front of what was looked at.
    """

    head: Head
    events: int
    problem: str
    begins: int = 1
    breaks: Sequence[int] = ()
    rotations: Sequence[int] = ()
    unseen: Sequence[Anchor] = ()


@dataclass(slots=True)
class Verifier:
    """Goes through a chain link by link. `problem` is the first thing that is wrong, empty while all is well.

    `at` is the place that it has come to: the start of the chain, or that of a part of it. `anchors` are places that
    somebody noted before. `keys` are the keys that the events tell of, the last of which has to have signed the head;
    the trusted one must be among them.
    """

    head: Head
    trust: Trust
    anchors: tuple[Anchor, ...] = ()
    at: Anchor = Anchor(0, GENESIS)
    problem: str = ""
    taken: int = 0
    breaks: list[int] = field(default_factory=list)
    rotations: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    begins: int = 1

    def __post_init__(self) -> None:
        if not self.at.seq:
            self.at = self.head.start
        self.problem = "" if self.at.seq >= self.head.first_seq else self._beginning()
        self.begins = self.at.seq + 1
        self._check_anchors()

    def _beginning(self) -> str:
        return "" if self.at == self.head.start else f"the chain does not begin at event {self.head.first_seq}"

    def take_all(self, links: Iterable[Link]) -> bool:
        """Check the next links; False when one of them is wrong."""
        return all(map(self.take, links))

    def take(self, link: Link) -> bool:
        """Check the next link; False at the first that is wrong, and from there on."""
        self.problem = self.problem or self._look(link)
        if self.problem:
            return False
        self.at = Anchor(link.seq, link.hash)
        self.taken += 1
        self._check_anchors()
        return not self.problem

    def _look(self, link: Link) -> str:
        wanted = self.at.seq + 1
        if link.seq < wanted:
            return f"event {link.seq} stands where event {wanted} should be"
        if link.seq > wanted:
            missing = f"event {wanted} is" if link.seq == wanted + 1 else f"events {wanted} to {link.seq - 1} are"
            return f"{missing} missing"
        if link_hash(self.at.hash, link.body) != link.hash:
            return f"event {link.seq} was changed, or the one before it"
        # Whoever makes a chain anew can give an event another place; what it says of its own place must agree.
        content = link.content
        if type(content.get("seq")) is not int or content["seq"] != link.seq:
            return f"event {link.seq} stands in the place of another"
        if content.get("kind") == Kind.CHAIN_BROKEN:
            self.breaks.append(link.seq)
        return self._change_key(content) if content.get("kind") == Kind.KEY_ROTATED else ""

    def _change_key(self, content: Mapping[str, Any]) -> str:
        self.rotations.append(self.at.seq + 1)
        try:
            found, signature = Succession.read(self.at, content)
        except ValueError:
            return f"event {self.at.seq + 1} changes the key, and does not say to which"
        self.keys = self.keys or [found.old]
        if found.old != self.keys[-1] or not self.trust.check(found.old, found.statement(), signature):
            return f"event {self.at.seq + 1} changes the key, and the key before did not sign it"
        if found.new in self.keys:
            return f"event {self.at.seq + 1} takes a key again that was left"
        self.keys.append(found.new)
        return ""

    def _check_anchors(self) -> None:
        for anchor in self.anchors:
            if anchor.seq == self.at.seq and anchor.hash != self.at.hash and not self.problem:
                self.problem = f"event {anchor.seq} is not the one that was noted: the chain was made anew"

    def finish(self, signature: bytes) -> Verdict:
        """The verdict after the last link; `signature` is that of the head."""
        problem = self.problem or self._check_head(signature)
        unseen = tuple(anchor for anchor in self.anchors if anchor.seq < self.begins - 1)
        return Verdict(self.head, self.taken, problem, self.begins, tuple(self.breaks), tuple(self.rotations), unseen)

    def _check_head(self, signature: bytes) -> str:
        keys = self.keys or [self.trust.key]
        if self.trust.key not in keys or not self.trust.check(keys[-1], self.head.statement(), signature):
            return "the signature of the head is wrong: the head was changed, or signed with another key"
        if self.at != self.head.end:
            return f"the chain ends at event {self.at.seq}, its signed head at {self.head.seq}: the tail was changed"
        last = max((anchor.seq for anchor in self.anchors), default=0)
        if self.head.seq < last:
            return f"the chain ends at event {self.at.seq}, but event {last} was there: the tail was cut off"
        return ""
