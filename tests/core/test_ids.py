"""ULIDs: their form, their order, and what is none."""

import re

import pytest

from backend.core.ids import as_id, is_id, ulid


def test_a_ulid_is_the_one_of_the_specification() -> None:
    assert ulid(0, 0) == "0" * 26
    assert ulid(1469918176385, 0).startswith("01ARYZ6S41")
    assert re.fullmatch("7Z{25}", ulid(2**48 - 1, 2**80 - 1))


def test_ulids_sort_by_time() -> None:
    times = [0, 1, 31, 32, 1_700_000_000_000, 1_700_000_000_001]
    assert sorted(ulid(time, 2**80 - 1 - time) for time in times) == [ulid(time, 2**80 - 1 - time) for time in times]


@pytest.mark.parametrize("value", ["", "x" * 27, "a\0b", "a\n", "ä", None, 5, ["a"]])
def test_what_is_no_id(value: object) -> None:
    assert not is_id(value)
    assert not isinstance(value, str) or as_id(value) == ""
