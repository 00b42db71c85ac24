"""What a client without a subprotocol is sent: whole lines, one stream, decoration."""

import json
from typing import Any

import pytest

from backend.core.recording.batches import Batch
from backend.core.recording.lines import encode_lines
from backend.transports.frames import MessageWriter, line_frames
from backend.transports.plain_lines import HOLD_LIMIT, HOLD_TIME, PlainLines
from tests.transports.test_frames import parse

ONE, TWO = b"01ARZ3NDEKTSV4RRFFQ69G5FAV", b"01ARZ3NDEKTSV4RRFFQ69G5FAW"


def stored(seq: int, *texts: str, stream: str = "stdout", partial: bool = False, execution: bytes = ONE) -> bytes:
    """Output as a recording has it."""
    items = encode_lines("".join(f"{text}\n" for text in texts).encode()).items
    head = Batch(stream.encode(), execution, seq, 12, partial, []).encode().removesuffix(b'""]}')
    return head + items + b"]}\n"


def complete(seq: int, execution: bytes = ONE) -> bytes:
    return b'{"type":"complete","execution":"%b","seq":%d,"ms":20,"status":"succeeded"}\n' % (execution, seq)


def messages(block: bytes) -> list[dict[str, Any]]:
    """What a client reads of it."""
    return [json.loads(text) for text in parse(b"".join(line_frames(block)))] if block else []


def lines(block: bytes) -> list[str]:
    return [message.get("line", message["type"]) for message in messages(block)]


class TestWholeLines:
    """A line is held back until it ends, bounded in time and size."""

    def test_parts_of_a_line_become_one_message_with_the_number_of_the_last(self) -> None:
        plain = PlainLines()
        assert plain.feed(stored(2, "abc", partial=True), 0.0) == b""
        assert plain.feed(stored(3, "d€f", partial=True), 0.4) == b""
        found = messages(plain.feed(stored(4, "ghi", "next"), 0.8))
        assert [(each["line"], each["seq"], "partial" in each) for each in found] == [
            ("abcd€fghi", 4, False), ("next", 5, False),
        ]  # fmt: skip
        assert plain.due is None

    def test_a_prompt_comes_after_a_while_and_what_follows_is_a_line_of_its_own(self) -> None:
        plain = PlainLines()
        plain.feed(stored(2, "Name? ", partial=True), 5.0)
        assert plain.due == 5.0 + HOLD_TIME
        assert plain.expire(5.0 + HOLD_TIME - 0.01) == b""
        assert lines(plain.expire(5.0 + HOLD_TIME)) == ["Name? "]
        assert plain.due is None
        assert lines(plain.feed(stored(3, "Ann"), 7.0)) == ["Ann"]

    def test_the_time_runs_from_the_first_part_on(self) -> None:
        plain = PlainLines()
        for number in range(20):
            plain.feed(stored(2 + number, f"{number}.", partial=True), number / 10)
        assert plain.due == HOLD_TIME

    @pytest.mark.parametrize("rest", ["", "\r"])
    def test_the_mere_end_of_a_line_that_was_shown_is_not_an_empty_line(self, rest: str) -> None:
        plain = PlainLines()
        plain.feed(stored(2, "Name? ", partial=True), 0.0)
        plain.expire(HOLD_TIME)
        assert plain.feed(stored(3, rest), 2.0) == b""
        assert lines(plain.feed(stored(4, "", "x"), 2.0)) == ["", "x"]

    def test_an_empty_line_is_one(self) -> None:
        assert lines(PlainLines().feed(stored(2, "", "a", ""), 0.0)) == ["", "a", ""]

    def test_a_long_line_comes_in_parts_that_say_so_and_lose_nothing(self) -> None:
        plain = PlainLines()
        assert plain.feed(stored(2, "a" * (HOLD_LIMIT - 1), partial=True), 0.0) == b""
        [part] = messages(plain.feed(stored(3, "b", partial=True), 0.0))
        assert (len(part["line"]), part["partial"]) == (HOLD_LIMIT, True)
        [end] = messages(plain.feed(stored(4, ""), 0.0))
        assert (end["line"], "partial" in end) == ("", False)

    def test_a_line_without_an_end_comes_before_the_end_of_its_execution(self) -> None:
        plain = PlainLines()
        plain.feed(stored(2, "abc", partial=True) + stored(2, "other", partial=True, execution=TWO), 0.0)
        rest, end = messages(plain.feed(complete(3), 0.1))
        assert (rest["line"], rest["partial"], end["type"]) == ("abc", True, "complete")
        assert lines(plain.feed(complete(3, TWO), 0.2)) == ["other", "complete"]
        assert plain.open == {}

    def test_an_answer_to_the_client_itself_ends_no_line(self) -> None:
        plain = PlainLines()
        plain.feed(stored(2, "abc", partial=True), 0.0)
        refusal = rb'{"type":"error","message":"No. [x]","rule":"x","command":"echo \"execution\":\"' + ONE + rb'\""}'
        assert lines(plain.feed(refusal, 0.1)) == ["error"]
        assert plain.due is not None

    def test_streams_and_executions_do_not_mix(self) -> None:
        plain = PlainLines()
        plain.feed(stored(2, "out", partial=True) + stored(3, "err", stream="stderr", partial=True), 0.0)
        plain.feed(stored(2, "two", partial=True, execution=TWO), 0.0)
        block = stored(4, "put") + stored(5, "or", stream="stderr") + stored(3, "fold", execution=TWO)
        assert lines(plain.feed(block, 0.1)) == ["output", "error", "twofold"]


