import pytest

from backend.core.figures import duration_text, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1000, "1000 bytes"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (100_000, "97.7 KiB"),
        (10 * 2**20, "10 MiB"),
        (2**31, "2 GiB"),
        (2**60, "1048576 TiB"),
    ],
)
def test_a_size_is_told_in_the_largest_unit_that_fits(count: int, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0.2 s"),
        (1.0, "1 s"),
        (43, "43 s"),
        (60, "1 min"),
        (296.4, "4 min 56 s"),
        (3600, "1 h"),
        (7505, "2 h 5 min"),
    ],
)
def test_a_time_is_told_in_at_most_two_units(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
