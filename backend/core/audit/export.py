"""Formats of an exported audit: JSON lines that can be verified without the database, syslog (RFC 5424) and CSV.

A file of JSON lines begins with the place before its first event (`after`, `hash`), contains one event a line (`seq`,
`body`, `hash`) and ends with the signed head. The other two are for reading: what a terminal, a log or a spreadsheet
would act on is escaped.
"""

import csv
import io
import json
import re
from typing import Any

from backend.core.audit.chain import Anchor, ChainedEvent, Head
from backend.core.audit.events import LONGEST_BODY, Kind, encode

FORMAT = "gatepost audit 1"
LOG_AUDIT = 13  # the facility of syslog
NOTICE, WARNING, CRITICAL = 5, 4, 2
WARNINGS = frozenset({Kind.DENIED, Kind.RATE_LIMITED, Kind.REJECTED, Kind.LOGIN_FAILED, Kind.LOST, Kind.KEY_ROTATED})
SD_ID = "gatepost@32473"  # the number that RFC 5612 reserves for examples; Gatepost has none of its own
CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
LONGEST_LINE = 6 * LONGEST_BODY + 4096  # bytes: a character may be written as \\u0000
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20\t\r\n'")
COLUMNS = ("seq", "time", "kind", "actor", "address", "execution", "project", "command", "rule", "risk", "status")


def first_line(after: Anchor) -> str:
    """The first line of a file of JSON lines."""
    return json.dumps({"format": FORMAT, "after": after.seq, "hash": after.hash.hex()})


def json_line(link: ChainedEvent) -> str:
    """An event as it is stored, for verification."""
    return json.dumps({"seq": link.seq, "body": link.body, "hash": link.hash.hex()})


def last_line(head: Head, signature: bytes) -> str:
    """The last line of a file of JSON lines."""
    fields = {
        "first_seq": head.first_seq,
        "first_previous": head.first_previous.hex(),
        "seq": head.seq,
        "hash": head.hash.hex(),
        "signature": signature.hex(),
    }
    return json.dumps({"head": fields})


def read_first_line(line: bytes) -> Anchor:
    """The place before the first event. Raises ValueError for another line."""
    found = _object(line)
    if found.get("format") != FORMAT:
        raise ValueError(f"it is not marked as {FORMAT!r}")
    return Anchor(_number(found, "after"), _digest(found, "hash"))


def read_json_line(line: bytes) -> ChainedEvent:
    """An event. Raises ValueError for another line."""
    found = _object(line)
    if not isinstance(found.get("body"), str):
        raise ValueError("it has no body")
    return ChainedEvent(_number(found, "seq"), found["body"], _digest(found, "hash"))


def read_last_line(line: bytes) -> tuple[Head, bytes]:
    """The head and its signature. Raises ValueError for another line."""
    found = _object(line).get("head")
    if not isinstance(found, dict):
        raise ValueError("it is not a signed head")
    first, last = _number(found, "first_seq"), _number(found, "seq")
    return Head(first, _digest(found, "first_previous"), last, _digest(found, "hash")), _digest(found, "signature")


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise ValueError("it is too long")
    try:
        found = json.loads(line)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _number(found: dict[str, Any], name: str) -> int:
    number = found.get(name)
    if type(number) is not int:
        raise ValueError(f"its {name} is not a number")
    return number


def _digest(found: dict[str, Any], name: str) -> bytes:
    text = found.get(name)
    if not isinstance(text, str):
        raise ValueError(f"it has no {name}")
    return bytes.fromhex(text)


def syslog_line(link: ChainedEvent) -> str:
    """An event in the format of RFC 5424, with all its fields as structured data."""
    content = link.content
    kind, time, actor = (_text(content.get(name)) for name in ("kind", "time", "actor"))
    severity = CRITICAL if kind == Kind.CHAIN_BROKEN else WARNING if kind in WARNINGS else NOTICE
    stamp = time if TIME.fullmatch(time) else "-"
    message_id = kind if re.fullmatch("[!-~]{1,32}", kind) else "-"
    fields = {**content, "hash": link.hash.hex()}
    data = " ".join(f'{_name(name)}="{_value(value)}"' for name, value in fields.items())
    message = f"{actor} {kind}".encode("ascii", "backslashreplace").decode()
    return f"<{LOG_AUDIT * 8 + severity}>1 {stamp} - gatepost - {message_id} [{SD_ID} {data}] {message}"


def _name(name: str) -> str:
    return re.sub(r'[^!-~]|[="\]]', "_", name)[:32] or "_"


def _value(value: object) -> str:
    return re.sub(r'(["\\\]])', r"\\\1", _text(value))


def csv_head() -> str:
    """The names of the columns."""
    return _csv_row([*COLUMNS, "details", "hash"])


def csv_line(link: ChainedEvent) -> str:
    """An event as a row; fields without a column of their own are in `details` as JSON."""
    content = link.content
    rest = {name: value for name, value in content.items() if name not in COLUMNS}
    return _csv_row([*(_cell(content.get(name)) for name in COLUMNS), _cell(encode(rest)), link.hash.hex()])


def _cell(value: object) -> str:
    """A cell that no spreadsheet evaluates as a formula."""
    text = _text(value)
    return f"'{text}" if text.startswith(FORMULA) and not isinstance(value, int) else text


def _csv_row(cells: list[str]) -> str:
    row = io.StringIO()
    csv.writer(row, quoting=csv.QUOTE_ALL, lineterminator="").writerow(cells)
    return row.getvalue()


def _text(value: object) -> str:
    """A value in one line, with control characters escaped."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