class TestStandardError:
    """It is the same stream for a client that knows no other."""

    def test_it_comes_as_stdout_and_says_so(self) -> None:
        block = stored(2, "one", 'q"uote', stream="stderr") + stored(4, "two") + complete(5)
        found = messages(PlainLines().feed(block, 0.0))
        assert [each["type"] for each in found] == ["stdout", "stdout", "stdout", "complete"]
        assert [(each["line"], each.get("stream"), each["seq"]) for each in found[:-1]] == [
            ("one", "stderr", 2), ('q"uote', "stderr", 3), ("two", None, 4),
        ]  # fmt: skip

    async def test_it_does_so_on_every_server(self) -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(json.loads(message["text"]))

        block = PlainLines().feed(stored(2, "one", stream="stderr"), 0.0)
        await MessageWriter(send, batches=False).write(block)
        assert sent == messages(block)


class TestProgress:
    """Of a line that is overwritten, what a terminal would show at the end remains."""

    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("10%\r20%\r30%", "30%"),
            ("10%\r20%\r", "20%"),
            ("working\r       \rdone", "done"),
            ("10%\r\x1b[K20%", "20%"),
            ("10%\x1b[1G20%\x1b[0K", "20%"),
            ("a\x1b[5Gb", "ab"),
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
            ("dos\r", "dos\r"),
            (r"C:\run\results", r"C:\run\results"),
            ("é\r€", "€"),
        ],
    )
    def test_the_last_version_remains(self, text: str, shown: str) -> None:
        assert lines(PlainLines().feed(stored(2, text), 0.0)) == [shown]

    def test_a_slow_one_is_shown_now_and_then(self) -> None:
        plain, shown = PlainLines(), []
        for tick in range(30):
            now = tick / 10
            shown += lines(plain.expire(now)) + lines(plain.feed(stored(2 + tick, f"{tick}%\r", partial=True), now))
        shown += lines(plain.feed(stored(40, "done"), 3.0))
        assert shown == ["9%", "19%", "done"]


def test_decoration_is_on_messages_only() -> None:
    block = (
        b'{"type":"stdout","execution":"x","seq":1,"ms":1,"lines":["{\\"type\\":\\"error\\",\\"message\\":\\"x"]}\n'
        b'{"type":"error","execution":"x","seq":2,"ms":1,"message":"Timed out","rule":"limits.timeout"}\n'
    )
    output, error = PlainLines().feed(block, 0.0).splitlines(keepends=True)
    assert output == block.splitlines(keepends=True)[0]
    assert json.loads(error)["message"] == "❌ Timed out"
    assert json.loads(PlainLines().feed(b'{"type":"ready","message":"Connected"}', 0.0))["message"] == "✅ Connected"
    assert PlainLines().feed(b'{"type":"waking","message":"x"}', 0.0) == b'{"type":"waking","message":"x"}'
