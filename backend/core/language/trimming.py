"""What `${NAME%x}` and its like leave of a value. A pattern has at most one `*`, so that the work stays bounded.

`${NAME:0:5}`, `${NAME/a/b}` and `${NAME^^}` are those of bash.
"""

import re
from collections.abc import Callable

OPERATORS = ("%%", "%", "##", "#")
PATTERN = re.compile(r"[A-Za-z0-9_./:@+=,?-]*\*?[A-Za-z0-9_./:@+=,?-]*")


def changed(value: str, operator: str, operand: str) -> str:
    """What an operator other than those for a missing value makes of a value. Raises ValueError where it cannot."""
    match operator:
        case ":":
            return _slice(value, *map(int, operand.split(":")))
        case "/" | "//":
            old, _, new = operand.partition("/")
            return value.replace(old, new, 1 if operator == "/" else -1)
        case "^^" | ",,":
            return "".join(map(_cased(operator), value))
        case "^" | ",":
            return "".join(map(_cased(operator), value[:1])) + value[1:]
        case _:
            return trimmed(value, operator, operand)


def _slice(value: str, start: int, length: int | None = None) -> str:
    """A negative start counts from the end, and so does a negative length: it is where the part ends."""
    if start < 0:
        start += len(value)
    if not 0 <= start <= len(value):
        return ""
    end = len(value) if length is None else start + length if length >= 0 else len(value) + length
    if end < start:
        raise ValueError
    return value[start:end]


def _cased(operator: str) -> Callable[[str], str]:
    """Letters that become one other letter."""

    def cased(char: str) -> str:
        other = char.upper() if operator.startswith("^") else char.lower()
        return other if len(other) == 1 else char

    return cased


def trimmed(value: str, operator: str, pattern: str) -> str:
    """The value without the shortest (`%`, `#`) or longest (`%%`, `##`) end or beginning that matches."""
    before, star, after = pattern.partition("*")
    first, last, length = _part(before), _part(after), len(value)
    if operator.startswith("%"):
        if not last.fullmatch(value, max(length - len(after), 0)):
            return value
        end = length - len(after) - len(before)
        starts = [at for at in ((range(end + 1)) if star else (end,)) if at >= 0 and first.match(value, at)]
        return value[: starts[0 if operator == "%%" else -1]] if starts else value
    if not first.match(value):
        return value
    begin = len(before) + len(after)
    ends = [at for at in (range(begin, length + 1) if star else (begin,)) if last.match(value, at - len(after))]
    ends = [at for at in ends if at <= length]
    return value[ends[-1 if operator == "##" else 0] :] if ends else value


def _part(text: str) -> re.Pattern[str]:
    return re.compile("".join("." if char == "?" else re.escape(char) for char in text), re.DOTALL)
