"""What a line is once it is parsed: words, commands, steps, and the compounds that steps may be. Plain, frozen values."""

from collections.abc import Iterator
from dataclasses import field
from itertools import chain

from backend.core.dataclasses import dataclass, replace
from backend.core.language.arithmetic import Expression

GLOB_STARTS = frozenset("*?[")


@dataclass(frozen=True, slots=True)
class Parameter:
    """`$name`, `${name:-default}`, `$(( ))` or `$( )` from `start` to `end` in the text of a word; `quoted` inside " ".

    Without a name it is the nothing between two quotes, which makes an empty word. `operator` (`:-`, `%`, `length`, ...) and
    `operand` are what becomes of the value, `expression` is that of `$(( ))`. `steps` are those of a substitution,
    `value` is their output once it is known.
    """

    start: int
    end: int
    name: str = ""
    quoted: bool = True
    operator: str = ""
    operand: str = ""
    expression: Expression | None = None
    steps: "tuple[Step, ...]" = ()
    value: str | None = None

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

    def filled(self, texts: Iterator[str]) -> "Word":
        """The word with the next of `texts` as the output of each of its substitutions."""
        if not any(each.steps for each in self.parameters):
            return self
        known = (replace(each, value=next(texts)) if each.steps else each for each in self.parameters)
        return replace(self, parameters=tuple(known))


NO_TEXT = Word("")


@dataclass(frozen=True, slots=True)
class Assignment:
    """`NAME=value` in front of a program, or alone; `NAME=(a b)` alone has `items`."""

    name: str
    value: Word
    items: tuple[Word, ...] | None = None

    @property
    def words(self) -> tuple[Word, ...]:
        """The words in it."""
        return (self.value,) if self.items is None else self.items

    def filled(self, texts: Iterator[str]) -> "Assignment":
        """The assignment with the output of each substitution."""
        items = None if self.items is None else tuple(each.filled(texts) for each in self.items)
        return replace(self, value=self.value.filled(texts), items=items)


@dataclass(frozen=True, slots=True)
class Redirect:
    """What a descriptor is redirected to or from: a file for `<`, `>` and `>>`, the text itself for `<<`.

    `operator` is `2>&1` or `>&2` where one output goes to the same place as the other.
    """

    operator: str
    descriptor: int
    target: Word = NO_TEXT


