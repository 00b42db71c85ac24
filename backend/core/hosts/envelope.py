"""The messages between a server and the agent of an enrolled host: signed, for one receiver, fresh, accepted once.

The signature is an HMAC-SHA256 with the secret of the host over host, direction, kind, id, time and body. A message cannot
be used for another host, be sent back to its sender, be changed, or be used again.
"""

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from backend.core.hosts.messages import MOST_AGE, Dropped, SeenIds, read_object

Direction = Literal["host", "server"]  # the receiver


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message that was accepted."""

    kind: str
    body: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Party:
    """A receiver or sender: the host, and the secret that it shares with the server."""

    host: str
    secret: str

    def seal(self, to: Direction, kind: str, body: Mapping[str, Any], nonce: str, now: float) -> bytes:
        """A signed message."""
        content = {"host": self.host, "to": to, "kind": kind, "nonce": nonce, "timestamp": int(now), "body": body}
        text = _canonical(content)
        return json.dumps({"message": text, "signature": self._signature(text)}).encode()

    def open(self, data: bytes, to: Direction, now: float, seen: SeenIds) -> Envelope | Dropped:
        """The message, if it is from the other party, for this one, fresh and new."""
        outer = read_object(data) or {}
        text, signature = outer.get("message"), outer.get("signature")
        if not (isinstance(text, str) and isinstance(signature, str) and signature.isascii()):
            return Dropped("it is not signed")
        if not hmac.compare_digest(signature, self._signature(text)):
            return Dropped("its signature is not valid")
        content = read_object(text.encode()) or {}
        kind, nonce, body, sent = (content.get(name) for name in ("kind", "nonce", "body", "timestamp"))
        if not (isinstance(kind, str) and isinstance(nonce, str) and isinstance(body, dict) and type(sent) is int):
            return Dropped("it is malformed")
        if (content.get("host"), content.get("to")) != (self.host, to):
            return Dropped("it is for another receiver")
        if abs(now - sent) > MOST_AGE:
            return Dropped(f"it is stale: its clock and this one differ by {abs(now - sent):.0f} s")
        if not seen.add(nonce, now):
            return Dropped("it was used before")
        return Envelope(kind, body)

    def sign_fields(self, fields: Mapping[str, str]) -> str:
        """The signature of the entry of a host in the registry."""
        return self._signature(f"registry:{self.host}:{_canonical(fields)}")

    def check_fields(self, fields: Mapping[str, str]) -> bool:
        """Whether an entry in the registry is that of the host."""
        signed = {name: value for name, value in fields.items() if name != "signature"}
        sent = fields.get("signature", "")
        return sent.isascii() and hmac.compare_digest(sent, self.sign_fields(signed))

    def _signature(self, text: str) -> str:
        return hmac.new(self.secret.encode(), text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"))
