"""How a program parses its arguments: options by meaning, operands, subcommands.

What a token means depends on the program, so each program declares its own: which options are flags, which take a value
and of which kind, what the operands are. A token that no rule covers is refused.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import field
from enum import StrEnum
from itertools import chain, product
from pathlib import PurePosixPath

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision, Risk
from backend.core.language.parser import parse

NUMBER_OPTION = re.compile(r"-[0-9]+")
ASSIGNED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", re.DOTALL)
PLACEHOLDER = "\ufffc"  # in a word, for what is only known later
LINE_OPERATORS = frozenset({"&&", "||", ";", "|"})
SYMBOLIC, ELSEWHERE = frozenset({"-s", "--symbolic"}), frozenset({"-r", "--relative", "-t", "--target-directory"})
REPLACES = "-I"  # the option of a program that appends words, for the text that they replace


class ArgumentRole(StrEnum):
    """What a program does with an argument."""

    TEXT = "text"
    PATH = "path"  # a file that it reads, or writes where it is not one of git's own
    TARGET = "target"  # a file that it may write
    FOLDER = "folder"  # a folder that it changes to and may write in; other paths may be relative to it
    GUESS = "guess"  # unknown: what looks like a path out of the workspace is treated as a path
    LINK = "link"  # what a link leads to, or its name; a symbolic one is read from where it is made
    SED = "sed"  # a script
    AWK = "awk"  # a script
    RUN = "run"  # a program that it starts, with the words after it
    LINE = "line"  # a line for a shell, of plain commands that are judged by the same rules


CODE = frozenset(
    {ArgumentRole.SED, ArgumentRole.AWK, ArgumentRole.RUN, ArgumentRole.LINE}
)  # what an argument makes the program do


class Quirk(StrEnum):
    """Where a program does not parse its options as getopt_long does."""

    WHOLE = "whole"  # one option per token: nothing is bundled or attached
    APART = "apart"  # only digits may be attached to a short option
    ORDERED = "ordered"  # after the first operand everything is an operand
    NO_END = "no-end"  # `--` does not end the options
    NUMERIC = "numeric"  # `-20` is an option
    COLON = "colon"  # `--name:value`, as well as `--name=value`
    TIED = "tied"  # the value of a long option may start with a dash only where = ties it to the option
    ASSIGNS = "assigns"  # NAME=value before the first operand sets a variable
    APPENDS = "appends"  # adds words from its input to the program that it starts
    KEY_WORD = "key-word"  # the first word is a bundle of options without a dash


@dataclass(frozen=True, slots=True)
class ValueKind:
    """What a value may be: all of it must match the pattern, if there is one."""

    name: str
    role: ArgumentRole
    pattern: re.Pattern[str] | None = None


BUILT_IN_KINDS = {
    "paths": ValueKind("paths", ArgumentRole.PATH),
    **{str(role): ValueKind(str(role), role) for role in ArgumentRole},
}


@dataclass(frozen=True, slots=True)
class Option:
    """An option; without a kind it takes no value. An optional value must be attached."""

    kind: ValueKind | None = None
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Program:
    """One permitted program, or one of its subcommands, and the arguments that it may get.

    With `any_arguments` only paths are judged, not options. `requires` maps an option to those of which one must be given
    too; "" is the program itself and "operand" any operand.
    """

    name: str
    summary: str
    usage: str = ""
    risk: Risk = Risk.SAFE
    network: bool = False
    loopback: bool = False
    any_arguments: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    operands: ValueKind | None = None
    first: ValueKind | None = None
    unless: frozenset[str] = frozenset()
    quirks: frozenset[Quirk] = frozenset()
    shapes: tuple[re.Pattern[str], ...] = ()
    requires: Mapping[str, frozenset[str]] = field(default_factory=dict)
    moderate: frozenset[str] = frozenset()
    online: frozenset[str] = frozenset()
    watches: frozenset[str] = frozenset()
    ends: frozenset[str] = frozenset()
    takes_appended: bool = False
    alone: bool = False
    from_input: bool = False
    spares_root: bool = False
    spares_null: bool = False
    in_rooms: bool = False
    empties: frozenset[str] = frozenset()
    narrows: frozenset[str] = frozenset()
    subcommands: Mapping[str, "Program"] = field(default_factory=dict)

    @property
    def takes_anything(self) -> bool:
        """Whether all words are text, including those that start with a dash (echo)."""
        text_only = self.operands is not None and self.operands.role is ArgumentRole.TEXT and not self.operands.pattern
        return text_only and not (self.options or self.first or self.subcommands)

    @property
    def takes_options(self) -> bool:
        """Whether its options are listed, so that a word is an option or not."""
        return not (self.any_arguments or self.takes_anything or self.shapes)


class ArgumentError(Exception):
    """An argument that is not permitted for its program."""

    def __init__(self, rule: str, reason: str, program: Program) -> None:
        super().__init__(reason)
        self.rule = rule
        self.reason = reason
        self.hint = f"Options of {program.name}: {program.usage}" if program.usage else "Remove it."


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument as its program understands it."""

    text: str
    role: ArgumentRole

    @property
    def is_path(self) -> bool:
        return self.role in {ArgumentRole.PATH, ArgumentRole.TARGET, ArgumentRole.FOLDER}


