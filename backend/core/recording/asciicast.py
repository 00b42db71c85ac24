"""A recording as an asciicast, versions 2 and 3 (docs.asciinema.org/manual/asciicast), for any player.

Standard error goes into the same stream, as on a terminal. Commands have no terminal, so the size is the customary 80
by 24. Input is never recorded.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Literal, assert_never

from backend.core.recording.batches import stored_lines

COLUMNS, ROWS = 80, 24
Version = Literal[2, 3]


class AsciicastWriter:
    """Converts blocks of stored lines, in order, into the lines of a cast."""

    def __init__(self, version: Version) -> None:
        self._version: Version = version
        self._last_ms = 0

    def convert(self, block: bytes) -> bytes:
        """The cast lines for one block."""
        messages = map(json.loads, stored_lines(block))
        return b"".join(f"{json.dumps(line)}\n".encode() for message in messages for line in self._lines(message))

    def _lines(self, message: dict[str, Any]) -> Iterator[Any]:
        match message["type"]:
            case "started":
                yield self._header(message)
            case "stdout" | "stderr":
                yield self._event(message, "o", _text(message))
            case "error" | "truncated":
                yield self._event(message, "m", message["message"])
            case "complete" if self._version == 3 and message["exit_code"] is not None:
                yield self._event(message, "x", str(message["exit_code"]))
            case _:
                pass

    def _header(self, message: dict[str, Any]) -> dict[str, Any]:
        common = {
            "timestamp": int(datetime.fromisoformat(message["time"]).timestamp()),
            "command": message["command"],
            "title": message["command"],
        }
        match self._version:
            case 2:
                return {"version": 2, "width": COLUMNS, "height": ROWS, **common}
            case 3:
                return {"version": 3, "term": {"cols": COLUMNS, "rows": ROWS}, **common}
            case _:
                assert_never(self._version)

    def _event(self, message: dict[str, Any], code: str, data: str) -> list[Any]:
        """Times are relative to the start in version 2, to the event before in version 3."""
        ms = message["ms"] - (self._last_ms if self._version == 3 else 0)
        self._last_ms = message["ms"]
        return [ms / 1000, code, data]


def _text(message: dict[str, Any]) -> str:
    text = "\r\n".join(message["lines"])
    return text if message.get("partial") else f"{text}\r\n"
