"""The parser: a command line parsed exactly once.

The words found here are the words that policy judges and that the programs get; no shell ever sees the line. A line is
a list of steps joined by `&&`, `||` and `;`; a step is a pipeline of commands, or a compound of steps: a group, an `if`, a
loop. A command has words, assignments in front of them, and redirections.
"""

import re
from collections.abc import Callable, Iterator
from itertools import groupby

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision
from backend.core.language.arithmetic import Expression, Statement
from backend.core.language.double_brackets import tested, unlike
from backend.core.language.lexer import (
    ARITHMETIC_NAME,
    FUNCTION,
    MERGES,
    REDIRECTS,
    SUBSTITUTION_DEPTH,
    Arithmetic,
    LineRefused,
    Operator,
    Token,
    tokens,
)
from backend.core.language.patterns import UnlikePattern, parts_of_pattern
from backend.core.language.tree import (
    NO_TEXT,
    Assignment,
    Background,
    Branch,
    Case,
    Choice,
    Command,
    Compound,
    For,
    Function,
    Group,
    If,
    Parameter,
    Piped,
    Redirect,
    Script,
    Step,
    Trap,
    While,
    Word,
    has_background,
)

__all__ = ["Assignment", "Command", "Group", "Invocation", "Redirect", "Script", "Step", "Word", "parse"]

NO_OPERATORS: frozenset[str] = frozenset()
SEPARATORS = frozenset({";", "&", "\n"})
JOINS = frozenset({"&&", "||", *SEPARATORS})
CLOSED_BY = {"(": ")", "{": "}"}
CLOSING = frozenset({*CLOSED_BY.values(), "then", "elif", "else", "fi", "do", "done", ";;", "esac"})
COMPOUND = frozenset({*CLOSED_BY, "if", "while", "until", "for", "case"})
REDIRECTIONS = REDIRECTS | MERGES
NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
CHANGE_FOLDER = "cd"
WHICH = Word("which")  # what `command -v` and `type` mean where no name is a function or an alias
LEAVING = frozenset({"break", "continue"})
READ = "read"
SOURCES = frozenset({"source", "."})
OF_FUNCTIONS = frozenset({"return", "local", "shift"})
BUILTINS = frozenset(
    {CHANGE_FOLDER, "export", "unset", "set", "exit", ":", READ, "deactivate", *SOURCES, *LEAVING, *OF_FUNCTIONS}
)
EXECUTE, EVALUATE, TRAP = "exec", "eval", "trap"
TRAPPED = frozenset({"EXIT", "0", "INT", "TERM", "HUP", "SIGINT", "SIGTERM", "SIGHUP"})
TEXT_SUBSTITUTIONS = 2  # $( ) within $( ) in the words of eval and trap
SUCCEED = Word(":")
JOB_CONTROL = frozenset({"jobs", "wait"})  # and kill, which is a program too
EXAMPLES = "( a; b ), { a; b; }, if a; then b; fi, while a; do b; done, for NAME in a b; do c; done"
DEPTH_LIMIT = 20  # compounds within compounds


@dataclass(frozen=True, slots=True)
class ExpandedRedirect:
    """A redirection with its variables expanded."""

    operator: str
    descriptor: int
    target: str = ""