@dataclass(slots=True)
class ProgramUse:
    """How one command uses a program or a subcommand: the options given, and "operand" if there is one."""

    program: Program
    given: set[str] = field(default_factory=set)
    has_only_operands: bool = False  # from here on: `--` was given, or an operand that ends the options

    @property
    def is_online(self) -> bool:
        return self.program.network or bool(self.given & self.program.online)

    @property
    def watches(self) -> bool:
        """Whether it watches files in a way that only works in a room."""
        return bool(self.given & self.program.watches)

    @property
    def risk(self) -> Risk:
        raised = self.program.risk is Risk.SAFE and self.given & self.program.moderate
        return Risk.MODERATE if raised else self.program.risk

    def check(self) -> None:
        """Raise ArgumentError for an option without one that it requires."""
        for name, others in self.program.requires.items():
            if (not name or name in self.given) and not self.given & others:
                required = self._missing_operand() if "operand" in others else f"one of: {', '.join(sorted(others))}"
                subject = f"{self.program.name} {name}".strip().replace("operand", "with a word")
                raise ArgumentError("option.missing", f"{subject} requires {required}.", self.program)

    def _missing_operand(self) -> str:
        """What has to be named, as the program calls it; the options that are accepted in its place are in the hint."""
        program = self.program
        if program.subcommands:
            return "a subcommand"
        if program.first:
            return f"a {program.first.name}"
        return "a file" if program.operands and program.operands.role is ArgumentRole.PATH else "an argument"


@dataclass(frozen=True, slots=True)
class StartedProgram:
    """A program that a command starts. With `open_ended` further words follow, which are not known; with `replaced` its
    words have this text where such words come.
    """

    argv: tuple[str, ...]
    open_ended: bool = False
    replaced: str = ""

    @property
    def words(self) -> tuple[str, ...]:
        """The arguments, with PLACEHOLDER for what is not known."""
        return tuple(word.replace(self.replaced, PLACEHOLDER) if self.replaced else word for word in self.argv[1:])

    @property
    def first_unknown(self) -> int:
        """The place of the first word that begins with what is not known; 0 if there is none."""
        numbered = enumerate(self.argv[1:], 1)
        return next((at for at, word in numbered if self.replaced and word.startswith(self.replaced)), 0)


