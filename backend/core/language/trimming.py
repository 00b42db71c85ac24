"""What `${NAME%x}` and its like leave of a value. A pattern has at most one `*`, so that the work stays bounded."""

import re

OPERATORS = ("%%", "%", "##", "#")
PATTERN = re.compile(r"[A-Za-z0-9_./:@+=,?-]*\*?[A-Za-z0-9_./:@+=,?-]*")


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
