"""Frames that are built in bulk, read by another implementation."""

import json
import random
from collections.abc import Iterator, MutableMapping
from functools import partial
from itertools import zip_longest
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.protocol import OPEN
from websockets.uri import parse_uri

from backend.core.recording import native
from backend.core.recording.batches import Batch, read_batch
from backend.core.recording.lines import encode_lines
from backend.transports.frames import (
    ALONE,
    PIECE,
    BlockWriter,
    MessageWriter,
    SharedFrames,
    block_writer,
    frames_in_c,
    frames_in_python,
    line_frames,
    payload_frames,
    pieces,
)
from tests.needs import need

ID = b"01ARZ3NDEKTSV4RRFFQ69G5FAV"


def stored(seq: int, texts: list[str], *, partial: bool = False) -> bytes:
    items = encode_lines("".join(f"{text}\n" for text in texts).encode()).items
    head = Batch(b"stdout", ID, seq, 12, partial, []).encode().removesuffix(b'""]}')
    return head + items + b"]}\n"


def parse(data: bytes) -> list[str]:
    """The text messages in a stream of frames, as the websockets library reads them."""
    protocol = ClientProtocol(parse_uri("ws://x/"), max_size=None)
    protocol.state = OPEN
    protocol.reader.feed_data(data)
    protocol.parser = protocol.parse()
    next(protocol.parser)
    protocol.receive_data(b"")
    return [bytes(event.data).decode() for event in protocol.events_received() if isinstance(event, Frame)]


@pytest.mark.parametrize("seq", [2, 990, 999, 1000, 1001, 999_995, 1_000_000, 123_456_789])
def test_a_frame_a_line_says_what_the_messages_say(seq: int) -> None:
    texts = ["", " ", 'q"', "back\\slash", "é", "x" * 40] + [str(number) for number in range(2500)]
    block = stored(seq, texts)
    batch = read_batch(block[:-1])
    assert batch
    got = [json.loads(text) for text in parse(b"".join(line_frames(block)))]
    assert got == [json.loads(message) for message in batch.messages()]
    assert [message["seq"] for message in got] == list(range(seq, seq + len(texts)))
    assert [message["line"] for message in got] == texts


@pytest.mark.parametrize("seq", [5, 5000])
def test_every_length_has_its_head(seq: int) -> None:
    batch = read_batch(stored(seq, [""])[:-1])
    assert batch
    empty = len(next(iter(batch.messages())))
    lengths = [length - empty for length in (124, 125, 126, 127, 65534, 65535, 65536, 65537)]
    texts = ["x" * length for length in lengths if length >= 0]
    got = [json.loads(text)["line"] for text in parse(b"".join(line_frames(stored(seq, texts))))]
    assert got == texts


def test_other_messages_and_partial_lines_go_through() -> None:
    block = b'{"type":"started","seq":1}\n' + stored(2, ["a"], partial=True) + b'{"type":"complete","seq":3}\n'
    first, second, third = (json.loads(text) for text in parse(b"".join(line_frames(block))))
    assert (first["type"], second["partial"], second["line"], third["type"]) == ("started", True, "a", "complete")


def test_frames_made_in_c_are_those_made_in_python() -> None:
    need(native.output, "a module for this machine")
    assert native.output
    chance = random.Random(3)
    parts = ["a", '"', "\\", "\t", "é", "\U0001f600", '","', '"]', "x" * 200, "y" * 40_000, "\x1b[1m", "\r"]
    for _ in range(300):
        texts = ["".join(chance.choices(parts, k=chance.randint(0, 6))) for _ in range(chance.choice((1, 3, 40)))]
        line = stored(chance.choice((1, 9, 98, 995, 99_990, 10**18 - 3)), texts, partial=chance.random() < 0.1)[:-1]
        before, end = chance.randint(0, 2), len(line)
        block = line * before + line + b"\n" + line
        made = [
            make(block, before * end, (before + 1) * end)
            for make in (partial(frames_in_c, native.output), frames_in_python)
        ]
        assert b"".join(made[0] or ()) == b"".join(made[1] or ()) != b""


def test_frames_of_many_lines_are_made_as_they_are_needed() -> None:
    need(native.output, "a module for this machine")
    assert native.output
    block = stored(2, [str(number) for number in range(5000)])
    sizes = list(map(len, frames_in_c(native.output, block, 0, len(block) - 1) or ()))
    assert len(sizes) > 3
    assert max(sizes) < PIECE + 200