@dataclass(frozen=True, slots=True)
class Command:
    """One program with its arguments; without words the assignments are for the line."""

    words: tuple[Word, ...]
    assignments: tuple[Assignment, ...] = ()
    redirects: tuple[Redirect, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """The words as written, with globs and variables not expanded."""
        return tuple(word.text for word in self.words)

    @property
    def only_assigns(self) -> bool:
        """Whether all it does is to set variables, from what it says itself."""
        is_builtin = not self.words or self.words[0].text == "export"
        return is_builtin and not self.redirects and not any(self.substitutions)

    @property
    def substitutions(self) -> Iterator[Parameter]:
        """The substitutions in it, in the order in which they run."""
        values = chain.from_iterable(each.words for each in self.assignments)
        targets = (each.target for each in self.redirects)
        return substitutions((*self.words, *targets, *values))

    def filled(self, texts: Iterator[str]) -> "Command":
        """The command with the output of each substitution, in that order."""
        words = tuple(each.filled(texts) for each in self.words)
        redirects = tuple(replace(each, target=each.target.filled(texts)) for each in self.redirects)
        assignments = tuple(each.filled(texts) for each in self.assignments)
        return Command(words, assignments, redirects)


@dataclass(frozen=True, slots=True)
class Step:
    """A pipeline or a compound, and what joins it to the one before: `&&`, `||`, `;`, or nothing for the first.

    `negated` by `!` it succeeds where it would fail. `redirects` are those of a compound.
    """

    join: str
    commands: tuple[Command, ...] = ()
    compound: "Compound | None" = None
    negated: bool = False
    redirects: tuple[Redirect, ...] = ()

    @property
    def substitutions(self) -> Iterator[Parameter]:
        """The substitutions in its commands and redirections, in the order in which they run."""
        own = substitutions(tuple(each.target for each in self.redirects)) if self.redirects else ()
        return chain(chain.from_iterable(each.substitutions for each in self.commands), own)

    def filled(self, texts: Iterator[str]) -> "Step":
        """The step with the output of each substitution."""
        commands = tuple(each.filled(texts) for each in self.commands)
        redirects = tuple(replace(each, target=each.target.filled(texts)) for each in self.redirects)
        return replace(self, commands=commands, redirects=redirects)


@dataclass(frozen=True, slots=True)
class Group:
    """Steps between `{ }`, or between `( )`: then what they change is as before at the end (a subshell)."""

    steps: tuple[Step, ...]
    subshell: bool


@dataclass(frozen=True, slots=True)
class Branch:
    """The steps that run where those of the condition succeed."""

    condition: tuple[Step, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class If:
    """The first branch whose condition succeeds, else the steps after `else`."""

    branches: tuple[Branch, ...]
    otherwise: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Choice:
    """The steps that run where one of the patterns matches the word."""

    patterns: tuple[Word, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """The first choice with a pattern that matches the word."""

    word: Word
    choices: tuple[Choice, ...]

    def filled(self, texts: Iterator[str]) -> "Case":
        """The same with the output of each substitution in its words."""
        word = self.word.filled(texts)
        choices = (replace(each, patterns=tuple(one.filled(texts) for one in each.patterns)) for each in self.choices)
        return Case(word, tuple(choices))


@dataclass(frozen=True, slots=True)
class While:
    """A branch that is repeated while its condition succeeds, or with `until` while it fails."""

    repeated: Branch
    until: bool
    after: "tuple[Step, ...]" = ()  # each round, also one that `continue` has ended


@dataclass(frozen=True, slots=True)
class For:
    """Steps that are repeated with each of the words as the value of a variable."""

    name: str
    words: tuple[Word, ...]
    body: tuple[Step, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Piped:
    """A pipeline that a compound is part of: the output of each stage is the input of the next one, once it has ended."""

    stages: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Fed:
    """Steps that share what `<` or `<<` names as their standard input."""

    source: Redirect
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Background:
    """Steps that run as an execution of their own, which is asked for by their text `line`."""

    steps: tuple[Step, ...]
    line: str


@dataclass(frozen=True, slots=True)
class Function:
    """Steps that get a name: a command of this name runs them."""

    name: str
    body: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Call:
    """The steps of a function, which these words are for. `name` is that of the function."""

    name: str
    words: tuple[Word, ...]
    body: tuple[Step, ...]

    def filled(self, texts: Iterator[str]) -> "Call":
        """The same with the output of each substitution."""
        return replace(self, words=tuple(each.filled(texts) for each in self.words))


@dataclass(frozen=True, slots=True)
class Trap:
    """Steps that run when the line, or the subshell, has ended. With `silent` the exit code stays that of the step before."""

    steps: tuple[Step, ...]
    silent: bool = False


Compound = Group | If | Case | While | For | Piped | Fed | Background | Function | Call | Trap


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed line; empty for a blank one."""

    steps: tuple[Step, ...]

    @property
    def commands(self) -> Iterator[Command]:
        """All commands of the line, those of its substitutions too."""
        return _commands(self.steps)

    @property
    def only_assigns(self) -> bool:
        """Whether all it does is to set variables, from what it says itself."""
        alone = (each.commands[0] if len(each.commands) == 1 else None for each in self.steps)
        return all(each is not None and each.only_assigns for each in alone)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all commands in order."""
        return tuple(chain.from_iterable(command.words for command in self.commands))

    @property
    def argv(self) -> tuple[str, ...]:
        """The texts of all words, with globs not expanded."""
        return tuple(word.text for word in self.words)


def substitutions(words: tuple[Word, ...]) -> Iterator[Parameter]:
    """The substitutions in these words, in order."""
    return (parameter for word in words for parameter in word.parameters if parameter.steps)


def assigned_names(steps: tuple[Step, ...]) -> frozenset[str]:
    """The variables that assignments in these steps set for the line."""
    alone = (command.assignments for command in _commands(steps) if not command.words)
    return frozenset(each.name for each in chain.from_iterable(alone))


def words_of(compound: Compound | None) -> tuple[Word, ...]:
    """The words of a compound itself."""
    match compound:
        case For(words=words) | Call(words=words):
            return words
        case Case(word=word, choices=choices):
            return (word, *chain.from_iterable(each.patterns for each in choices))
        case _:
            return ()


def parts_of(compound: Compound) -> Iterator[tuple[Step, ...]]:
    """The lists of steps of a compound, in order."""
    match compound:
        case Group(steps=steps) | Fed(steps=steps) | Background(steps=steps):
            yield steps
        case If(branches=branches, otherwise=otherwise):
            for branch in branches:
                yield from (branch.condition, branch.steps)
            yield otherwise
        case Case(choices=choices):
            yield from (each.steps for each in choices)
        case While(repeated=branch, after=after):
            yield from (branch.condition, branch.steps, after)
        case For(body=steps) | Piped(stages=steps) | Function(body=steps) | Call(body=steps) | Trap(steps=steps):
            yield steps


def has_background(steps: tuple[Step, ...]) -> bool:
    """Whether one of the steps, or of those in them, runs in the background."""
    compounds = [each.compound for each in steps if each.compound]
    return any(isinstance(each, Background) or any(map(has_background, parts_of(each))) for each in compounds)


def _commands(steps: tuple[Step, ...]) -> Iterator[Command]:
    for step in steps:
        for command in step.commands:
            yield command
            yield from _substituted(tuple(command.substitutions))
        if step.redirects:
            yield Command((), (), step.redirects)
            yield from _substituted(tuple(substitutions(tuple(each.target for each in step.redirects))))
        if words := words_of(step.compound):
            yield Command(words)
            yield from _substituted(tuple(substitutions(words)))
        for part in parts_of(step.compound) if step.compound else ():
            yield from _commands(part)


def _substituted(parameters: tuple[Parameter, ...]) -> Iterator[Command]:
    for parameter in parameters:
        yield from _commands(parameter.steps)