@dataclass(slots=True)
class ArgumentParse:
    """The arguments of one command, parsed once, and the programs and subcommands that they belong to.

    `started` are programs that the command starts, `assigned` variables that it sets for them.
    """

    uses: list[ProgramUse] = field(default_factory=list)
    started: list[StartedProgram] = field(default_factory=list)
    assigned: list[tuple[str, str]] = field(default_factory=list)
    replaced: str = ""

    def check_open_end(self) -> None:
        """Raise ArgumentError unless any words may follow, none of which the program takes for an option or a script."""
        use = self.uses[-1]
        program = use.program
        if not program.takes_options and not program.shapes:
            return
        if Quirk.KEY_WORD in program.quirks and not use.given:
            raise ArgumentError("option.value", f"The first word of {program.name} is only known later.", program)
        kind = program.operands
        is_first = program.first and "operand" not in use.given and not use.given & program.unless
        if program.takes_appended and not is_first:
            return
        if kind is None or kind.pattern or kind.role in CODE or program.shapes or is_first or not use.has_only_operands:
            reason = f"{program.name} cannot be given words that are only known later."
            raise ArgumentError("option.value", reason, program)

    def arguments(self, program: Program, tokens: Iterator[str]) -> Iterator[Argument]:
        """Each argument in turn; raises ArgumentError at the first that is not permitted."""
        use = ProgramUse(program)
        self.uses.append(use)
        if program.any_arguments:
            return map(_guess, tokens)
        if program.shapes:
            return _shaped(program, tokens)
        if program.takes_anything:
            return (Argument(token, ArgumentRole.TEXT) for token in tokens)
        return _OptionReader(use, tokens, self).read()


def _guess(token: str) -> Argument:
    """For a program whose options are unknown: an absolute path or one with `..` is treated as a path."""
    value = token.partition("=")[2] if token.startswith("-") and "=" in token else token
    leads_out = value.startswith("/") or ".." in PurePosixPath(value).parts
    return Argument(value, ArgumentRole.PATH if leads_out and not any(map(str.isspace, value)) else ArgumentRole.TEXT)


def linked_files(use: ProgramUse, arguments: list[Argument]) -> list[Argument]:
    """The files that links lead to, and the links: a symbolic one is read from where it is made.

    That is next to its name, or in it if that is a folder.
    """
    links = [each.text for each in arguments if each.role is ArgumentRole.LINK]
    if not links:
        return []
    if not use.given & SYMBOLIC or use.given & ELSEWHERE:
        return [Argument(text, ArgumentRole.TARGET) for text in links]
    *targets, name = links if len(links) > 1 else [*links, "."]
    is_folder = len(targets) > 1 or name.endswith("/") or name in {".", ".."}
    places = (PurePosixPath(name),) if is_folder else (PurePosixPath(name).parent, PurePosixPath(name))
    files = (str(place / target) for place, target in product(places, targets))
    return [Argument(name, ArgumentRole.TARGET), *(Argument(file, ArgumentRole.TARGET) for file in files)]


def _shaped(program: Program, tokens: Iterator[str]) -> Iterator[Argument]:
    line = "\0".join(tokens)
    if not any(shape.fullmatch(line) for shape in program.shapes):
        raise ArgumentError("option.unlisted", f"{program.name} is not allowed with these arguments here.", program)
    return iter(())