def test_batches_go_as_they_are_stored() -> None:
    block = stored(2, ["a", "b"]) + stored(4, ["é" * 70_000])
    assert parse(b"".join(payload_frames(block))) == block.decode().splitlines()


def test_pieces_hold_all_frames_in_order() -> None:
    block = stored(2, [str(number) for number in range(5000)])
    parts = list(pieces(line_frames(block)))
    assert len(parts) > 1
    assert b"".join(parts) == b"".join(line_frames(block))


@pytest.mark.parametrize("batches", [True, False])
async def test_elsewhere_it_goes_message_by_message(batches: bool) -> None:
    sent = []

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(json.loads(message["text"]))

    writer: BlockWriter = block_writer(send, batches=batches, shared=SharedFrames())
    assert isinstance(writer, MessageWriter)
    assert await writer.write(stored(2, ["a", "b"]) + b'{"type":"complete"}\n')
    assert [message.get("lines", message.get("line")) for message in sent] == (
        [["a", "b"], None] if batches else ["a", "b", None]
    )


async def test_a_client_that_has_gone_is_told() -> None:
    async def send(message: MutableMapping[str, Any]) -> None:
        raise OSError

    assert not await block_writer(send, batches=False, shared=SharedFrames()).write(stored(2, ["a"]))


class TestSharedFrames:
    """Of two blocks, each of which has several pieces."""

    blocks = tuple(stored(first, [str(number) for number in range(5000)]) for first in (2, 7002))

    def made(self) -> list[list[bytes]]:
        return [list(pieces(line_frames(block))) for block in self.blocks]

    def test_viewers_get_the_frames_that_the_first_of_them_had_made(self) -> None:
        encoded = []

        def encode(block: bytes) -> Iterator[bytes]:
            encoded.append(block)
            return line_frames(block)

        shared = SharedFrames()
        first, second = (list(shared.pieces(encode, self.blocks[0])) for _ in range(2))
        assert first == self.made()[0]
        assert all(one is other for one, other in zip(first, second, strict=True))
        assert len(encoded) == 1

    def test_a_viewer_in_the_middle_of_a_block_gets_the_rest_of_it(self) -> None:
        shared = SharedFrames()
        fast, slow = (shared.pieces(line_frames, self.blocks[0]) for _ in range(2))
        got = [each for pair in zip_longest(fast, slow) for each in pair]
        assert got == [piece for piece in self.made()[0] for _ in range(2)]

    @pytest.mark.parametrize("room", [0, 1, 3])
    def test_a_viewer_that_is_behind_makes_its_own(self, room: int) -> None:
        first, second = self.made()
        shared = SharedFrames(len(self.blocks[0]) + room * len(first[0]))
        slow = shared.pieces(line_frames, self.blocks[0])
        begun = [next(slow), next(slow)]
        assert list(shared.pieces(line_frames, self.blocks[1])) == second
        assert [*begun, *slow] == first

    def test_blocks_that_differ_in_the_middle_are_two(self) -> None:
        blocks = [stored(2, ["a" * ALONE, middle, "b" * ALONE]) for middle in ("one", "two")]
        shared = SharedFrames()
        for block in (*blocks, *blocks):
            assert b"".join(shared.pieces(line_frames, block)) == b"".join(line_frames(block))
        assert shared._size == sum(len(made.block) + sum(map(len, made.pieces)) for made in shared._made.values())

    def test_what_is_kept_is_bounded(self) -> None:
        shared = SharedFrames(1 << 20)
        for number in range(20):
            block = stored(2 + 5000 * number, [str(line) for line in range(5000)])
            assert sum(map(len, shared.pieces(line_frames, block))) > len(block)
        kept = sum(len(made.block) + sum(map(len, made.pieces)) for made in shared._made.values())
        assert 0 < kept == shared._size <= 1 << 20

    def test_nothing_is_kept_of_short_blocks(self) -> None:
        shared, block = SharedFrames(), stored(2, ["a", "b"])
        assert b"".join(shared.pieces(line_frames, block)) == b"".join(line_frames(block))
        assert not shared._made

    def test_dialects_are_kept_apart(self) -> None:
        shared = SharedFrames()
        assert b"".join(shared.pieces(payload_frames, self.blocks[0])) != b"".join(
            shared.pieces(line_frames, self.blocks[0])
        )
