"""Policy as a value: which programs a profile lets run, with which options, on which paths.

A `Profile` is read from TOML once; `Profile.decide` is a pure function of tokens. What is not named is refused: a
program that is not listed, an option that is not listed, an abbreviated option. The shape of a profile:

    name, summary                 words for `help`
    [limits]                      characters (of the line), arguments (typed words, the program among them)
    [programs.NAME]               summary, usage, risk, arguments = "listed" | "any", operands = "none" | "text" | "paths",
                                  flags = options without a value, values = {option = "text" | "path"},
                                  optional = long options whose value may be left out
    [blocked.programs]            NAME = why (a better refusal than "not listed")
    [[blocked.arguments]]         rule, pattern (a regular expression on one token), reason, hint
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Self, TypeVar

from backend.core.decisions import Decision, Risk

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

PROGRAM_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class ProfileError(ValueError):
    """A profile that cannot be used; the message names the place in it."""


class Operands(StrEnum):
    """What a program takes the words that are not options for."""

    NONE = "none"
    TEXT = "text"
    PATHS = "paths"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command would run: the workspace that confines it and the folder in it. Both absolute."""

    root: PurePosixPath
    cwd: PurePosixPath

    def holds(self, path: str) -> bool:
        """Whether `path`, read from `cwd`, stays in the workspace as far as its text tells."""
        full = self.cwd / path
        return ".." not in full.parts and full.is_relative_to(self.root)


@dataclass(frozen=True, slots=True)
class Program:
    """One permitted program and what it may be given. `any_arguments` judges no options, only paths."""

    name: str
    summary: str
    usage: str
    risk: Risk
    any_arguments: bool
    operands: Operands
    flags: frozenset[str]
    values: Mapping[str, str]
    optional: frozenset[str]


