"""The audit for others: what cannot be taken for something else by who reads it."""

import csv
import io
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.audit import export as exports
from backend.core.audit.chain import EMPTY, Anchor, ChainedEvent, Head, extend
from backend.core.audit.events import Event, Kind

# RFC 5424, 6: PRI VERSION TIMESTAMP HOSTNAME APP-NAME PROCID MSGID STRUCTURED-DATA MSG
VALUE = r'(?:[^"\\\]]|\\["\\\]])*'
SYSLOG = re.compile(
    r"<(\d{1,3})>1 (\S+) - gatepost - ([!-~]{1,32}) "
    rf'\[gatepost@32473((?: [!-~]{{1,32}}="{VALUE}")*)\] (.*)',
    re.S,
)
PARAMETER = re.compile(rf' ([^= ]+)="({VALUE})"')


def link(kind: Kind = Kind.DENIED, **fields: object) -> ChainedEvent:
    event = Event("E1", "2026-01-02T03:04:05.678Z", kind, "user:ann", "10.0.0.1", fields)
    return extend(EMPTY, [event])[1][0]


def parameters(line: str) -> dict[str, str]:
    found = SYSLOG.fullmatch(line)
    assert found, line
    return {name: re.sub(r'\\(["\\\]])', r"\1", value) for name, value in PARAMETER.findall(found[4])}


def row(line: str) -> dict[str, str]:
    [names], [cells] = (list(csv.reader(io.StringIO(text), strict=True)) for text in (exports.csv_head(), line))
    return dict(zip(names, cells, strict=True))


def test_a_line_of_syslog() -> None:
    line = exports.syslog_line(link(command='echo "a]b\\" \n\x1b[31m', argv=[["echo"]], exit_code=0))
    assert line.startswith(
        '<108>1 2026-01-02T03:04:05.678Z - gatepost - denied [gatepost@32473 actor="user:ann" address'
    )
    assert line.endswith("] user:ann denied")
    found = parameters(line)
    assert found["command"] == 'echo "a]b\\" \\u000a\\u001b[31m'
    assert (found["argv"], found["exit_code"], found["seq"]) == ('[["echo"]]', "0", "1")
    assert len(found["hash"]) == 64


@pytest.mark.parametrize(
    ("kind", "severity"), [(Kind.FINISHED, 5), (Kind.LOGIN_FAILED, 4), (Kind.LOST, 4), (Kind.CHAIN_BROKEN, 2)]
)
def test_what_is_worth_a_look_has_another_severity(kind: Kind, severity: int) -> None:
    assert exports.syslog_line(link(kind)).startswith(f"<{13 * 8 + severity}>1 ")


@given(st.text(), st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())))
def test_no_text_leaves_its_place(command: str, fields: dict[str, object]) -> None:
    about: dict[str, Any] = {
        "command": command,
        "fields": fields,
        **{f"x{name}": value for name, value in fields.items()},
    }
    hostile = link(**about)
    for line in (exports.syslog_line(hostile), exports.csv_line(hostile), exports.json_line(hostile)):
        assert line.splitlines() == [line]
        assert line.encode().isascii() or not set(line) & set("\x7f\x85\x9b\u202e")
    assert parameters(exports.syslog_line(hostile))["seq"] == "1"
    assert row(exports.csv_line(hostile))["seq"] == "1"
    assert exports.read_json_line(exports.json_line(hostile).encode()) == hostile


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@A1", "\uff1d1", "\t=1", "'=1", '=cmd|" /C calc"!A0'])
def test_no_cell_is_a_formula(text: str) -> None:
    found = row(exports.csv_line(link(command=text)))
    assert found["command"][0] in "'\\"
    assert found["command"].lstrip("'").endswith(text.lstrip("'").lstrip("\t"))


def test_a_row_of_csv() -> None:
    found = row(exports.csv_line(link(command="ls", rule="blocked.rm", extra={"a": 1})))
    assert (found["time"], found["kind"], found["command"], found["status"]) == (
        "2026-01-02T03:04:05.678Z",
        "denied",
        "ls",
        "",
    )
    assert json.loads(found["details"]) == {"event_id": "E1", "extra": {"a": 1}}


@pytest.mark.parametrize("body", ["", "[]", '{"time":7,"kind":["x"],"actor":null}'])
def test_what_somebody_put_there_is_exported_as_far_as_it_goes(body: str) -> None:
    strange = ChainedEvent(3, body, b"")
    assert SYSLOG.fullmatch(exports.syslog_line(strange))
    row(exports.csv_line(strange))


def test_the_lines_around_the_events_are_read_again() -> None:
    place, head = Anchor(7, bytes(range(32))), Head(3, bytes(32), 9, b"h" * 32)
    assert exports.read_first_line(exports.first_line(place).encode()) == place
    assert exports.read_last_line(exports.last_line(head, b"s" * 64).encode()) == (head, b"s" * 64)


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b"7", b"{}", b'{"head":7}', b'{"seq":"1"}', b"\xff", b"[" * 100_000,
             b'{"format":"gatepost audit 1","after":true,"hash":""}', b'{"seq":1,"body":"","hash":"zz"}',
             b'{"head":{"first_seq":1,"seq":1,"first_previous":7}}'],
)  # fmt: skip
def test_a_line_that_is_none_is_told(line: bytes) -> None:
    for read in (exports.read_first_line, exports.read_json_line, exports.read_last_line):
        with pytest.raises(ValueError):
            read(line)
