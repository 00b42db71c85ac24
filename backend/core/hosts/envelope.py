"""The messages between a server and the agent of an enrolled host: signed, for one receiver, fresh, accepted once.

    SIGNATURE            64 hexadecimal digits
    {"body":...}         what it says, a line of JSON
    ...                  output, as it is stored in a recording

The signature is an HMAC-SHA256 with the secret of the host over host, direction, kind, id, time, body and output. A message
cannot be used for another host, be sent back to its sender, be changed, or be used again.
"""

import hmac
import json
from collections.abc import Mapping
from typing import Any, Literal

from backend.core.dataclasses import dataclass
from backend.core.hosts.messages import LONGEST, Dropped, SeenIds, is_fresh, read_object

Direction = Literal["host", "server"]  # the receiver
SIGNATURE = 64  # hexadecimal digits


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message that was accepted."""

    kind: str
    body: Mapping[str, Any]
    output: bytes = b""


@dataclass(frozen=True, slots=True)
class Party:
    """A receiver or sender: the host, and the secret that it shares with the server."""

    host: str
    secret: str

    def seal(
        self, to: Direction, kind: str, body: Mapping[str, Any], nonce: str, now: float, output: bytes = b""
    ) -> bytes:
        """A signed message."""
        content = {"host": self.host, "to": to, "kind": kind, "nonce": nonce, "timestamp": int(now), "body": body}
        signed = _canonical(content) + b"\n" + output
        return self._signature(signed) + b"\n" + signed

    def open(self, data: bytes, to: Direction, now: float, seen: SeenIds) -> Envelope | Dropped:
        """The message, if it is from the other party, for this one, fresh and new."""
        signature, _, signed = data.partition(b"\n")
        if len(signature) != SIGNATURE or len(data) > LONGEST:
            return Dropped("it is not signed")
        if not hmac.compare_digest(signature, self._signature(signed)):
            return Dropped("its signature is not valid")
        text, _, output = signed.partition(b"\n")
        content = read_object(text) or {}
        kind, nonce, body, sent = (content.get(name) for name in ("kind", "nonce", "body", "timestamp"))
        if not (isinstance(kind, str) and isinstance(nonce, str) and isinstance(body, dict) and type(sent) is int):
            return Dropped("it is malformed")
        if (content.get("host"), content.get("to")) != (self.host, to):
            return Dropped("it is for another receiver")
        if not is_fresh(sent, now):
            return Dropped(f"it is stale: its clock and this one differ by {abs(int(now) - sent)} s")
        if not seen.add(nonce, now):
            return Dropped("it was used before")
        return Envelope(kind, body, output)

    def sign_fields(self, fields: Mapping[str, str]) -> str:
        """The signature of the entry of a host in the registry."""
        return self._signature(f"registry:{self.host}:".encode() + _canonical(fields)).decode()

    def check_fields(self, fields: Mapping[str, str]) -> bool:
        """Whether an entry in the registry is that of the host."""
        signed = {name: value for name, value in fields.items() if name != "signature"}
        sent = fields.get("signature", "")
        return sent.isascii() and hmac.compare_digest(sent, self.sign_fields(signed))

    def _signature(self, signed: bytes) -> bytes:
        return hmac.digest(self.secret.encode(), signed, "sha256").hex().encode()


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