class _OptionReader:
    """Parses options as getopt_long does, except for the quirks of the program; abbreviations are refused."""

    def __init__(self, use: ProgramUse, tokens: Iterator[str], parse: ArgumentParse) -> None:
        self.use = use
        self.program = use.program
        self.tokens = tokens
        self.parse = parse
        self.leading: str | None = None

    def read(self) -> Iterator[Argument]:
        if Quirk.KEY_WORD in self.program.quirks:
            yield from self._key_word()
        for token in self.tokens:
            if token == "--" and Quirk.NO_END not in self.program.quirks:
                self.use.has_only_operands = True
                yield from map(self._operand, self.tokens)
            elif Quirk.ASSIGNS in self.program.quirks and (found := ASSIGNED.fullmatch(token)):
                self.parse.assigned.append((found[1], found[2]))
            elif token in self.program.options or (token.startswith("-") and token != "-"):
                yield from self._option(token)
                if self.use.given & self.program.ends:
                    self.use.has_only_operands = True
                    yield from map(self._operand, self.tokens)
            elif (command := self.program.subcommands.get(token)) and "operand" not in self.use.given:
                self.use.given.add("operand")
                yield from self.parse.arguments(command, self.tokens)
            else:
                yield from self._operands(token)
        # An option after the first operand may have given it another meaning: it must be valid for both.
        if self.leading is not None and self.use.given & self.program.unless and self.program.operands:
            yield self._checked(self.program.operands, self.leading, self.program.name)

    def _operands(self, token: str) -> Iterator[Argument]:
        yield self._operand(token)
        if Quirk.ORDERED in self.program.quirks:
            self.use.has_only_operands = True
            yield from map(self._operand, self.tokens)

    def _operand(self, token: str) -> Argument:
        is_first = "operand" not in self.use.given
        self.use.given.add("operand")
        kind = self.program.operands
        if is_first and self.program.first and not self.use.given & self.program.unless:
            kind, self.leading = self.program.first, token
        if kind is None and self.program.subcommands:
            name = self.program.name
            raise ArgumentError(
                "program.subcommand", f"{token} is not a subcommand of {name} that is allowed here.", self.program
            )
        if kind is None:
            raise ArgumentError("option.unlisted", f"{self.program.name} accepts no operands here.", self.program)
        if kind.role is ArgumentRole.RUN:
            return self._started(token)
        return self._checked(kind, token, self.program.name)

    def _started(self, name: str) -> Argument:
        """All words that are left are the program that this one starts, and its arguments."""
        replaced = self.parse.replaced
        appends = Quirk.APPENDS in self.program.quirks and not replaced
        self.parse.started.append(StartedProgram((name, *self.tokens), appends, replaced))
        return Argument(name, ArgumentRole.RUN)

    def _started_by_option(self, option: str) -> Argument:
        """The program of find's -exec: up to `;`, or up to `+` after `{}`. The files that it gets start with `./`."""
        words: list[str] = []
        for token in self.tokens:
            if token == ";" or (token == "+" and words[-1:] == ["./{}"]):
                self.parse.started.append(StartedProgram(tuple(words) or ("",)))
                return Argument("".join(words[:1]), ArgumentRole.RUN)
            words.append(token.replace("{}", "./{}") if token.startswith("{}") else token)
        raise ArgumentError("option.value", f"{option} requires a program, {{}} and \\; or + at the end.", self.program)

    def _key_word(self) -> Iterator[Argument]:
        """The old style of tar: letters without a dash, whose values follow in the same order."""
        word = next(self.tokens, "-")
        if word.startswith("-"):
            self.tokens = chain([word] if word != "-" else [], self.tokens)
            return
        for letter in word:
            option = self._given(f"-{letter}")
            if option.kind:
                yield self._value(option.kind, f"-{letter}", next(self.tokens, None))

    def _option(self, token: str) -> Iterator[Argument]:
        if token.startswith("--"):
            return self._long(token)
        if Quirk.WHOLE in self.program.quirks or token in self.program.options:
            return self._one_token(token)
        if Quirk.NUMERIC in self.program.quirks and NUMBER_OPTION.fullmatch(token):
            return iter(())
        return self._bundle(token)

    def _long(self, token: str) -> Iterator[Argument]:
        name, sign, value = token, "", ""
        if found := re.search("[:=]" if Quirk.COLON in self.program.quirks else "=", token):
            name, sign, value = token[: found.start()], found.group(), token[found.end() :]
        option = self._given(name)
        if sign and not option.kind:
            raise self._unlisted(f"{name}=")
        if option.kind and (sign or not option.optional):
            yield self._value(option.kind, name, value) if sign else self._following(option.kind, name)

    def _one_token(self, token: str) -> Iterator[Argument]:
        option = self._given(token)
        if option.kind and not option.optional:
            yield self._following(option.kind, token)

    def _bundle(self, token: str) -> Iterator[Argument]:
        """A bundle such as `-la`, where the last option may have its value attached (`-w80`) or following."""
        for position in range(1, len(token)):
            name, attached = f"-{token[position]}", token[position + 1 :]
            option = self._given(name)
            if option.kind is None:
                continue
            if attached:
                yield self._attached(option.kind, name, attached)
            elif not option.optional:
                yield self._following(option.kind, name)
            return

    def _attached(self, kind: ValueKind, name: str, value: str) -> Argument:
        if Quirk.APART in self.program.quirks and not value.isdecimal():
            raise ArgumentError("option.value", f"The value of {name} must be a separate word.", self.program)
        # Some programs parse -c=FILE as FILE, others as =FILE.
        if value.startswith("=") and kind.role is not ArgumentRole.TEXT:
            raise ArgumentError("option.value", f"The value of {name} must not start with =.", self.program)
        return self._value(kind, name, value)

    def _following(self, kind: ValueKind, name: str) -> Argument:
        """A value that is the next word. If it starts with a dash, the program may parse it as the next option."""
        if kind.role is ArgumentRole.RUN:
            return self._started_by_option(name)
        value = next(self.tokens, None)
        is_file = kind.role in {ArgumentRole.PATH, ArgumentRole.TARGET, ArgumentRole.FOLDER}
        is_tied = Quirk.TIED in self.program.quirks and name.startswith("--")
        has_dash = value is not None and value.startswith("-") and value != "-"
        if has_dash and (is_file or is_tied):
            raise ArgumentError(
                "option.value", f"After {name} a dash starts an option: write ={value} or ./{value}.", self.program
            )
        return self._value(kind, name, value)

    def _value(self, kind: ValueKind, name: str, value: str | None) -> Argument:
        if value is None:
            raise ArgumentError("option.unlisted", f"{name} requires a value.", self.program)
        if Quirk.APPENDS in self.program.quirks and name == REPLACES:
            self.parse.replaced = value
        return self._checked(kind, value, name)

    def _checked(self, kind: ValueKind, text: str, what: str) -> Argument:
        if PLACEHOLDER in text and (kind.pattern or kind.role in CODE):
            raise ArgumentError(
                "option.value", f"{what} cannot be given a word that is only known later.", self.program
            )
        if kind.pattern and not kind.pattern.fullmatch(text):
            raise ArgumentError(
                "option.value", f"{what} accepts only this kind of value here: {kind.name}.", self.program
            )
        if kind.role is ArgumentRole.GUESS:
            return _guess(text)
        if kind.role is ArgumentRole.LINE:
            self.parse.started.extend(self._line(text, what))
        # A lone dash is standard input or output.
        return Argument(text, ArgumentRole.TEXT if text == "-" else kind.role)

    def _line(self, text: str, what: str) -> Iterator[StartedProgram]:
        """The commands of a line for a shell, which must mean the same as here: without globs, variables and files."""
        script = parse(text, LINE_OPERATORS)
        if isinstance(script, Decision):
            raise ArgumentError("option.value", f"{what}: {script.reason}", self.program)
        for command in script.commands:
            if any(word.is_glob or word.parameters for word in command.words):
                reason = f"{what} accepts only plain words here: write the command itself."
                raise ArgumentError("option.value", reason, self.program)
            yield StartedProgram(command.argv)

    def _given(self, name: str) -> Option:
        if name not in self.program.options:
            raise self._unlisted(name)
        self.use.given.add(name)
        return self.program.options[name]

    def _unlisted(self, name: str) -> ArgumentError:
        program = self.program
        if why := program.refused.get(name):
            return ArgumentError("option.unlisted", f"{name} is not allowed for {program.name}: {why}.", program)
        if full := [full for full in program.options if len(name) > 2 and full.startswith(name)]:
            return ArgumentError(
                "option.unlisted", f"{name} is an abbreviation: write it in full ({', '.join(full)}).", program
            )
        return ArgumentError(
            "option.unlisted", f"{name} is not an option of {program.name} that is allowed here.", program
        )
