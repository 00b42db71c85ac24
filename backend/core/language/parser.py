"""The parser: a command line parsed exactly once.

The words found here are the words that policy judges and that the programs get; no shell ever sees the line. A line is
a list of steps joined by `&&`, `||` and `;`; a step is a pipeline of commands; a command has words, assignments in
front of them, and redirections.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain

from backend.core.decisions import Decision
from backend.core.language.lexer import MERGE_OPERATOR, Assignment, Operator, Token, Word, tokens

__all__ = ["Assignment", "Command", "Invocation", "Redirect", "Script", "Step", "Word", "parse"]

NO_OPERATORS: frozenset[str] = frozenset()
JOINS = frozenset({"&&", "||", ";"})
CHANGE_FOLDER = "cd"


@dataclass(frozen=True, slots=True)
class Redirect:
    """`< file`, `> file`, `>> file` for a descriptor; `operator` is `2>&1` where standard error goes to standard output."""

    operator: str
    descriptor: int
    target: str = ""


@dataclass(frozen=True, slots=True)
class Command:
    """One program with its arguments."""

    words: tuple[Word, ...]
    assignments: tuple[Assignment, ...] = ()
    redirects: tuple[Redirect, ...] = ()

    @property
    def argv(self) -> tuple[str, ...]:
        """The words as written, with globs not expanded."""
        return tuple(word.text for word in self.words)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One program of a pipeline, judged: exactly this argv, these variables in addition to the standard ones, these files."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A pipeline, and what joins it to the one before: `&&`, `||`, `;`, or nothing for the first.

    With a `folder` the step is `cd folder`, for which no program runs.
    """

    join: str
    commands: tuple[Command, ...]
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Script:
    """A parsed line; empty for a blank one."""

    steps: tuple[Step, ...]

    @property
    def commands(self) -> Iterator[Command]:
        return chain.from_iterable(step.commands for step in self.steps)

    @property
    def words(self) -> tuple[Word, ...]:
        """The words of all commands in order."""
        return tuple(chain.from_iterable(command.words for command in self.commands))

    @property
    def argv(self) -> tuple[str, ...]:
        """The texts of all words, with globs not expanded."""
        return tuple(word.text for word in self.words)


def parse(line: str, operators: frozenset[str] = NO_OPERATORS, *, assignments: bool = False) -> Script | Decision:
    """Parse `line`, or return what in it is refused and where.

    `operators` are those that are permitted in it, of `| && || ; > >> < 2>&1 cd`; `assignments` permits `NAME=value`.
    """
    found = tokens(line, operators, assignments=assignments)
    if isinstance(found, Decision):
        return found
    return _Reader(found, takes_cd=CHANGE_FOLDER in operators).script() if found else Script(())


@dataclass(slots=True)
class _Reader:
    """Assembles tokens into commands, and commands into steps."""

    waiting: list[Token]
    takes_cd: bool
    steps: list[Step] = field(default_factory=list)
    commands: list[Command] = field(default_factory=list)
    join: str = ""

    def script(self) -> Script | Decision:
        self.waiting.reverse()
        while self.waiting:
            command = self._command()
            if isinstance(command, Decision):
                return command
            self.commands.append(command)
            if refusal := self._connect():
                return refusal
        return Script(tuple(self.steps))

    def _connect(self) -> Decision | None:
        """Consume the operator after a command. Only `;` may end a line."""
        operator = self.waiting.pop() if self.waiting else None
        match operator:
            case Operator(text="|"):
                return None if self.waiting else _incomplete(operator)
            case Operator(text=text) if not self.waiting and text != ";":
                return _incomplete(operator)
        following = operator.text if isinstance(operator, Operator) else ""
        step = Step(self.join, tuple(self.commands))
        if self.takes_cd and any(command.words[0].text == CHANGE_FOLDER for command in step.commands):
            entered = _change_folder(step, following)
            if isinstance(entered, Decision):
                return entered
            step = entered
        self.steps.append(step)
        self.commands, self.join = [], following
        return None

    def _command(self) -> Command | Decision:
        words: list[Word] = []
        assignments: list[Assignment] = []
        redirects: list[Redirect] = []
        first = self.waiting[-1]
        while self.waiting:
            match self.waiting[-1]:
                case Operator(text=text) if text == "|" or text in JOINS:
                    break
                case Operator() as operator:
                    self.waiting.pop()
                    redirect = self._redirect(operator)
                    if isinstance(redirect, Decision):
                        return redirect
                    redirects.append(redirect)
                case Assignment() as assignment:
                    self.waiting.pop()
                    assignments.append(assignment)
                case Word() as word:
                    self.waiting.pop()
                    words.append(word)
        if not words:
            return _incomplete(first) if isinstance(first, Operator) else _no_program()
        return Command(tuple(words), tuple(assignments), tuple(redirects))

    def _redirect(self, operator: Operator) -> Redirect | Decision:
        if operator.text == MERGE_OPERATOR:
            return Redirect(operator.text, 2)
        target = self.waiting.pop() if self.waiting else None
        if not isinstance(target, Word) or not target.text or target.is_glob:
            reason = f"{operator.text} requires the name of a file after it (position {operator.position})."
            return Decision.deny("syntax.redirect", reason, "Write for example > out.txt; globs are not accepted here.")
        standard = 0 if operator.text == "<" else 1
        return Redirect(operator.text, operator.descriptor or standard, target.text)


def _change_folder(step: Step, following: str) -> Step | Decision:
    """`cd DIR` is alone in its step and `&&` follows: the next step must not run in another folder if it fails."""
    match step.commands:
        case (Command(words=(_, folder), assignments=(), redirects=()),) if following == "&&":
            if folder.text and not folder.is_glob and not folder.text.startswith("-"):
                return Step(step.join, step.commands, folder.text)
    reason = "cd is supported only as `cd DIR && ...`; it applies to the end of the line."
    return Decision.deny("syntax.cd", reason, "Or send the command with the folder as its cwd.")


def _incomplete(operator: Operator) -> Decision:
    reason = f"{operator.text} needs a command on each side (position {operator.position})."
    return Decision.deny("syntax.incomplete", reason, "Quote it to use the character itself.")


def _no_program() -> Decision:
    return Decision.deny(
        "syntax.assignment", "A variable is set for the command after it, and there is none.", "NAME=value command"
    )
