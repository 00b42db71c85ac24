"""The messages over Pub/Sub that existing agents and backends understand.

Dialect 1 is unsigned: {"command_id", "command", "params"}. Dialect 2 adds `timestamp`, `sender` and `auth.signature`,
an HMAC-SHA256 of everything else. Gatepost adds `host` within what is signed, so that a message for one host is no
message for another, and signs its answers in the same way. Other peers ignore both.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import field
from typing import Any

from backend.core.dataclasses import dataclass

LONGEST = 2 << 20  # bytes of a message that is read at all
MOST_AGE = 300  # seconds between the timestamp of a message and the clock of its receiver
DEEPEST = 100  # levels of a message that is read at all: what walks through more could exhaust the stack
LONGEST_ID = 128


@dataclass(frozen=True, slots=True)
class Command:
    """A command for a host. `params` is what was sent: it may be no object. `signature` is empty if it need not be signed."""

    id: str
    name: str
    params: Any
    sender: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A message that gets no answer, and why."""

    reason: str


@dataclass(slots=True)
class SeenIds:
    """The ids of signed messages, which are accepted once."""

    until: dict[str, float] = field(default_factory=dict)

    def add(self, id: str, now: float) -> bool:
        """Remember an id for as long as its message could be accepted. False if it is known."""
        while self.until and self.until[oldest := next(iter(self.until))] < now:
            del self.until[oldest]
        if id in self.until:
            return False
        self.until[id] = now + 2 * MOST_AGE
        return True


def sign(message: Mapping[str, Any], secret: str, now: int) -> dict[str, Any]:
    """The message with its time and its signature."""
    body = {**message, "timestamp": now}
    return {**body, "auth": {"signature": signature(body, secret)}}


def signature(body: Mapping[str, Any], secret: str) -> str:
    """The signature of a message without `auth`. The text that is signed is the one of dialect 2."""
    text = f"{json.dumps(body, sort_keys=True)}:{body.get('timestamp')}"
    return hmac.new(secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def read_command(data: bytes, host: str, secret: str | None, now: float, seen: SeenIds) -> Command | Dropped:
    """The command in a message for `host`. With a secret, only a signed, fresh and new one is accepted."""
    body = read_object(data)
    if body is None:
        return Dropped("it is not a JSON object")
    id, name = body.get("command_id"), body.get("command")
    if not (isinstance(id, str) and isinstance(name, str) and 0 < len(id) <= LONGEST_ID and name):
        return Dropped("it has no command_id or no command")
    if secret is not None:
        if problem := verify(body, host, secret, now):
            return Dropped(problem)
        if not seen.add(id, now):
            return Dropped("its command_id was used before")
    params, sender = body.get("params"), body.get("sender")
    sender = sender if isinstance(sender, str) and sender.isprintable() else ""
    sent = "" if secret is None else body["auth"]["signature"].lower()
    return Command(id, name, {} if params is None else params, sender[:64], sent)


def verify(body: Mapping[str, Any], host: str, secret: str, now: float) -> str:
    """Why a message is not accepted; empty if it is signed, fresh and for this host."""
    auth, timestamp = body.get("auth"), body.get("timestamp")
    sent = auth.get("signature") if isinstance(auth, dict) else None
    if not (isinstance(sent, str) and sent.isascii() and type(timestamp) is int):
        return "it is not signed"
    expected = signature({key: value for key, value in body.items() if key != "auth"}, secret)
    if not hmac.compare_digest(sent.lower(), expected):
        return "its signature is not valid"
    if not is_fresh(timestamp, now):
        return "it is stale"
    if body.get("host", host) != host:
        return "it is for another host"
    return ""


def is_fresh(timestamp: int, now: float) -> bool:
    """Whether a message of a time, which may be any integer, can be accepted."""
    return now - MOST_AGE <= timestamp <= now + MOST_AGE


def read_object(data: bytes) -> dict[str, Any] | None:
    """The JSON object in a message; None if there is none, or it is too long or too deep."""
    if len(data) > LONGEST:
        return None
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or (data.count(b"{") + data.count(b"[") > DEEPEST and is_deep(found, DEEPEST)):
        return None
    return found


def is_deep(value: Any, most: int) -> bool:
    """Whether JSON has more levels than `most`."""
    level = [value]
    for _ in range(most + 1):
        within = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list)]
        level = [each for values in within for each in values]
        if not within:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a command. `output` is a text or JSON."""

    id: str
    success: bool
    output: Any
    error: str
    milliseconds: int

    def body(self, now: int) -> dict[str, Any]:
        """The answer as it is sent, unsigned."""
        return {
            "command_id": self.id,
            "status": "success" if self.success else "error",
            "output": self.output,
            "error": self.error or None,
            "execution_time_ms": self.milliseconds,
            "timestamp": now,
        }


def read_answer(body: Mapping[str, Any]) -> Answer | None:
    """The answer in a message; None for progress and for anything else."""
    id, status = body.get("command_id"), body.get("status")
    if body.get("type") == "progress" or not isinstance(id, str) or status not in ("success", "error"):
        return None
    error, spent = body.get("error"), body.get("execution_time_ms")
    text = error if isinstance(error, str) else "" if error is None else json.dumps(error)
    return Answer(id, status == "success", body.get("output"), text, spent if type(spent) is int else 0)


def output_text(output: Any) -> str:
    """An output as text."""
    if output is None:
        return ""
    return output if isinstance(output, str) else json.dumps(output, ensure_ascii=False)
