"""Arithmetic, as in `$((1 + 2 * $N))`: the integers and operators of POSIX without assignments, `**` of bash, and 64 bits, no more."""

import re
from collections.abc import Callable, Iterator, Mapping
from operator import and_, mul, or_, xor

from backend.core.dataclasses import dataclass

TOKEN = re.compile(
    r"[ \t\n]*(?:(?P<number>0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})|\$?(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\$\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<sign>\*\*|<<|>>|<=|>=|==|!=|&&|\|\||[-+*/%<>!~&^|?:()]))"
)
UNLIKE = re.compile(r"[A-Za-z0-9_$=#\[]")  # right behind a number or a name
INTEGER = re.compile(r"[-+]?(0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})")
DEPTH_LIMIT = 20
SIZE_LIMIT = 200  # numbers, names and signs of an expression
LEVELS = (
    ("||",),
    ("&&",),
    ("|",),
    ("^",),
    ("&",),
    ("==", "!="),
    ("<", "<=", ">", ">="),
    ("<<", ">>"),
    ("+", "-"),
    ("*", "/", "%"),
)


class UnlikeArithmetic(Exception):
    """A text that is no expression, or one whose value differs between shells."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A number, the name of a variable, or an operator with its operands. `behind` is the character just before `$name`."""

    sign: str
    operands: "tuple[Expression, ...]" = ()
    behind: str = ""

    def names(self) -> Iterator[str]:
        """The variables in it."""
        if not self.operands and not self.sign[0].isdigit():
            yield self.sign
        for operand in self.operands:
            yield from operand.names()

    def value(self, values: Mapping[str, str]) -> int:
        """Its value. Raises UnlikeArithmetic and, for a variable that is not set, KeyError."""
        if not self.operands:
            return _number(self._text(values))
        first = self.operands[0].value(values)
        if self.sign == "?":
            return self.operands[1 if first else 2].value(values)
        if self.sign in {"&&", "||"}:
            decided = bool(first) is (self.sign == "||")
            return int(bool(first) if decided else bool(self.operands[1].value(values)))
        if len(self.operands) == 1:
            return _bounded(UNARY[self.sign](first))
        return _bounded(BINARY[self.sign](first, self.operands[1].value(values)))

    def _text(self, values: Mapping[str, str]) -> str:
        if self.sign[0].isdigit():
            return self.sign
        text = values[self.sign]
        if self.behind in {"+", "-"} and text.startswith(self.behind):
            raise UnlikeArithmetic(f"{self.behind}{text} means different things in different shells")
        return text


def _number(text: str) -> int:
    if not INTEGER.fullmatch(text):
        raise UnlikeArithmetic(f"{text!r} is not an integer")
    digits = text.lstrip("+-").lower()
    base = 16 if digits.startswith("0x") else 8 if digits.startswith("0") else 10
    try:
        return _bounded(int(digits, base) * (-1 if text.startswith("-") else 1))
    except ValueError:
        raise UnlikeArithmetic(f"{text} is not an octal number") from None


def _bounded(number: int) -> int:
    if not -(1 << 63) < number < 1 << 63:
        raise UnlikeArithmetic("a value has more than 64 bits")
    return number


def _divided(first: int, second: int) -> int:
    if not second:
        raise UnlikeArithmetic("it divides by 0")
    quotient = abs(first) // abs(second)
    return quotient if (first < 0) is (second < 0) else -quotient


def _shifted(first: int, second: int, left: bool) -> int:
    if not 0 <= second < 63:
        raise UnlikeArithmetic("it shifts by a negative number or by too many bits")
    return first << second if left else first >> second


def _power(base: int, exponent: int) -> int:
    if exponent < 0 or (exponent > 64 and abs(base) > 1):
        raise UnlikeArithmetic("its exponent is negative or too large")
    return int(base ** min(exponent, 64 + exponent % 2))


@dataclass(frozen=True, slots=True)
class Statement:
    """What is between `(( ))`: the new value of a variable, where it sets one, and the result, which decides how it ends.

    `result` is computed after the variable has its new value.
    """

    name: str
    value: Expression | None
    result: Expression


UNARY: Mapping[str, Callable[[int], int]] = {
    "-": lambda one: -one,
    "+": lambda one: one,
    "~": lambda one: ~one,
    "!": lambda one: int(not one),
}
BINARY: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda one, two: one + two,
    "-": lambda one, two: one - two,
    "*": mul,
    "**": _power,
    "/": _divided,
    "%": lambda one, two: one - _divided(one, two) * two,
    "<<": lambda one, two: _shifted(one, two, left=True),
    ">>": lambda one, two: _shifted(one, two, left=False),
    "&": and_,
    "|": or_,
    "^": xor,
    "==": lambda one, two: int(one == two),
    "!=": lambda one, two: int(one != two),
    "<": lambda one, two: int(one < two),
    "<=": lambda one, two: int(one <= two),
    ">": lambda one, two: int(one > two),
    ">=": lambda one, two: int(one >= two),
}


