"""The parser: a command line parsed exactly once.

The words found here are the words that policy judges and that the programs get; no shell ever sees the line. A line is
a list of steps joined by `&&`, `||` and `;`; a step is a pipeline of commands, or a group of steps; a command has words,
assignments in front of them, and redirections.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

from backend.core.decisions import Decision
from backend.core.language.lexer import MERGES, Assignment, Operator, Token, Word, tokens

__all__ = ["Assignment", "Command", "Group", "Invocation", "Redirect", "Script", "Step", "Word", "parse"]

NO_OPERATORS: frozenset[str] = frozenset()
JOINS = frozenset({"&&", "||", ";", "\n"})
CLOSED_BY = {"(": ")", "{": "}"}
CLOSING = frozenset(CLOSED_BY.values())
CHANGE_FOLDER = "cd"
BUILTINS = frozenset({CHANGE_FOLDER, "export", "unset", "set", "exit", ":"})
NO_TEXT = Word("")
DEPTH_LIMIT = 20  # groups within groups


@dataclass(frozen=True, slots=True)
class Redirect:
    """What a descriptor is redirected to or from: a file for `<`, `>` and `>>`, the text itself for `<<`.

    `operator` is `2>&1` or `>&2` where one output goes to the same place as the other.
    """

    operator: str
    descriptor: int
    target: Word = NO_TEXT


@dataclass(frozen=True, slots=True)
class Opened:
    """A redirection with its variables expanded."""

    operator: str
    descriptor: int
    target: str = ""


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


@dataclass(frozen=True, slots=True)
class Invocation:
    """One program of a pipeline, judged: exactly this argv, these variables in addition to the standard ones, these files."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    redirects: tuple[Opened, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A pipeline or a group, and what joins it to the one before: `&&`, `||`, `;`, or nothing for the first.

    `negated` by `!` it succeeds where it would fail.
    """

    join: str
    commands: tuple[Command, ...] = ()
    group: "Group | None" = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """Steps between `{ }`, or between `( )`: then what they change is as before at the end (a subshell)."""

    steps: tuple[Step, ...]
    subshell: bool


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed line; empty for a blank one."""

    steps: tuple[Step, ...]

    @property
    def commands(self) -> Iterator[Command]:
        return _commands(self.steps)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all commands in order."""
        return tuple(chain.from_iterable(command.words for command in self.commands))

    @property
    def argv(self) -> tuple[str, ...]:
        """The texts of all words, with globs not expanded."""
        return tuple(word.text for word in self.words)


def _commands(steps: tuple[Step, ...]) -> Iterator[Command]:
    for step in steps:
        yield from step.commands
        if step.group:
            yield from _commands(step.group.steps)


def parse(line: str, operators: frozenset[str] = NO_OPERATORS, *, assignments: bool = False) -> Script | Decision:
    """Parse `line`, or return what in it is refused and where.

    `operators` are those that are permitted in it, as a profile lists them; `assignments` permits `NAME=value`.
    """
    found = tokens(line, operators, assignments=assignments)
    if isinstance(found, Decision):
        return found
    try:
        return Script(_Reader(found, builtins=CHANGE_FOLDER in operators).steps("")) if found else Script(())
    except _Refused as refused:
        return refused.decision


class _Refused(Exception):
    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.decision = decision


@dataclass(slots=True)
class _Reader:
    """Assembles tokens into commands, and commands into steps."""

    waiting: list[Token]
    builtins: bool
    depth: int = 0

    def __post_init__(self) -> None:
        self.waiting.reverse()

    def steps(self, end: str) -> tuple[Step, ...]:
        """The steps up to `end`, which is consumed: what closes a group, or nothing at the end of the line."""
        found: list[Step] = []
        join = ""
        self._skip_breaks()
        while self._next_text() != end:
            if not self.waiting:
                raise _Refused(_unclosed(end))
            found.append(replace(self._step(), join=join))
            operator = self._pop_operator(JOINS, end)
            join = ";" if operator and operator.text == "\n" else operator.text if operator else ""
            if operator and operator.text in {";", "\n"}:
                self._skip_breaks()
            elif operator:
                self._skip_breaks()
                if not self.waiting or self._next_text() == end:
                    raise _Refused(_incomplete(operator))
        if end:
            self.waiting.pop()
        return tuple(found)

    def _step(self) -> Step:
        negated = self._next_text() == "!"
        if negated:
            self.waiting.pop()
        if self._next_text() in CLOSED_BY:
            return Step("", (), self._group(), negated)
        commands = [self._command()]
        while self._next_text() == "|":
            operator = self.waiting.pop()
            self._skip_breaks()
            if not self.waiting:
                assert isinstance(operator, Operator)
                raise _Refused(_incomplete(operator))
            commands.append(self._command())
        if len(commands) > 1:
            self._check_pipeline(commands)
        return Step("", tuple(commands), None, negated)

    def _group(self) -> Group:
        opening = self.waiting.pop()
        assert isinstance(opening, Operator)
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise _Refused(_too_deep())
        found = self.steps(CLOSED_BY[opening.text])
        self.depth -= 1
        if not found:
            raise _Refused(_incomplete(opening))
        if self._next_text() not in {"", *JOINS, *CLOSING}:
            raise _Refused(_joined_group())
        return Group(found, opening.text == "(")

    def _check_pipeline(self, commands: list[Command]) -> None:
        """What a builtin changes is forgotten at the end of a pipeline, and so does an assignment."""
        for command in commands:
            if not command.words or (self.builtins and command.words[0].text in BUILTINS):
                raise _Refused(_no_effect(command))

    def _next_text(self) -> str:
        """The next operator; empty at the end, "word" for anything else."""
        if not self.waiting:
            return ""
        following = self.waiting[-1]
        return following.text if isinstance(following, Operator) else "word"

    def _skip_breaks(self) -> None:
        while self._next_text() == "\n":
            self.waiting.pop()

    def _pop_operator(self, texts: frozenset[str], end: str) -> Operator | None:
        """The operator after a step; None at the end."""
        if self._next_text() == end:
            return None
        operator = self.waiting.pop() if self.waiting else None
        if isinstance(operator, Operator) and operator.text in texts:
            return operator
        raise _Refused(_unclosed(end) if operator is None else _unexpected(operator))

    def _command(self) -> Command:
        words: list[Word] = []
        assignments: list[Assignment] = []
        redirects: list[Redirect] = []
        while self.waiting:
            match self.waiting[-1]:
                case Operator(text=text) if text == "|" or text in JOINS or text in CLOSING:
                    break
                case Operator() as operator:
                    self.waiting.pop()
                    redirects += self._redirects(operator)
                case Assignment() as assignment:
                    self.waiting.pop()
                    assignments.append(assignment)
                case Word() as word:
                    self.waiting.pop()
                    words.append(word)
        if words or (assignments and not redirects):
            return Command(tuple(words), tuple(assignments), tuple(redirects))
        raise _Refused(self._missing(bool(assignments)))

    def _missing(self, assigned: bool) -> Decision:
        following = self.waiting[-1] if self.waiting else None
        return _incomplete(following) if isinstance(following, Operator) and not assigned else _no_program()

    def _redirects(self, operator: Operator) -> list[Redirect]:
        if operator.text in MERGES:
            return [Redirect(operator.text, 2 if operator.text == "2>&1" else 1)]
        if operator.text == "<<":
            return [Redirect("<<", 0, operator.body or NO_TEXT)]
        if operator.text not in {"<", ">", ">>", "&>"}:
            raise _Refused(_unexpected(operator))
        target = self.waiting.pop() if self.waiting else None
        if not isinstance(target, Word) or not target.text or target.is_glob:
            reason = f"{operator.text} requires the name of a file after it (position {operator.position})."
            hint = "Write for example > out.txt; globs are not accepted here."
            raise _Refused(Decision.deny("syntax.redirect", reason, hint))
        if operator.text == "&>":
            return [Redirect(">", 1, target), Redirect("2>&1", 2)]
        standard = 0 if operator.text == "<" else 1
        return [Redirect(operator.text, operator.descriptor or standard, target)]


def _no_effect(command: Command) -> Decision:
    name = command.words[0].text if command.words else "NAME=value"
    reason = f"{name} has no effect in a pipeline: it lasts only as long as that."
    return Decision.deny("syntax.cd", reason, f"Write it before the pipeline: {name} ... && a | b")


def _joined_group() -> Decision:
    reason = "The output of a group of commands cannot be piped or redirected here."
    return Decision.deny("syntax.group", reason, "Pipe or redirect each command in it.")


def _too_deep() -> Decision:
    reason = f"Groups are nested more than {DEPTH_LIMIT} deep."
    return Decision.deny("syntax.group", reason, "Write the commands one after another.")


def _unclosed(end: str) -> Decision:
    return Decision.deny("syntax.group", f"A group is not closed: {end} is missing.", "( a; b ) or { a; b; }")


def _unexpected(token: Token) -> Decision:
    if isinstance(token, Operator):
        return _incomplete(token)
    return Decision.deny("syntax.group", "After a group of commands there must be an operator.", "( a; b ) && c")


def _incomplete(operator: Operator) -> Decision:
    text = "A line break" if operator.text == "\n" else operator.text
    reason = f"{text} needs a command on each side (position {operator.position})."
    return Decision.deny("syntax.incomplete", reason, "Quote it to use the character itself.")


def _no_program() -> Decision:
    return Decision.deny(
        "syntax.assignment", "A variable is set for the command after it, and there is none.", "NAME=value command"
    )
