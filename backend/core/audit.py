"""The audit: events in a chain, each holding the hash of the one before, with a signed head.

An event is stored as its canonical JSON text; its hash is SHA-256 over the hash of the event before and that text. The
head says where the chain begins and ends and is signed, so that a tail cannot be cut off or a chain be made anew
without the key. Everything here is pure; `backend.storage.ledger` stores it.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

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
        """The canonical text: keys sorted, no blanks, without fields that are None."""
        content = {
            **{name: value for name, value in self.fields.items() if value is not None},
            "event_id": self.id,
            "seq": seq,
            "time": self.time,
            "kind": self.kind,
            "actor": self.actor,
            "address": self.address,
        }
        return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class Link:
    """An event in its place. `hash` covers the event and all before it."""

    seq: int
    body: str
    hash: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain begins and ends: the first event that is kept with the hash before it, the last with its own."""

    first_seq: int
    first_previous: bytes
    seq: int
    hash: bytes

    def statement(self) -> bytes:
        """What is signed."""
        numbers = f"{self.first_seq}:{self.first_previous.hex()}:{self.seq}:{self.hash.hex()}"
        return f"gatepost audit head {numbers}".encode()


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


@dataclass(slots=True)
class Verifier:
    """Goes through a chain link by link. `problem` is the first thing that is wrong, empty while all is well."""

    head: Head
    seq: int = 0
    hash: bytes = GENESIS
    problem: str = ""

    def __post_init__(self) -> None:
        self.seq, self.hash = self.head.first_seq - 1, self.head.first_previous

    def take(self, link: Link) -> bool:
        """Check the next link; False at the first that is wrong."""
        if link.seq != self.seq + 1:
            missing = f"{self.seq + 1}" if link.seq == self.seq + 2 else f"{self.seq + 1} to {link.seq - 1}"
            self.problem = f"event {missing} is missing"
        elif f'"seq":{link.seq},' not in link.body:
            self.problem = f"event {link.seq} stands in the place of another"
        elif link_hash(self.hash, link.body) != link.hash:
            self.problem = f"event {link.seq} was changed, or the one before it"
        else:
            self.seq, self.hash = link.seq, link.hash
            return True
        return False

    def finish(self, signed: Callable[[bytes], bool], anchor: tuple[int, bytes] | None = None) -> str:
        """The verdict after the last link: empty when the chain is whole.

        `signed` tells whether the signature of the head is good for a statement; `anchor` is a place in the chain
        (its number and hash) that somebody noted before.
        """
        if self.problem:
            return self.problem
        if not signed(self.head.statement()):
            return "the signature of the head is wrong"
        if (self.seq, self.hash) != (self.head.seq, self.head.hash):
            return f"the chain ends at event {self.seq}, its signed head at {self.head.seq}: the tail was changed"
        if anchor and self.head.seq < anchor[0]:
            return f"the chain ends at event {self.seq}, but event {anchor[0]} was there: the tail was cut off"
        return ""
