"""The audit: events in a chain, each holding the hash of the one before, with a signed head.

An event is stored as its canonical JSON text; its hash is SHA-256 over the hash of the event before and that text. The
head says where the chain begins and ends and is signed, so that a tail cannot be cut off or a chain be made anew
without the key. Everything here is pure; `backend.storage.ledger` stores it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

GENESIS = bytes(32)


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


def link_hash(previous: bytes, body: str) -> bytes:
    """The hash of an event with `body` behind `previous`."""
    return hashlib.sha256(previous + body.encode("utf-8", "surrogatepass")).digest()


def extend(head: Head, events: Iterable[Event]) -> tuple[Head, list[Link]]:
    """Put events at the end of a chain."""
    links, seq, last = [], head.seq, head.hash
    for event in events:
        seq += 1
        body = event.body(seq)
        last = link_hash(last, body)
        links.append(Link(seq, body, last))
    return Head(head.first_seq, head.first_previous, seq, last), links


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found: how many events are good, and what is wrong (empty when nothing is).

    `breaks` are the numbers of the events which tell that a place noted before was gone when a server started.
    """

    head: Head
    events: int
    problem: str
    breaks: Sequence[int] = ()


@dataclass(slots=True)
class Verifier:
    """Goes through a chain link by link. `problem` is the first thing that is wrong, empty while all is well.

    `at` is the place that it has come to: the start of the chain, or that of a part of it. `anchors` are places that
    somebody noted before; `breaks` are the numbers of the events which tell that a noted place was gone.
    """

    head: Head
    anchors: tuple[Anchor, ...] = ()
    at: Anchor = Anchor(0, GENESIS)
    problem: str = ""
    taken: int = 0
    breaks: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.at.seq:
            self.at = self.head.start
        self.problem = "" if self.at.seq >= self.head.first_seq else self._beginning()
        self._check_anchors()

    def _beginning(self) -> str:
        return "" if self.at == self.head.start else f"the chain does not begin at event {self.head.first_seq}"

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
        return ""

    def _check_anchors(self) -> None:
        for anchor in self.anchors:
            if anchor.seq == self.at.seq and anchor.hash != self.at.hash and not self.problem:
                self.problem = f"event {anchor.seq} is not the one that was noted: the chain was made anew"

    def finish(self, signed: Callable[[bytes], bool]) -> Verdict:
        """The verdict after the last link. `signed` tells whether the signature of the head is good for a statement."""
        problem = self.problem or self._check_head(signed)
        return Verdict(self.head, self.taken, problem, tuple(self.breaks))

    def _check_head(self, signed: Callable[[bytes], bool]) -> str:
        if not signed(self.head.statement()):
            return "the signature of the head is wrong: the head was changed, or signed with another key"
        if self.at != self.head.end:
            return f"the chain ends at event {self.at.seq}, its signed head at {self.head.seq}: the tail was changed"
        last = max((anchor.seq for anchor in self.anchors), default=0)
        if self.head.seq < last:
            return f"the chain ends at event {self.at.seq}, but event {last} was there: the tail was cut off"
        return ""
