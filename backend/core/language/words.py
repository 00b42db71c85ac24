"""Words: their text, what in it is a glob or a variable, and what they become when variables are expanded."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from backend.core.decisions import Decision

GLOB_STARTS = frozenset("*?[")
GLOB_CHARACTERS = GLOB_STARTS | frozenset("]!^-")
BLANK = re.compile("[ \t\n]+")  # what separates fields: IFS cannot be set
UNLIKE_BRACKET = re.compile(r"\[(\^|!?[^]\s]*\[[:.=])")  # means different things in different shells
BRACKET_LIMIT = 100  # opening brackets of a word, each of which is compared with the rest of it
VALUE_LIMIT = 100_000  # characters that the words of a command may have


@dataclass(frozen=True, slots=True)
class Parameter:
    """`$name` or `${name:-default}` from `start` to `end` in the text of a word; `quoted` inside " ".

    Without a name it is the nothing between two quotes, which makes an empty word.
    """

    start: int
    end: int
    name: str = ""
    quoted: bool = True
    default: str = ""

    def moved(self, by: int) -> "Parameter":
        """The same, so many characters further on."""
        return replace(self, start=self.start + by, end=self.end + by)


@dataclass(frozen=True, slots=True)
class Word:
    """One word after quote removal, with its variables as they are written.

    `active` are the positions of glob characters in `text` that were not quoted.
    """

    text: str
    active: frozenset[int] = frozenset()
    parameters: tuple[Parameter, ...] = ()

    @property
    def is_glob(self) -> bool:
        return any(self.text[position] in GLOB_STARTS for position in self.active)

    def part(self, start: int, end: int) -> "Word":
        """The characters from `start` to `end`."""
        active = frozenset(at - start for at in self.active if start <= at < end)
        inside = (each.moved(-start) for each in self.parameters if start <= each.start and each.end <= end)
        return Word(self.text[start:end], active, tuple(inside))

    def plus(self, other: "Word") -> "Word":
        """This word followed by another one."""
        length = len(self.text)
        moved = (each.moved(length) for each in other.parameters)
        active = self.active | {at + length for at in other.active}
        return Word(self.text + other.text, active, (*self.parameters, *moved))

    def pieces(self) -> "Iterator[str | Parameter]":
        """Its texts and its variables in order."""
        start = 0
        for parameter in self.parameters:
            yield self.text[start : parameter.start]
            yield parameter
            start = parameter.end
        yield self.text[start:]


class Unset(Exception):
    """A variable that is not known, or whose value cannot be used here."""

    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.decision = decision


def joined(word: Word, values: Mapping[str, str]) -> str:
    """The text of a word that stays one, as in an assignment. Raises Unset."""
    text = "".join(piece if isinstance(piece, str) else _value(piece, values) for piece in word.pieces())
    if word.parameters and len(text) > VALUE_LIMIT:
        raise Unset(_too_long())
    return text


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
            value = _value(parameter, self.values)
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


def _value(parameter: Parameter, values: Mapping[str, str]) -> str:
    if not parameter.name:
        return ""
    value = values.get(parameter.name)
    if not value and parameter.default:
        return parameter.default
    if value is None:
        raise Unset(_unknown(parameter.name))
    return value


def _unknown(name: str) -> Decision:
    reason = f"${name} is not set: the variables of the service are not those of a line."
    return Decision.deny(
        "syntax.variable", reason, f"Set it before: {name}=value; or quote the $ with ' on both sides."
    )


def _odd_glob(text: str) -> Decision:
    reason = f"The value {text} is a glob that differs between shells."
    return Decision.deny("syntax.bracket", reason, 'Put the variable in " ".')


def _too_long() -> Decision:
    reason = f"The words of the line have more than {VALUE_LIMIT} characters when its variables are expanded."
    return Decision.deny("limits.expansion", reason, "Put long text into a file in the workspace.")
