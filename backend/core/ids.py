"""The ids of all that is stored: ULIDs, which sort by time."""

from functools import lru_cache

LENGTH = 26
PATTERN = r"^[0-9A-HJKMNP-TV-Z]{26}$"
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
PAIRS = [first + second for first in CROCKFORD for second in CROCKFORD]
LETTERS = (CROCKFORD * 8).encode()  # the letter of each byte


def ulid(milliseconds: int, randomness: bytes) -> str:
    """The ULID of a Unix time and 16 random bytes, five bits of each."""
    return _of_second(milliseconds >> 10) + PAIRS[milliseconds & 1023] + randomness.translate(LETTERS).decode()


@lru_cache(maxsize=1)
def _of_second(second: int) -> str:
    """The letters that all ids of a second (1024 milliseconds) begin with."""
    return "".join([PAIRS[second >> shift & 1023] for shift in (30, 20, 10, 0)])


def as_uuid(id: str) -> str:
    """A ULID in the form of a UUID, for protocols that know only those."""
    digits = f"{sum(CROCKFORD.index(letter) << 5 * place for place, letter in enumerate(reversed(id))):032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def of_uuid(text: str) -> str:
    """The ULID in the form of this UUID; the empty string, which is never an id, if it is none."""
    digits = text.replace("-", "")
    if len(text) != 36 or len(digits) != 32 or not set(digits.lower()) <= set("0123456789abcdef"):
        return ""
    number = int(digits, 16)
    return "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def is_id(value: object) -> bool:
    """Whether it can be stored as an id."""
    return isinstance(value, str) and 0 < len(value) <= LENGTH and value.isascii() and value.isprintable()


def as_id(value: str) -> str:
    """The value when it can be an id, else the empty string, which is never an id.

    Databases differ in how they treat an id that is too long or contains NUL; with this, all of them find nothing.
    """
    return value if is_id(value) else ""


def first_id(milliseconds: int) -> str:
    """The lowest id of a time, as a bound for queries."""
    return ulid(max(milliseconds, 0), bytes(16))


def time_of(id: str) -> int:
    """The Unix milliseconds at which a ULID was made."""
    return sum(CROCKFORD.index(letter) << 5 * place for place, letter in enumerate(reversed(id[:10])))