def parse_arithmetic(text: str, at: int) -> tuple[Expression, int]:
    """The expression that begins at `at`, up to `))`, and where what follows begins. Raises UnlikeArithmetic."""
    reader = _Reader(text, at)
    expression = reader.expression(0)
    if not text.startswith("))", reader.skip()):
        raise UnlikeArithmetic("it is not closed by ))")
    return expression, reader.at + 2


ONE = Expression("1")
SET = re.compile(r"[ \t\n]*([A-Za-z_][A-Za-z0-9_]*)[ \t\n]*(?:([-+*/%]?)=(?!=)|(\+\+|--)(?![-+]))")
STEPPED = re.compile(r"[ \t\n]*(\+\+|--)[ \t\n]*([A-Za-z_][A-Za-z0-9_]*)")


def parse_statement(text: str, at: int) -> tuple[Statement, int]:
    """The statement that begins at `at`, as in `((i++))`, and where what follows it begins. Raises UnlikeArithmetic."""
    if found := SET.match(text, at):
        name, sign, step = found.groups()
        own = Expression(name)
        if step:
            back = "-" if step == "++" else "+"
            return Statement(name, Expression(step[0], (own, ONE)), Expression(back, (own, ONE))), found.end()
        reader = _Reader(text, found.end())
        given = reader.expression(0)
        value = Expression(sign, (own, given)) if sign else given
        return Statement(name, value, own), reader.skip()
    if found := STEPPED.match(text, at):
        own = Expression(found[2])
        return Statement(found[2], Expression(found[1][0], (own, ONE)), own), found.end()
    reader = _Reader(text, at)
    return Statement("", None, reader.expression(0)), reader.skip()


@dataclass(slots=True)
class _Reader:
    text: str
    at: int
    size: int = 0

    def skip(self) -> int:
        while self.text[self.at : self.at + 1] in {" ", "\t", "\n"}:
            self.at += 1
        return self.at

    def expression(self, depth: int) -> Expression:
        condition = self._binary(0, depth)
        if not self._take("?"):
            return condition
        chosen = self.expression(self._deeper(depth))
        if not self._take(":"):
            raise UnlikeArithmetic("a ? has no :")
        return Expression("?", (condition, chosen, self.expression(self._deeper(depth))))

    def _binary(self, level: int, depth: int) -> Expression:
        if level == len(LEVELS):
            return self._power(depth)
        found = self._binary(level + 1, depth)
        while sign := self._take(*LEVELS[level]):
            found = Expression(sign, (found, self._binary(level + 1, depth)))
        return found

    def _power(self, depth: int) -> Expression:
        """`2 ** 10`, which begins with its right side."""
        base = self._unary(depth)
        return Expression("**", (base, self._power(self._deeper(depth)))) if self._take("**") else base

    def _unary(self, depth: int) -> Expression:
        if sign := self._take("-", "+", "!", "~"):
            return Expression(sign, (self._unary(self._deeper(depth)),))
        if self._take("("):
            inner = self.expression(self._deeper(depth))
            if not self._take(")"):
                raise UnlikeArithmetic("a ( is not closed")
            return inner
        found = TOKEN.match(self.text, self.at)
        operand = found and (found["number"] or found["name"] or found["braced"])
        if not found or not operand:
            raise UnlikeArithmetic("a number or a variable is missing")
        self._advance(found.end())
        if UNLIKE.match(self.text, self.at):
            raise UnlikeArithmetic("it has something else than integers, variables and their operators")
        written = found[0].lstrip()
        return Expression(operand, behind=self.text[found.end() - len(written) - 1] if written[0] == "$" else "")

    def _take(self, *signs: str) -> str:
        """One of the signs, if it is next."""
        found = TOKEN.match(self.text, self.at)
        sign = found["sign"] if found else None
        if not found or sign not in signs:
            return ""
        following = self.text[found.end() : found.end() + 1]
        if following == "=" or (following == sign and sign in {"+", "-", "*"}):
            raise UnlikeArithmetic("it assigns, or has an operator that only some shells have")
        self._advance(found.end())
        return sign

    def _advance(self, at: int) -> None:
        self.at = at
        self.size += 1
        if self.size > SIZE_LIMIT:
            raise UnlikeArithmetic(f"it has more than {SIZE_LIMIT} parts")

    def _deeper(self, depth: int) -> int:
        if depth >= DEPTH_LIMIT:
            raise UnlikeArithmetic(f"it is nested more than {DEPTH_LIMIT} deep")
        return depth + 1
