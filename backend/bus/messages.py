"""What servers write into each other's inbox: a header, which is JSON on one line, then raw bytes.

    Instruct, Follow, Copy    requests; the answer goes to the inbox `reply`. Ignored after `deadline` (clock of Redis)
    Credit, Close             from the requester of a recording: more blocks may be sent; it needs no more
    Answer                    the result of an instruction
    Block, Beat, End          a recording, numbered from 0 so that a lost or repeated message is noticed

Every client of Redis can write anything there: `decode` returns None for what is not a message.
"""

import json
import re
from enum import StrEnum
from typing import Any, assert_never

from backend.core.dataclasses import dataclass
from backend.core.execution.model import (
    CloseInput,
    Delivery,
    Instruction,
    Resize,
    Signal,
    SignalName,
    Stop,
    StopReason,
    Write,
)
from backend.core.ids import is_id

HEADER_LIMIT = 16 * 1024  # bytes
REQUEST_LIMIT = 2 << 20  # bytes after the header of a request; more than any standard input holds
TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Instruct:
    """An instruction for an execution of the server."""

    id: str
    reply: str
    deadline: float
    execution: str
    instruction: Instruction


@dataclass(frozen=True, slots=True)
class Follow:
    """Send what is recorded after a number, live. Ends the relay `replaces`, which the requester has lost."""

    id: str
    reply: str
    deadline: float
    replaces: str
    execution: str
    after_seq: int


@dataclass(frozen=True, slots=True)
class Copy:
    """Send what is stored now between two offsets."""

    id: str
    reply: str
    deadline: float
    replaces: str
    execution: str
    begin: int
    end: int | None


@dataclass(frozen=True, slots=True)
class Credit:
    """`count` more blocks may be sent. With 0: the requester is still there."""

    id: str
    count: int


@dataclass(frozen=True, slots=True)
class Close:
    """The requester has gone."""

    id: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of an instruction."""

    id: str
    delivery: Delivery


@dataclass(frozen=True, slots=True)
class Block:
    """Complete stored lines."""

    id: str
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Beat:
    """The server is still there. The first one says that the request was accepted."""

    id: str
    number: int


class Result(StrEnum):
    """Why nothing more of a recording comes.

    `again`: the requester was silent; it may ask again. `away`: this server cannot continue, another may. `busy`: this
    server relays as many recordings as it can.
    """

    ENDED = "ended"
    UNKNOWN = "unknown"
    FAILED = "failed"
    AGAIN = "again"
    AWAY = "away"
    BUSY = "busy"


@dataclass(frozen=True, slots=True)
class End:
    """The last message of a relay. `place` is the offset a copy reached; `errno` and `strerror` say why it failed."""

    id: str
    number: int
    result: Result
    place: int = 0
    errno: int = 0
    strerror: str = ""


RelayRequest = Follow | Copy
Frame = Block | Beat | End
Message = Instruct | RelayRequest | Credit | Close | Answer | Frame


def encode(message: Message) -> bytes:
    """The message as an item of an inbox."""
    body = _body(message)
    fields = {name: getattr(message, name) for name in message.__dataclass_fields__}
    if isinstance(message, Instruct):
        fields["instruction"] = _instruction_fields(message.instruction)
    fields.pop("data", None)
    return json.dumps({"kind": type(message).__name__, **fields}, ensure_ascii=False).encode() + b"\n" + body


def _body(message: Message) -> bytes:
    match message:
        case Block(data=data) | Instruct(instruction=Write(data)):
            return data
        case _:
            return b""


def _instruction_fields(instruction: Instruction) -> dict[str, Any]:
    match instruction:
        case Stop(reason, by):
            return {"kind": "Stop", "reason": reason, "by": by}
        case Signal(name):
            return {"kind": "Signal", "name": name}
        case Write(last=last):
            return {"kind": "Write", "last": last}
        case CloseInput():
            return {"kind": "CloseInput"}
        case Resize(columns, rows):
            return {"kind": "Resize", "columns": columns, "rows": rows}
        case _:
            assert_never(instruction)


def decode(item: bytes) -> Message | None:
    """The message in an item; None when there is none."""
    end = item.find(b"\n", 0, HEADER_LIMIT)
    if end < 0:
        return None
    try:
        header = json.loads(item[:end])
        return _message(header, item[end + 1 :]) if _has_tokens(header) else None
    except (ValueError, RecursionError):  # deeply nested JSON exhausts the parser
        return None


def _has_tokens(header: object) -> bool:
    """Whether the ids that become names in Redis and in memory are ids."""
    return isinstance(header, dict) and all(_is_token(header[name]) for name in ("id", "reply") if name in header)


def _is_token(value: object) -> bool:
    return isinstance(value, str) and TOKEN.fullmatch(value) is not None


def _message(header: dict[str, Any], body: bytes) -> Message | None:
    match header:
        case {"kind": "Block", "id": id, "number": int(number)}:
            return Block(id, number, body)
        case {"kind": "Beat", "id": id, "number": int(number)}:
            return Beat(id, number)
        case {"kind": "Credit", "id": id, "count": int(count)}:
            return Credit(id, count)
        case {"kind": "Close", "id": id}:
            return Close(id)
        case {"kind": "Answer", "id": id, "delivery": str(delivery)}:
            return Answer(id, Delivery(delivery))
        case {"kind": "End"}:
            return _end(header)
        case _:
            return _request(header, body)


def _end(header: dict[str, Any]) -> End | None:
    match header:
        case {
            "id": id,
            "number": int(number),
            "result": str(result),
            "place": int(place),
            "errno": int(errno),
            "strerror": str(strerror),
        }:
            return End(id, number, Result(result), place, errno, strerror)
        case _:
            return None


def _request(header: dict[str, Any], body: bytes) -> Instruct | RelayRequest | None:
    match header:
        case {"execution": execution} if not is_id(execution) or len(body) > REQUEST_LIMIT:
            return None
        case {
            "kind": "Instruct",
            "id": id,
            "reply": reply,
            "deadline": float(deadline),
            "execution": execution,
            "instruction": dict(fields),
        }:
            found = _instruction(fields, body)
            return Instruct(id, reply, deadline, execution, found) if found else None
        case {
            "kind": "Follow",
            "id": id,
            "reply": reply,
            "deadline": float(deadline),
            "replaces": str(replaces),
            "execution": execution,
            "after_seq": int(after_seq),
        }:
            return Follow(id, reply, deadline, replaces, execution, after_seq)
        case {
            "kind": "Copy",
            "id": id,
            "reply": reply,
            "deadline": float(deadline),
            "replaces": str(replaces),
            "execution": execution,
            "begin": int(begin),
            "end": int() | None as end,
        }:
            return Copy(id, reply, deadline, replaces, execution, begin, end)
        case _:
            return None


def _instruction(fields: dict[str, Any], body: bytes) -> Instruction | None:
    match fields:
        case {"kind": "Stop", "reason": str(reason), "by": str(by)}:
            return Stop(StopReason(reason), by.encode().decode())  # half a surrogate pair is a ValueError
        case {"kind": "Signal", "name": str(name)}:
            return Signal(SignalName(name))
        case {"kind": "Write", "last": bool(last)}:
            return Write(body, last)
        case {"kind": "CloseInput"}:
            return CloseInput()
        case {"kind": "Resize", "columns": int(columns), "rows": int(rows)}:
            return Resize(columns, rows)
        case _:
            return None
