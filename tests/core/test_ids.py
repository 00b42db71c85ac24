"""ULIDs: their form, their order, and what is none."""

import re

import pytest

from backend.core.ids import CROCKFORD, as_id, first_id, is_id, time_of, ulid


def test_a_ulid_is_the_one_of_the_specification() -> None:
    assert ulid(0, bytes(16)) == first_id(0) == first_id(-1) == "0" * 26
    assert first_id(1469918176385) == "01ARYZ6S410000000000000000"
    assert re.fullmatch("7Z{25}", ulid(2**48 - 1, b"\xff" * 16))


def test_ulids_sort_by_time() -> None:
    times = [0, 1, 31, 32, 1_700_000_000_000, 1_700_000_000_001]
    made = [ulid(time, bytes([255 - time % 32]) * 16) for time in times]
    assert sorted(made) == made
    assert all(first_id(time) <= id for time, id in zip(times, made, strict=True))


def test_a_ulid_has_the_letters_of_its_time_and_one_for_each_byte() -> None:
    assert time_of(ulid(1_700_000_000_001, bytes(range(16)))) == 1_700_000_000_001
    for byte in range(256):
        assert ulid(0, bytes(15) + bytes([byte]))[-1] == CROCKFORD[byte % 32]


@pytest.mark.parametrize("value", ["", "x" * 27, "a\0b", "a\n", "ä", None, 5, ["a"]])
def test_what_is_no_id(value: object) -> None:
    assert not is_id(value)
    assert not isinstance(value, str) or as_id(value) == ""
