"""Redirections of a compound, spread over the commands in it: each of them appends where the compound writes.

`{ a; b | c; } > f` is `true > f && { a >> f; b | c >> f; }`. What it reads stays with it as a whole. The files must be named so that they stay the same wherever
a command runs, and whatever became of the variables.
"""

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.language.lexer import LineRefused
from backend.core.language.parser import BUILTINS, in_background
from backend.core.language.tree import (
    Assignment,
    Background,
    Branch,
    Call,
    Case,
    Command,
    Compound,
    Fed,
    For,
    Function,
    Group,
    If,
    Parameter,
    Piped,
    Redirect,
    Step,
    Trap,
    While,
    Word,
)

OPENING = Word("true")  # a program that does nothing: its redirections make and empty the files


def spread(step: Step) -> Step | Decision:
    """The step without redirections of its own."""
    assert step.compound
    opening = Step("", (Command((OPENING,), (), step.redirects),))
    sources = [each for each in step.redirects if each.descriptor == 0]
    written = (each for each in step.redirects if each.descriptor)
    appended = tuple(replace(each, operator=">>") if each.operator == ">" else each for each in written)
    try:
        inner = Step("&&", (), _Spread(appended).compound(step.compound) if appended else step.compound)
    except LineRefused as refused:
        return refused.decision
    if sources:
        inner = Step("&&", (), Fed(sources[-1], (replace(inner, join=""),)))
    return replace(step, compound=Group((opening, inner), subshell=False), redirects=())


@dataclass(frozen=True, slots=True)
class _Spread:
    redirects: tuple[Redirect, ...]

    def compound(self, compound: Compound) -> Compound:
        match compound:
            case Group(steps=steps):
                return replace(compound, steps=self.steps(steps))
            case If(branches=branches, otherwise=otherwise):
                return If(tuple(map(self.branch, branches)), self.steps(otherwise))
            case Case(word=word, choices=choices):
                return Case(self.word(word), tuple(replace(each, steps=self.steps(each.steps)) for each in choices))
            case While(repeated=repeated, after=after):
                return replace(compound, repeated=self.branch(repeated), after=self.steps(after))
            case Call(words=words, body=body):
                return replace(compound, words=tuple(map(self.word, words)), body=self.steps(body))
            case Function() | Trap():
                return compound
            case For(words=words, body=body):
                return replace(compound, words=tuple(map(self.word, words)), body=self.steps(body))
            case Fed(steps=steps):
                return replace(compound, steps=self.steps(steps))
            case Background():
                raise LineRefused(in_background())
            case Piped(stages=stages):
                before = replace(self, redirects=self.errors())
                return Piped((*before.steps(stages[:-1]), *self.steps(stages[-1:])))

    def branch(self, branch: Branch) -> Branch:
        return Branch(self.steps(branch.condition), self.steps(branch.steps))

    def steps(self, steps: tuple[Step, ...]) -> tuple[Step, ...]:
        return tuple(map(self.step, steps))

    def step(self, step: Step) -> Step:
        if step.compound:
            return replace(step, redirects=(*self.redirects, *step.redirects))
        last = len(step.commands) - 1
        commands = (self.command(each, is_last=number == last) for number, each in enumerate(step.commands))
        return replace(step, commands=tuple(commands))

    def command(self, command: Command, *, is_last: bool) -> Command:
        """Builtins write nothing. Only the last program of a pipeline writes its output where the compound does."""
        words = tuple(map(self.word, command.words))
        assignments = tuple(map(self.assignment, command.assignments))
        if not words or words[0].text in BUILTINS | {"wait"}:
            return replace(command, words=words, assignments=assignments)
        own = self.redirects if is_last else self.errors()
        return Command(words, assignments, (*own, *command.redirects))

    def assignment(self, assignment: Assignment) -> Assignment:
        """An assignment, whose substitutions are those of a word."""
        items = None if assignment.items is None else tuple(map(self.word, assignment.items))
        return replace(assignment, value=self.word(assignment.value), items=items)

    def word(self, word: Word) -> Word:
        """What the substitutions of a word write is theirs; their errors go where those of the compound go."""
        return replace(word, parameters=tuple(map(self.parameter, word.parameters))) if word.parameters else word

    def parameter(self, parameter: Parameter) -> Parameter:
        if not parameter.steps:
            return parameter
        return replace(parameter, steps=replace(self, redirects=self.errors()).steps(parameter.steps))

    def errors(self) -> tuple[Redirect, ...]:
        """The redirections for standard error alone."""
        output: Redirect | str = "output"
        errors: Redirect | str = "errors"
        for each in self.redirects:
            match each.operator, each.descriptor:
                case "2>&1", _:
                    errors = output
                case ">&2", _:
                    output = errors
                case _, 2:
                    errors = each
                case _:
                    output = each
        if errors == "output":
            raise LineRefused(_mixed())
        return (Redirect(">>", 2, errors.target),) if isinstance(errors, Redirect) else ()


def _mixed() -> Decision:
    reason = "2>&1 of a group would mix the errors of a pipeline or a $( ) in it into the output of the group."
    return Decision.deny("syntax.group", reason, "Write 2>&1 after each command, or redirect the group to a file.")
