"""What words become when their variables and substitutions are expanded."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from typing import Self

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.language.arithmetic import Expression, UnlikeArithmetic
from backend.core.language.tree import GLOB_STARTS, Parameter, Word
from backend.core.language.trimming import changed

__all__ = ["UNKNOWN", "Guess", "Listed", "OrElse", "Parameter", "Unset", "Word", "expand_words", "joined"]

GLOB_CHARACTERS = GLOB_STARTS | frozenset("]!^-")
POSITIONAL, ALL = "@", "[@]"  # what stands for all words of a list
BLANK = re.compile("[ \t\n]+")  # what separates fields: IFS cannot be set
UNLIKE_BRACKET = re.compile(r"\[(\^|!?[^]\s]*\[[:.=])")  # means different things in different shells
BRACKET_LIMIT = 100  # opening brackets of a word, each of which is compared with the rest of it
ELEMENT = re.compile("0|[1-9][0-9]{0,8}")
VALUE_LIMIT = 100_000  # characters that the words of a command may have


class Guess(str):
    """A value that is only known when the line runs, and what it is taken to be until then."""

    __slots__ = ()


# What a value is taken to be before a line runs: a plain name, and a number that a process may have. The step is judged again
# when it is known.
UNKNOWN = Guess("2")


class OrElse(dict[str, str]):
    """Variables, of which those that are not set have this value."""

    def __init__(self, values: Mapping[str, str], otherwise: str) -> None:
        super().__init__(values)
        self.otherwise = otherwise

    def get(self, name: str, default: str | None = None) -> str:  # type: ignore[override]
        """The value of a variable."""
        return super().get(name, self.otherwise)

    def __missing__(self, name: str) -> str:
        return self.otherwise

    def copy(self) -> "OrElse":
        """The same variables, which can be set."""
        return OrElse(self, self.otherwise)


class Listed(str):
    """The words of an array, or those that a function was called with; as a text it is the first one.

    `is_all` where they are the names of everything in the workspace, as a glob found them.
    """

    __slots__ = ("is_all", "items")
    items: tuple[str, ...]
    is_all: bool

    def __new__(cls, items: tuple[str, ...], *, is_all: bool = False) -> Self:
        made = super().__new__(cls, items[0] if items else "")
        made.items, made.is_all = items, is_all
        return made


class Unset(Exception):
    """A variable that is not known, or whose value cannot be used here."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.decision = decision


def joined(word: Word, values: Mapping[str, str]) -> str:
    """The text of a word that stays one, as in an assignment. Raises Unset."""
    if not word.parameters:
        return word.text
    pieces = [piece if isinstance(piece, str) else _value(piece, values) for piece in word.pieces()]
    text = "".join(pieces)
    if len(text) > VALUE_LIMIT:
        raise Unset(_too_long())
    return Guess(text) if any(isinstance(piece, Guess) for piece in pieces) else text


def expand_words(words: Iterable[Word], values: Mapping[str, str]) -> tuple[Word, ...]:
    """The words with their variables replaced: unquoted values are split at blanks, and may be globs. Raises Unset."""
    expanded: list[Word] = []
    length = 0
    for word in words:
        length += sum(len(_value(each, values)) for each in word.parameters)
        if length > VALUE_LIMIT:
            raise Unset(_too_long())
        fields = _Fields(word, values).split() if word.parameters else [word]
        length += sum(len(each.text) for each in fields) + len(fields)
        if length > VALUE_LIMIT:
            raise Unset(_too_long())
        expanded += fields
    return tuple(expanded)


@dataclass(slots=True)
class _Fields:
    """The fields that one word becomes."""

    word: Word
    values: Mapping[str, str]
    fields: list[Word] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    active: set[int] = field(default_factory=set)
    length: int = 0
    begun: bool = False

    def split(self) -> list[Word]:
        start = 0
        for parameter in self.word.parameters:
            self._literal(start, parameter.start)
            start = parameter.end
            for number, value in enumerate(_values(parameter, self.values)):
                if number:
                    self._end()
                if parameter.quoted:
                    self._add(value, lambda _: False)
                else:
                    self._unquoted(value)
        self._literal(start, len(self.word.text))
        self._end()
        return self.fields

    def _literal(self, start: int, end: int) -> None:
        if start < end:
            self._add(self.word.text[start:end], lambda at: at + start in self.word.active)

    def _unquoted(self, value: str) -> None:
        for number, part in enumerate(BLANK.split(value)):
            if number:
                self._end()
            if part:
                self._add(part, lambda at, part=part: part[at] in GLOB_CHARACTERS)  # type: ignore[misc]
                if "\\" in part and not GLOB_STARTS.isdisjoint(part):
                    raise Unset(_odd_glob(part))

    def _add(self, text: str, is_active: Callable[[int], bool]) -> None:
        self.begun = True
        self.active |= {self.length + at for at, char in enumerate(text) if char in GLOB_CHARACTERS and is_active(at)}
        self.text.append(text)
        self.length += len(text)

    def _end(self) -> None:
        if self.begun:
            text = "".join(self.text)
            if text.count("[") > BRACKET_LIMIT or any(
                at in self.active and UNLIKE_BRACKET.match(text, at) for at, char in enumerate(text) if char == "["
            ):
                raise Unset(_odd_glob(text))
            self.fields.append(Word(text, frozenset(self.active)))
        self.text, self.active, self.length, self.begun = [], set(), 0, False