@dataclass(frozen=True, slots=True)
class Invocation:
    """One program of a pipeline, judged: exactly this argv, these variables in addition to the standard ones, these files."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    redirects: tuple[ExpandedRedirect, ...] = ()


def builtins_among(operators: frozenset[str]) -> frozenset[str]:
    """The builtins that a profile with these operators has."""
    return (BUILTINS if CHANGE_FOLDER in operators else NO_OPERATORS) | (
        JOB_CONTROL if "&" in operators else NO_OPERATORS
    )


def parse(line: str, operators: frozenset[str] = NO_OPERATORS, *, assignments: bool = False) -> Script | Decision:
    """Parse `line`, or return what in it is refused and where.

    `operators` are those that are permitted in it, as a profile lists them; `assignments` permits `NAME=value`.
    """

    try:
        return Script(_read(line, operators, assignments=assignments))
    except LineRefused as refused:
        return refused.decision


def _read(
    line: str, operators: frozenset[str], *, assignments: bool, depth: int = 0, is_text: bool = False
) -> tuple[Step, ...]:
    """The steps of a line, or of a text of eval or trap in it, at a `depth` of compounds. Raises LineRefused."""

    def read_text(text: str, depth: int) -> tuple[Step, ...]:
        if is_text:
            raise LineRefused(_unlike_text(EVALUATE))
        return _read(text, operators, assignments=assignments, depth=depth, is_text=True)

    def read(found: list[Token]) -> tuple[Step, ...]:
        return _Reader(found, line, builtins_among(operators), read_text, depth).steps()[0]

    substitutions = SUBSTITUTION_DEPTH - TEXT_SUBSTITUTIONS if is_text else 0
    return read(tokens(line, operators, assignments=assignments, read=read, depth=substitutions))


@dataclass(slots=True)
class _Reader:
    """Assembles tokens into commands, and commands into steps."""

    waiting: list[Token]
    line: str
    builtins: frozenset[str]
    read_text: Callable[[str, int], tuple[Step, ...]]
    depth: int = 0
    loops: int = 0  # around what is read now
    functions: int = 0  # the same
    at: int = 0  # characters up to the end of the operator that was read last

    def __post_init__(self) -> None:
        self.waiting.reverse()

    def _pop(self) -> Token:
        token = self.waiting.pop()
        if isinstance(token, Operator):
            self.at = token.end
        return token

    def steps(self, *ends: str) -> tuple[tuple[Step, ...], str]:
        """The steps up to one of `ends`, which is consumed: what closes a compound, or nothing at the end of the line."""
        found: list[Step] = []
        join, begun = "", 0
        self._skip_breaks()
        start = self.at
        while self._next_text() not in (ends or ("",)):
            if not self.waiting:
                raise LineRefused(_unclosed(ends[-1]))
            found.append(replace(self._step(), join=join))
            operator = self._pop_operator(JOINS, ends)
            if operator and operator.text == "&":
                found[begun:] = [_background(found[begun:], self.line[start : operator.position - 1])]
            join = ";" if operator and operator.text in SEPARATORS else operator.text if operator else ""
            self._skip_breaks()
            if operator and operator.text in SEPARATORS:
                begun, start = len(found), self.at
            elif operator and self._next_text() in (ends or ("",)):
                raise LineRefused(_incomplete(operator))
        end = self._next_text()
        if ends:
            self._pop()
        return tuple(found), end

    def _some_steps(self, opening: Operator, *ends: str) -> tuple[tuple[Step, ...], str]:
        """The same where there must be a step."""
        found, end = self.steps(*ends)
        if not found:
            raise LineRefused(_incomplete(opening))
        return found, end

    def _step(self) -> Step:
        """One command or compound, or several that are piped; after a `!` its end is negated."""
        negated = self._next_text() == "!"
        if negated:
            self._pop()
        stages = [self._stage()]
        while self._next_text() == "|":
            self._after_pipe()
            stages.append(self._stage())
        return replace(self._piped(stages) if len(stages) > 1 else stages[0], negated=negated)

    def _stage(self) -> Step:
        if self._next_text() in COMPOUND:
            return self._redirected(Step("", (), self._compound()))
        if self._is_next("[["):
            return self._redirected(self._test())
        if self.waiting and isinstance(self.waiting[-1], Arithmetic):
            return self._redirected(self._arithmetic(self.waiting[-1]))
        if name := self._function_name():
            return self._function(name)
        command = self._command()
        if READ in self.builtins and (special := self._special(command)):
            return special
        if READ not in self.builtins or command.redirects == () or [each.text for each in command.words[:1]] != [READ]:
            return Step("", (command,))
        return Step("", (), Group((Step("", (replace(command, redirects=()),)),), False), redirects=command.redirects)

    def _special(self, command: Command) -> Step | None:
        """What `exec`, `eval` and `trap` mean where their words are known."""
        name, *words = [each.text for each in command.words] or [""]
        if name == EXECUTE and words and not words[0].startswith("-") and words[0] not in self.builtins:
            inner = Step("", (replace(command, words=command.words[1:]),))
            # What runs at the end of the line does not run after another program has taken its place.
            ended = (Step(";", (), Trap((), silent=True)), Step(";", (Command((Word("exit"),)),)))
            return Step("", (), Group((inner, *ended), False))
        if name not in {EVALUATE, TRAP} or command.assignments:
            return None
        depends = (each.is_glob or any(one.name for one in each.parameters) for each in command.words)
        if not words or any(depends):
            raise LineRefused(_unlike_text(name))
        if name == TRAP:
            return Step("", (), self._trap(words), redirects=command.redirects)
        steps = self.read_text(" ".join(words), self.depth) or (_always(),)
        return Step("", (), Group(steps, False), redirects=command.redirects)

    def _trap(self, words: list[str]) -> Trap:
        """`trap 'COMMANDS' EXIT`, `trap - EXIT`."""
        text, *names = words
        if not set(names) & {"EXIT", "0"} or not set(names) <= TRAPPED:
            raise LineRefused(_unlike_text(TRAP))
        return Trap(() if text == "-" else self.read_text(text, self.depth))

    def _function_name(self) -> str:
        """The name of the function that begins here; its name and brackets are consumed."""
        is_named = self._next_text() == FUNCTION
        first = self.waiting[-2 if is_named else -1 :][:1] if self.waiting else []
        brackets = [each.text for each in self.waiting[-3 - is_named :][:2] if isinstance(each, Operator)]
        if brackets != [")", "("]:
            brackets = []
        if not is_named and not brackets:
            return ""
        if not first or not isinstance(first[0], Word) or not NAME.fullmatch(first[0].text) or first[0].parameters:
            raise LineRefused(_unlike_function())
        del self.waiting[-1 - is_named - len(brackets) :]
        return first[0].text

    def _function(self, name: str) -> Step:
        """`NAME() { STEPS; }`: its body is read as any group."""
        self._skip_breaks()
        if self._next_text() not in CLOSED_BY or name in self.builtins:
            raise LineRefused(_unlike_function())
        loops, self.loops, self.functions = self.loops, 0, self.functions + 1
        body = Step("", (), self._compound())
        self.loops, self.functions = loops, self.functions - 1
        if self._next_text() in REDIRECTIONS | {"|", "word"}:
            raise LineRefused(_unlike_function())
        return Step("", (), Function(name, (body,)))

    def _arithmetic(self, token: Arithmetic) -> Step:
        """`(( ))`: succeeds where the result is not 0."""
        self._pop()
        statement = token.statements[0]
        assert statement
        steps = (*_set_by(statement), _differs_from_zero(statement.result))
        return steps[0] if len(steps) == 1 else Step("", (), Group(steps, False))

    def _is_next(self, text: str) -> bool:
        return bool(self.waiting) and isinstance(word := self.waiting[-1], Word) and word.text == text

    def _test(self) -> Step:
        """`[[ ]]`: up to its end `&&` and `||` join tests, and not steps."""
        self._pop()
        alternatives: list[list[list[Word]]] = [[[]]]
        while self.waiting and not self._is_next("]]"):
            match self._pop():
                case Word() as word:
                    alternatives[-1][-1].append(word)
                case Operator(text="&&"):
                    alternatives[-1].append([])
                case Operator(text="||"):
                    alternatives.append([[]])
                case Operator(text="!"):
                    alternatives[-1][-1].append(Word("!"))
                case _:
                    raise LineRefused(unlike())
        if not self.waiting:
            raise LineRefused(unlike())
        self._pop()
        return tested(alternatives)

    def _redirected(self, step: Step) -> Step:
        """A compound, or a test, with its redirections."""
        redirects: list[Redirect] = []
        while self._next_text() in REDIRECTIONS:
            operator = self._pop()
            assert isinstance(operator, Operator)
            redirects += self._redirects(operator)
        if self._next_text() not in {"", "|", *JOINS, *CLOSING}:
            raise LineRefused(_joined_group())
        if step.compound or not redirects:
            return replace(step, redirects=tuple(redirects))
        return Step("", tuple(replace(each, redirects=tuple(redirects)) for each in step.commands))

    def _piped(self, stages: list[Step]) -> Step:
        """Commands between two compounds are one pipeline."""
        found: list[Step] = []
        for stage in stages:
            self._check_stage(stage)
        for simple, group in groupby(stages, key=lambda stage: bool(stage.commands)):
            alike = [*group]
            found += [Step("", tuple(command for stage in alike for command in stage.commands))] if simple else alike
        return found[0] if len(found) == 1 else Step("", (), Piped(tuple(found)))

    def _after_pipe(self) -> None:
        operator = self._pop()
        assert isinstance(operator, Operator)
        self._skip_breaks()
        if not self.waiting:
            raise LineRefused(_incomplete(operator))

    def _compound(self) -> Compound:
        opening = self._pop()
        assert isinstance(opening, Operator)
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise LineRefused(_too_deep())
        found = self._opened(opening)
        self.depth -= 1
        return found

    def _opened(self, opening: Operator) -> Compound:
        match opening.text:
            case "if":
                return self._if(opening)
            case "while" | "until":
                condition, _ = self._some_steps(opening, "do")
                return While(Branch(condition, self._body(opening)), until=opening.text == "until")
            case "for":
                return self._for(opening)
            case "case":
                return self._case(opening)
            case _:
                loops, self.loops = self.loops, self.loops if opening.text == "{" else 0
                steps, _ = self._some_steps(opening, CLOSED_BY[opening.text])
                self.loops = loops
                return Group(steps, opening.text == "(")

    def _if(self, opening: Operator) -> If:
        branches: list[Branch] = []
        end = "elif"
        while end == "elif":
            condition, _ = self._some_steps(opening, "then")
            steps, end = self._some_steps(opening, "elif", "else", "fi")
            branches.append(Branch(condition, steps))
        return If(tuple(branches), self._some_steps(opening, "fi")[0] if end == "else" else ())

    def _counted(self, opening: Operator) -> Group:
        token = self._pop()
        assert isinstance(token, Arithmetic)
        begin, condition, after = token.statements
        if self._next_text() in {";", "\n"}:
            self._pop()
            self._skip_breaks()
        if self._next_text() != "do":
            raise LineRefused(_unlike_for(opening))
        self._pop()
        tested = (*_set_by(condition), _differs_from_zero(condition.result)) if condition else (_always(),)
        loop = While(Branch(tested, self._body(opening)), until=False, after=_set_by(after))
        return Group((*_set_by(begin), Step(";", (), loop)), False)

    def _for(self, opening: Operator) -> For | Group:
        """`for NAME in WORDS; do STEPS; done`, `for ((A; B; C)); do STEPS; done`."""
        if self.waiting and isinstance(self.waiting[-1], Arithmetic):
            return self._counted(opening)
        words = [*self._plain_words()]
        if len(words) < 2 or not NAME.fullmatch(words[0].text) or words[0].parameters or words[1].text != "in":
            raise LineRefused(_unlike_for(opening))
        if self._next_text() not in {";", "\n"}:
            raise LineRefused(_unlike_for(opening))
        self._pop()
        self._skip_breaks()
        if self._next_text() != "do":
            raise LineRefused(_unlike_for(opening))
        self._pop()
        return For(words[0].text, tuple(words[2:]), self._body(opening))

    def _case(self, opening: Operator) -> Case:
        """`case WORD in PATTERN) STEPS;; ... esac`."""
        words = [*self._plain_words(2)]
        if len(words) < 2 or words[1] != Word("in"):
            raise LineRefused(unlike_case())
        self._skip_breaks()
        choices: list[Choice] = []
        end = ";;"
        while end == ";;" and self._next_text() != "esac":
            patterns = self._patterns()
            steps, end = self.steps(";;", "esac")
            choices.append(Choice(patterns, steps))
            self._skip_breaks()
        if end == ";;" and (self._next_text() != "esac" or self._pop() is None):
            raise LineRefused(_unclosed("esac"))
        return Case(words[0], tuple(choices))

    def _patterns(self) -> tuple[Word, ...]:
        """`PATTERN | PATTERN)`, perhaps after a `(`."""
        if self._next_text() == "(":
            self._pop()
        patterns: list[Word] = []
        while True:
            found = [*self._plain_words()]
            if len(found) != 1 or not _is_pattern(found[0]):
                raise LineRefused(unlike_case())
            patterns += found
            following = self._pop() if self.waiting else None
            if isinstance(following, Operator) and following.text == ")":
                return tuple(patterns)
            if not isinstance(following, Operator) or following.text != "|":
                raise LineRefused(unlike_case())

    def _plain_words(self, most: int | None = None) -> Iterator[Word]:
        count = 0
        while count != most and self.waiting and isinstance(word := self.waiting[-1], Word):
            count += 1
            self._pop()
            yield word

    def _body(self, opening: Operator) -> tuple[Step, ...]:
        """What is between `do` and `done`."""
        self.loops += 1
        steps, _ = self._some_steps(opening, "done")
        self.loops -= 1
        return steps

    def _check_stage(self, stage: Step) -> None:
        """What a builtin changes is forgotten at the end of a pipeline, and so is an assignment."""
        for command in stage.commands:
            if not command.words or command.words[0].text in self.builtins:
                raise LineRefused(_no_effect(command))
        if has_background((stage,)):
            raise LineRefused(in_background())

    def _next_text(self) -> str:
        """The next operator; empty at the end, "word" for anything else."""
        if not self.waiting:
            return ""
        following = self.waiting[-1]
        return following.text if isinstance(following, Operator) else "word"

    def _skip_breaks(self) -> None:
        while self._next_text() == "\n":
            self._pop()

    def _pop_operator(self, texts: frozenset[str], ends: tuple[str, ...]) -> Operator | None:
        """The operator after a step; None at the end."""
        if self._next_text() in (ends or ("",)):
            return None
        operator = self._pop() if self.waiting else None
        if isinstance(operator, Operator) and operator.text in texts:
            return operator
        raise LineRefused(_unclosed(ends[-1]) if operator is None else _unexpected(operator))

    def _command(self) -> Command:
        words: list[Word] = []
        assignments: list[Assignment] = []
        redirects: list[Redirect] = []
        while self.waiting:
            match self.waiting[-1]:
                case Operator(text=text) if text == "|" or text in JOINS or text in CLOSING:
                    break
                case Operator() as operator:
                    self._pop()
                    redirects += self._redirects(operator)
                case Assignment() as assignment:
                    self._pop()
                    assignments.append(assignment)
                case Word() as word:
                    self._pop()
                    words.append(word)
                case Arithmetic():
                    raise LineRefused(_unlike_arithmetic_command())
        if (words or len(assignments) > 1 or redirects) and any(each.items is not None for each in assignments):
            raise LineRefused(_unlike_array())
        if words and words[0].text in self.builtins & OF_FUNCTIONS and not self.functions:
            raise LineRefused(_no_function(words[0].text))
        if words and words[0].text in self.builtins & LEAVING and not self.loops:
            raise LineRefused(_no_loop(words[0].text))
        if words and words[0].text == "[[":
            raise LineRefused(unlike())
        words = _asks_for_program(words)
        if words or (assignments and not redirects):
            return Command(tuple(words), tuple(assignments), tuple(redirects))
        raise LineRefused(self._missing(bool(assignments)))

    def _missing(self, assigned: bool) -> Decision:
        following = self.waiting[-1] if self.waiting else None
        return _incomplete(following) if isinstance(following, Operator) and not assigned else _no_program()

    def _redirects(self, operator: Operator) -> list[Redirect]:
        if operator.text in MERGES:
            return [Redirect(operator.text, 2 if operator.text == "2>&1" else 1)]
        if operator.text == "<<":
            return [Redirect("<<", 0, operator.body or NO_TEXT)]
        if operator.text not in {"<", ">", ">>", "&>", "<<<"}:
            raise LineRefused(_unexpected(operator))
        target = self._pop() if self.waiting else None
        if operator.text == "<<<" and isinstance(target, Word):
            return [Redirect("<<", 0, target.plus(Word("\n")))]
        if not isinstance(target, Word) or not target.text or target.is_glob:
            reason = f"{operator.text} requires the name of a file after it (position {operator.position})."
            hint = "Write for example > out.txt; globs are not accepted here."
            raise LineRefused(Decision.deny("syntax.redirect", reason, hint))
        if operator.text == "&>":
            return [Redirect(">", 1, target), Redirect("2>&1", 2)]
        standard = 0 if operator.text == "<" else 1
        return [Redirect(operator.text, operator.descriptor or standard, target)]


def _set_by(statement: Statement | None) -> tuple[Step, ...]:
    """The step that sets the variable of a statement."""
    if statement is None or statement.value is None:
        return ()
    return (Step("", (Command((), (Assignment(statement.name, _number(statement.value)),)),)),)


def _differs_from_zero(result: Expression) -> Step:
    return Step(";", (Command((Word("["), _number(result), Word("-ne"), Word("0"), Word("]"))),))


def _always() -> Step:
    return Step("", (Command((SUCCEED,)),))


def _number(expression: Expression) -> Word:
    """The word that `$(( ))` with this expression is."""
    return Word(
        ARITHMETIC_NAME, parameters=(Parameter(0, len(ARITHMETIC_NAME), ARITHMETIC_NAME, expression=expression),)
    )


def _background(steps: list[Step], line: str) -> Step:
    """The step that starts these in the background."""
    first, *others = steps
    inner = (replace(first, join=""), *others)
    if any(each.operator == "<<" for command in Script(inner).commands for each in command.redirects):
        raise LineRefused(in_background("A command in the background has no here-document"))
    return Step(first.join, (), Background(inner, line.strip()))


def in_background(
    what: str = "The output of a command in the background is not that of the group around it",
) -> Decision:
    """Why something cannot run in the background."""
    return Decision.deny("syntax.background", f"{what}: it is an execution of its own.", "a > out.txt 2>&1 & b")


def no_background() -> Decision:
    """Why an & is refused where lines start no executions."""
    reason = "Nothing can be started in the background here."
    return Decision.deny("syntax.background", reason, "Leave out the &, and run it as a command of its own.")


def _no_effect(command: Command) -> Decision:
    name = command.words[0].text if command.words else "NAME=value"
    reason = f"{name} has no effect in a pipeline: it lasts only as long as that."
    return Decision.deny("syntax.cd", reason, f"Write it before the pipeline: {name} ... && a | b")


def _unlike_for(opening: Operator) -> Decision:
    reason = f"This is not how a for is written (position {opening.position})."
    return Decision.deny("syntax.loop", reason, "for NAME in WORDS; do COMMANDS; done")


def _is_pattern(word: Word) -> bool:
    try:
        [*parts_of_pattern(replace(word, parameters=()), {})]
    except UnlikePattern:
        return False
    return all(each.quoted for each in word.parameters)


def unlike_case() -> Decision:
    """Why a case is not read."""
    reason = "This is not how a case is written: its patterns are words, with unquoted variables in none of them."
    return Decision.deny("syntax.case", reason, "case $NAME in a|b*) COMMANDS;; *) COMMANDS;; esac")


def _unlike_text(name: str) -> Decision:
    if name == TRAP:
        reason = "The words of trap are a line that is written there, and EXIT."
        return Decision.deny("syntax.trap", reason, "trap 'rm -f x' EXIT")
    reason = "The words of eval must be written in the line, and hold no other eval or trap."
    return Decision.deny("syntax.eval", reason, "eval 'a; b'")


def _unlike_function() -> Decision:
    reason = "This is not how a function is written: its name is a word that is no builtin, its body a group."
    return Decision.deny("syntax.function", reason, 'NAME() { COMMANDS "$1"; }; NAME a')


def _no_function(name: str) -> Decision:
    return Decision.deny("syntax.function", f"{name} is not in a function.", "Use exit, or leave it out.")


def _unlike_array() -> Decision:
    reason = "NAME=(a b) is a command of its own: programs get no arrays."
    return Decision.deny("syntax.array", reason, 'NAME=(a b); echo "${NAME[@]}"')


def _unlike_arithmetic_command() -> Decision:
    return Decision.deny("syntax.group", "(( )) is a command of its own.", "((N++)); echo $((N + 1))")


def _no_loop(name: str) -> Decision:
    return Decision.deny(
        "syntax.loop", f"{name} is not in a loop, or in a ( ) within one.", "Use exit, or leave it out."
    )


def _joined_group() -> Decision:
    reason = "After a group of commands there must be an operator."
    return Decision.deny("syntax.group", reason, "( a; b ) && c")


def _too_deep() -> Decision:
    reason = f"Groups are nested more than {DEPTH_LIMIT} deep."
    return Decision.deny("syntax.group", reason, "Write the commands one after another.")


def _unclosed(end: str) -> Decision:
    return Decision.deny("syntax.group", f"A group is not closed: {end} is missing.", EXAMPLES)


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


def _asks_for_program(words: list[Word]) -> list[Word]:
    match [each.text for each in words[:2]]:
        case ["command", "-v"]:
            return [WHICH, *words[2:]]
        case ["type", _]:
            return [WHICH, *words[1:]]
        case _:
            return words
