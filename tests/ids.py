"""Ids that tests choose: of a time, and in the order of numbers."""

from backend.core.ids import first_id


def numbered_id(milliseconds: int, number: int) -> str:
    """The ULID of a Unix time whose last 16 letters are this number, below 2**64."""
    return f"{first_id(milliseconds)[:-16]}{number:016X}"