@dataclass(frozen=True, slots=True)
class BlockedArgument:
    """A token that no program may be given."""

    rule: str
    pattern: re.Pattern[str]
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Profile:
    """What one kind of principal may run. A profile without programs permits nothing."""

    name: str
    summary: str
    max_characters: int
    max_arguments: int
    programs: Mapping[str, Program]
    blocked_programs: Mapping[str, str]
    blocked_arguments: tuple[BlockedArgument, ...]

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Read a profile; raises ProfileError for anything that is missing, unknown or of the wrong type."""
        try:
            return cls._from_table(_Table("profile", tomllib.loads(text)))
        except (tomllib.TOMLDecodeError, re.error) as error:
            raise ProfileError(str(error)) from error

    @classmethod
    def _from_table(cls, table: "_Table") -> Self:
        limits, blocked = table.table("limits"), table.table("blocked")
        profile = cls(
            name=table.text("name"),
            summary=table.text("summary"),
            max_characters=limits.number("characters"),
            max_arguments=limits.number("arguments"),
            programs={name: _program(name, spec) for name, spec in table.table("programs").tables()},
            blocked_programs=blocked.table("programs").texts(),
            blocked_arguments=tuple(map(_blocked_argument, blocked.tables_of("arguments"))),
        )
        for part in (table, limits, blocked):
            part.end()
        return profile

    @property
    def allowed(self) -> str:
        """The programs of this profile as a sentence."""
        return f"Allowed here: {', '.join(sorted(self.programs))}." if self.programs else "Nothing is allowed here."

    def check_length(self, line: str) -> Decision | None:
        """Refuse a line that is too long to be worth reading."""
        if len(line) <= self.max_characters:
            return None
        return Decision.deny(
            "limits.characters",
            f"The line has {len(line)} characters; at most {self.max_characters} are read.",
            "Put long text into a file in the workspace.",
        )

    def check_count(self, words: int) -> Decision | None:
        """Refuse a line without words, or with more than the profile reads."""
        if words == 0:
            return Decision.deny("command.empty", "There is no command.", self.allowed, risk=Risk.SAFE)
        if words <= self.max_arguments:
            return None
        return Decision.deny(
            "limits.arguments",
            f"The command has {words} words; at most {self.max_arguments} are taken.",
            "Split it into several commands.",
        )

    def decide(self, argv: tuple[str, ...], place: Place) -> Decision:
        """The verdict on one command. `argv` holds at least the program."""
        if refusal := self._refuse_name(argv[0]) or self._refuse_token(argv[1:]):
            return refusal
        program = self.programs[argv[0]]
        read = list(_arguments(program, argv[1:]))
        for argument in read:
            if refusal := _refuse_argument(program, argument, place):
                return refusal
        paths = tuple(argument.text for argument in read if argument.is_path)
        return Decision(True, f"allow.{program.name}", program.risk, program.summary, paths=paths)

    def _refuse_name(self, name: str) -> Decision | None:
        if name in self.programs:
            return None
        if why := self.blocked_programs.get(name):
            return Decision.deny(f"blocked.{name}", f"{name} is blocked: {why}.", self.allowed)
        if not PROGRAM_NAME.fullmatch(name):
            reason = "A command starts with the plain name of a program: small letters, digits, dot, dash."
            return Decision.deny("program.name", reason, self.allowed)
        reason = f"{name} is not a program of the profile {self.name}."
        return Decision.deny("program.unlisted", reason, self.allowed, risk=Risk.HIGH)

    def _refuse_token(self, arguments: tuple[str, ...]) -> Decision | None:
        for argument in arguments:
            for blocked in self.blocked_arguments:
                if blocked.pattern.search(argument):
                    return Decision.deny(blocked.rule, blocked.reason, blocked.hint)
        return None


@dataclass(frozen=True, slots=True)
class _Argument:
    """An argument as its program reads it; `problem` says why it may not be given."""

    text: str
    is_path: bool = False
    problem: str = ""


def _arguments(program: Program, tokens: tuple[str, ...]) -> Iterator[_Argument]:
    if program.any_arguments:
        return map(_guess, tokens)
    if program.operands is Operands.TEXT and not (program.flags or program.values or program.optional):
        return (_Argument(token) for token in tokens)
    return _OptionReader(program, tokens).read()


def _guess(token: str) -> _Argument:
    """For a program whose options are not known: what looks like an absolute path counts as one."""
    value = token.partition("=")[2] if token.startswith("-") and "=" in token else token
    return _Argument(value, is_path=value.startswith("/") and not any(map(str.isspace, value)))


class _OptionReader:
    """Reads options as getopt_long does, except that nothing may be abbreviated."""

    def __init__(self, program: Program, tokens: tuple[str, ...]) -> None:
        self.program = program
        self.tokens = iter(tokens)

    def read(self) -> Iterator[_Argument]:
        for token in self.tokens:
            if token == "--":
                yield from map(self._operand, self.tokens)
            elif token.startswith("--"):
                yield self._long(token)
            elif token.startswith("-") and token != "-":
                yield self._short(token)
            else:
                yield self._operand(token)

    def _operand(self, token: str) -> _Argument:
        match self.program.operands:
            case Operands.NONE:
                return _Argument(token, problem=f"{self.program.name} takes no operands here")
            case Operands.TEXT:
                return _Argument(token)
            case Operands.PATHS:
                # A lone dash is standard input.
                return _Argument(token, is_path=token != "-")

    def _long(self, token: str) -> _Argument:
        name, equals, value = token.partition("=")
        if name in self.program.values:
            return self._value(name, value if equals else next(self.tokens, None))
        if name in self.program.optional or (name in self.program.flags and not equals):
            return _Argument(value)
        return self._unlisted(name)

    def _short(self, token: str) -> _Argument:
        """A bundle such as `-la`, where the last option may have its value glued on (`-w80`) or following."""
        for position in range(1, len(token)):
            name = f"-{token[position]}"
            if name in self.program.values:
                return self._value(name, token[position + 1 :] or next(self.tokens, None))
            if name not in self.program.flags:
                return self._unlisted(name)
        return _Argument("")

    def _value(self, name: str, value: str | None) -> _Argument:
        if value is None:
            return _Argument("", problem=f"{name} wants a value")
        return _Argument(value, is_path=self.program.values[name] == "path")

    def _unlisted(self, name: str) -> _Argument:
        return _Argument("", problem=f"{name} is not an option that {self.program.name} may be given here")


def _refuse_argument(program: Program, argument: _Argument, place: Place) -> Decision | None:
    if argument.problem:
        hint = f"Options of {program.name}: {program.usage}" if program.usage else "Leave it out."
        return Decision.deny("option.unlisted", f"{argument.problem}.", hint, risk=Risk.HIGH)
    if argument.is_path and not place.holds(argument.text):
        return Decision.deny(
            "path.outside", f"{argument.text} lies outside the workspace.", "Name files relative to the workspace."
        )
    return None


def _program(name: str, spec: "_Table") -> Program:
    if not PROGRAM_NAME.fullmatch(name):
        raise ProfileError(f"{spec.place}: not the plain name of a program")
    arguments = spec.text("arguments", "listed")
    if arguments not in {"listed", "any"}:
        raise ProfileError(f"{spec.place}.arguments: must be 'listed' or 'any'")
    program = Program(
        name=name,
        summary=spec.text("summary"),
        usage=spec.text("usage", ""),
        risk=spec.choice("risk", Risk, Risk.SAFE),
        any_arguments=arguments == "any",
        operands=spec.choice("operands", Operands, Operands.NONE),
        flags=frozenset(spec.strings("flags")),
        values=spec.table("values").texts(),
        optional=frozenset(spec.strings("optional")),
    )
    if wrong := set(program.values.values()) - {"text", "path"}:
        raise ProfileError(f"{spec.place}.values: {wrong.pop()!r} is neither 'text' nor 'path'")
    spec.end()
    return program


def _blocked_argument(spec: "_Table") -> BlockedArgument:
    blocked = BlockedArgument(
        spec.text("rule"), re.compile(spec.text("pattern")), spec.text("reason"), spec.text("hint", "")
    )
    spec.end()
    return blocked


@dataclass(slots=True)
class _Table:
    """A TOML table that knows its place in the file and which of its keys were read."""

    place: str
    data: dict[str, Any]
    read: set[str] = field(default_factory=set)

    def _get(self, key: str, kind: type[T], default: T | None) -> T:
        self.read.add(key)
        value = self.data.get(key, default)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ProfileError(f"{self.place}.{key}: a {kind.__name__} is wanted, found {value!r}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        return self._get(key, str, default)

    def number(self, key: str) -> int:
        value = self._get(key, int, None)
        if value < 1:
            raise ProfileError(f"{self.place}.{key}: must be at least 1")
        return value

    def choice(self, key: str, kind: type[E], default: E) -> E:
        text = self.text(key, str(default))
        if text not in [str(member) for member in kind]:
            raise ProfileError(f"{self.place}.{key}: must be one of {', '.join(kind)}")
        return kind(text)

    def strings(self, key: str) -> list[str]:
        values = self._get(key, list, [])
        if not all(isinstance(value, str) for value in values):
            raise ProfileError(f"{self.place}.{key}: a list of strings is wanted")
        return values

    def table(self, key: str) -> "_Table":
        return _Table(f"{self.place}.{key}", self._get(key, dict, {}))

    def tables(self) -> Iterator[tuple[str, "_Table"]]:
        return ((key, self.table(key)) for key in self.data)

    def tables_of(self, key: str) -> Iterator["_Table"]:
        for number, data in enumerate(self._get(key, list, [])):
            if not isinstance(data, dict):
                raise ProfileError(f"{self.place}.{key}[{number}]: a table is wanted")
            yield _Table(f"{self.place}.{key}[{number}]", data)

    def texts(self) -> dict[str, str]:
        return {key: self.text(key) for key in self.data}

    def end(self) -> None:
        """Refuse keys that nothing read: a typing error in a policy must not pass silently."""
        if unknown := set(self.data) - self.read:
            raise ProfileError(f"{self.place}: unknown key {sorted(unknown)[0]!r}")