def names_all(words: Iterable[Word], values: Mapping[str, str]) -> bool:
    """Whether one of the words stands for a list that is everything in the workspace."""
    lists = (each for word in words for each in word.parameters if each.name == POSITIONAL or each.operator == ALL)
    found = (values.get(each.name) for each in lists)
    return any(isinstance(each, Listed) and each.is_all for each in found)


def _values(parameter: Parameter, values: Mapping[str, str]) -> tuple[str, ...]:
    """The value of a parameter; the words of one that is a list."""
    if parameter.name != POSITIONAL and parameter.operator != ALL:
        return (_value(parameter, values),)
    found = values.get(parameter.name)
    if found is None:
        raise Unset(_unknown(parameter.name))
    return found.items if isinstance(found, Listed) else (found,)


def _value(parameter: Parameter, values: Mapping[str, str]) -> str:
    if not parameter.name:
        return ""
    if parameter.name == POSITIONAL or parameter.operator == ALL:
        return " ".join(_values(parameter, values))
    if parameter.steps:
        assert parameter.value is not None, "a substitution was not run"
        return parameter.value
    if parameter.expression:
        return _computed(parameter.expression, values)
    value = values.get(parameter.name)
    text = _changed(parameter, value, values)
    return Guess(text) if isinstance(value, Guess) else text


def _element(value: str, index: str, values: Mapping[str, str]) -> str:
    """An element of an array; empty where there is none."""
    text = index if index.isdigit() else values.get(index)
    if text is None:
        raise Unset(_unknown(index))
    items = value.items if isinstance(value, Listed) else (value,)
    if not ELEMENT.fullmatch(text):
        reason = f"{text} is not the number of an element."
        raise Unset(Decision.deny("syntax.array", reason, "Elements have numbers from 0 on: ${NAME[0]}."))
    return items[int(text)] if int(text) < len(items) else ""


def _changed(parameter: Parameter, value: str | None, values: Mapping[str, str]) -> str:
    """What the operator of a parameter makes of the value of its variable."""
    match parameter.operator:
        case ":-":
            return value or parameter.operand
        case ":+":
            return parameter.operand if value else ""
    if value is None:
        raise Unset(_unknown(parameter.name))
    match parameter.operator:
        case "":
            return value
        case "length":
            return str(len(value))
        case "count":
            return str(len(value.items)) if isinstance(value, Listed) else "1"
        case index if index.startswith("["):
            return _element(value, index[1:-1].removeprefix("$"), values)
        case operator:
            try:
                return changed(value, operator, parameter.operand)
            except ValueError:
                raise Unset(_unlike_range(parameter)) from None


def _computed(expression: Expression, values: Mapping[str, str]) -> str:
    if any(isinstance(values.get(name), Guess) for name in expression.names()):
        return UNKNOWN
    try:
        return str(expression.value(values))
    except KeyError as error:
        raise Unset(_unknown(error.args[0])) from None
    except UnlikeArithmetic as error:
        raise Unset(unlike_arithmetic(error)) from None


def unlike_arithmetic(error: UnlikeArithmetic) -> Decision:
    """Why a $(( )) has no value."""
    return Decision.deny(
        "syntax.arithmetic", f"A $(( )) has no value: {error}.", "For example: $((N + 1)), $((2 * (A - B)))."
    )


def unlike_statement(error: UnlikeArithmetic) -> Decision:
    """Why a (( )) is not read."""
    hint = "For example: ((N++)), ((N > 1)), for ((i=0; i<3; i++)); write a blank between the brackets of two groups."
    return Decision.deny("syntax.group", f"A (( )) is not arithmetic: {error}.", hint)


def _unknown(name: str) -> Decision:
    reason = f"${name} is not set: the variables of the service are not those of a line."
    return Decision.deny(
        "syntax.variable", reason, f"Set it before: {name}=value; or quote the $ with ' on both sides."
    )


def _unlike_range(parameter: Parameter) -> Decision:
    reason = f"${{{parameter.name}:{parameter.operand}}} ends before it begins."
    return Decision.deny("syntax.expansion", reason, "A negative length is where the part ends, counted from the end.")


def _odd_glob(text: str) -> Decision:
    reason = f"The value {text} is a glob that differs between shells."
    return Decision.deny("syntax.bracket", reason, 'Put the variable in " ".')


def _too_long() -> Decision:
    reason = f"The words of the line have more than {VALUE_LIMIT} characters when its variables are expanded."
    return Decision.deny("limits.expansion", reason, "Put long text into a file in the workspace.")
