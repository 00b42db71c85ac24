"""ULIDs: their form, their order, and what is none."""

import re

import pytest

from backend.core.ids import CROCKFORD, as_id, is_id, random_ulid, time_of, ulid


def test_a_ulid_is_the_one_of_the_specification() -> None:
    assert ulid(0, 0) == "0" * 26
    assert ulid(1469918176385, 0).startswith("01ARYZ6S41")
    assert re.fullmatch("7Z{25}", ulid(2**48 - 1, 2**80 - 1))


def test_ulids_sort_by_time() -> None:
    times = [0, 1, 31, 32, 1_700_000_000_000, 1_700_000_000_001]
    assert sorted(ulid(time, 2**80 - 1 - time) for time in times) == [ulid(time, 2**80 - 1 - time) for time in times]


def test_a_random_ulid_has_the_letters_of_its_time_and_one_for_each_byte() -> None:
    assert random_ulid(1469918176385, bytes(16)) == ulid(1469918176385, 0)
    assert random_ulid(2**48 - 1, b"\xff" * 16) == ulid(2**48 - 1, 2**80 - 1)
    assert time_of(random_ulid(1_700_000_000_001, bytes(range(16)))) == 1_700_000_000_001
    for byte in range(256):
        assert random_ulid(0, bytes(15) + bytes([byte]))[-1] == CROCKFORD[byte % 32]


@pytest.mark.parametrize("value", ["", "x" * 27, "a\0b", "a\n", "ä", None, 5, ["a"]])
def test_what_is_no_id(value: object) -> None:
    assert not is_id(value)
    assert not isinstance(value, str) or as_id(value) == ""
