"""The builtins: cd, export, unset, set, exit, break, continue, source and `:` change the state of a line, kill, wait and
jobs are about the executions that it has started in the background."""

import re
from collections.abc import Iterable, Mapping
from typing import Protocol

from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision
from backend.core.language.fields import BLANKS
from backend.core.language.lexer import ASSIGNMENT
from backend.core.language.parser import Command
from backend.core.language.words import UNKNOWN, Guess, Word, expand_words, joined
from backend.core.policy.files import FileView, in_temporary, outside
from backend.core.policy.line_state import (
    ENVIRONMENT,
    Activate,
    Await,
    Cancel,
    Define,
    Effect,
    Enter,
    Exit,
    Forget,
    Leave,
    LineState,
    Localize,
    Options,
    Read,
    Return,
    Shift,
    ShowStarted,
    Source,
    normal,
)
from backend.core.policy.profile import NULL_DEVICE, VARIABLE_NAME, Place, Profile

LAST_STATUS = 255
STATUS = re.compile("[0-9]{1,5}")
SETS_VARIABLES = re.compile(r"(?:.*/)?(?:\.env(?:\.[A-Za-z0-9_.-]+)?|[A-Za-z0-9_.-]+\.env)")
ACTIVATES = re.compile(r"(?:(.+)/)?bin/activate")
KILL = "kill"
EXECUTION = re.compile("%[0-9A-HJKMNP-TV-Z%+]*|[0-9A-HJKMNP-TV-Z]{26}")  # how kill and wait name one
EXAMPLES = dict.fromkeys((KILL, "wait", "jobs"), "For example: npm start & sleep 5; kill %1.") | {
    "read": "For example: while read -r LINE; do echo $LINE; done < list.txt."
}
OPTIONS = {"a": "allexport", "e": "errexit", "u": "nounset", "x": "xtrace", "o": "pipefail"}  # of set
SIGNALS = {"1": "HUP", "2": "INT", "3": "QUIT", "9": "KILL", "10": "USR1", "12": "USR2", "15": "TERM"}


class BuiltinTarget(Protocol):
    """What a builtin is judged against."""

    @property
    def profile(self) -> Profile: ...

    @property
    def files(self) -> FileView: ...


@dataclass(frozen=True, slots=True)
class Builtin:
    """A builtin that may run: its arguments with variables expanded, and what it changes."""

    arguments: tuple[str, ...]
    effect: Effect | None


def judge_builtin(
    command: Command, target: BuiltinTarget, place: Place, state: LineState, values: Mapping[str, str]
) -> Builtin | Decision:
    """The verdict on a builtin that is alone in its step. Raises Unset."""
    name, silent = command.words[0].text, _is_silenced(command)
    if name == "read":
        return _read(command, target, values)
    if command.assignments or (command.redirects and not silent):
        return _misused(name, "has no output to redirect, and takes no variables before it")
    if name == "export":
        return _export(command.words[1:], target, state, values)
    if name == "local":
        return _local(command.words[1:], target, state, values)
    arguments = target.files.expand(expand_words(command.words[1:], values), place.cwd)
    if isinstance(arguments, Decision):
        return arguments
    match name:
        case "cd":
            return _cd(arguments, target, place, state, reports=not silent)
        case "source" | ".":
            return _source(name, arguments, target, place)
        case "deactivate":
            return _misused(name, "takes no argument") if arguments else Builtin((), Forget((ENVIRONMENT,)))
        case "exit" | "return":
            return _exit(name, arguments, state)
        case "shift":
            return _shift(arguments, state)
        case "unset":
            return _unset(arguments, target)
        case "set":
            return _set(arguments)
        case "break" | "continue":
            return _misused(name, "takes no argument") if arguments else Builtin((), Leave(again=name == "continue"))
        case "kill":
            return _kill(arguments, reports=not silent)
        case "wait":
            return _wait(arguments)
        case "jobs":
            return _misused(name, "takes no argument") if set(arguments) - {"-l"} else Builtin((), ShowStarted())
        case _:
            return Builtin(arguments, None)


def _read(command: Command, target: BuiltinTarget, values: Mapping[str, str]) -> Builtin | Decision:
    """`read [-r] NAME ...`, with IFS alone before it."""
    separators = BLANKS
    for assignment in command.assignments:
        if assignment.name != "IFS":
            return _misused("read", "takes only IFS before it")
        separators = joined(assignment.value, values)
    arguments = tuple(each.text for each in expand_words(command.words[1:], values))
    raw = arguments[:1] == ("-r",)
    names = arguments[1:] if raw else arguments
    if not names or command.redirects or not all(map(VARIABLE_NAME.fullmatch, names)):
        return _misused("read", "takes -r and names of variables")
    for name in names:
        judged = target.profile.decide_variable(name, UNKNOWN, exported=name in target.files.variables)
        if not judged.allowed:
            return judged
    return Builtin(arguments, Read(names, raw, separators))


def names_execution(words: Iterable[str]) -> bool:
    """Whether kill is about an execution, and not about a process."""
    return any(EXECUTION.fullmatch(word) for word in words)


def _kill(arguments: tuple[str, ...], *, reports: bool) -> Builtin | Decision:
    signal, names = "TERM", arguments
    if arguments[:1] == ("-s",):
        signal, names = arguments[1], arguments[2:]
    elif arguments[0].startswith("-"):
        signal, names = arguments[0][1:], arguments[1:]
    signal = SIGNALS.get(signal, signal.upper().removeprefix("SIG"))
    if signal not in SIGNALS.values() or not all(map(EXECUTION.fullmatch, names)):
        return _misused(KILL, "takes a signal, and % with the number or id of executions")
    return Builtin(arguments, Cancel(names, signal, reports))


def _wait(arguments: tuple[str, ...]) -> Builtin | Decision:
    if not all(map(EXECUTION.fullmatch, arguments)):
        return _misused("wait", "takes % with the number of executions, or $!")
    return Builtin(arguments, Await(arguments))


def _is_silenced(command: Command) -> bool:
    """Whether the output of a builtin is discarded, which is the only place it may go to."""
    files = [each.target.text for each in command.redirects if each.operator in {">", ">>"}]
    others = [each for each in command.redirects if each.operator not in {">", ">>", "2>&1"}]
    return bool(files) and not others and all(name == NULL_DEVICE for name in files)


def _cd(
    arguments: tuple[str, ...], target: BuiltinTarget, place: Place, state: LineState, *, reports: bool
) -> Builtin | Decision:
    folders = arguments[1:] if arguments[:1] == ("--",) else arguments
    if folders == ("-",):
        before = str(state.previous or "")
        if not before or not place.works_in(before):
            return _misused("cd", "goes back only after another cd in the line or its session")
        return target.files.check((before,), place.cwd) or Builtin(arguments, Enter(before, reports, shown=reports))
    if len(folders) > 1 or any(not folder or folder.startswith("-") for folder in folders):
        return _misused("cd", "takes the name of one folder")
    folder = in_temporary(Word(folders[0]), target.files).text if folders else str(place.root)
    if not place.works_in(folder):
        return outside(folder)
    return target.files.check((folder,), place.cwd) or Builtin(arguments, Enter(folder, reports))


def _source(name: str, arguments: tuple[str, ...], target: BuiltinTarget, place: Place) -> Builtin | Decision:
    """A file that sets variables, or activates a virtual environment of the workspace: it is not run, what it would do is done."""
    if len(arguments) == 1 and SETS_VARIABLES.fullmatch(arguments[0]):
        return _source_variables(arguments, target, place)
    found = ACTIVATES.fullmatch(arguments[0]) if len(arguments) == 1 else None
    if found is None:
        why = (
            "it runs a file as commands, unless that sets variables (.env) or activates a virtual environment of Python"
        )
        hint = "source .venv/bin/activate; bash FILE runs a file; NAME=value sets a variable."
        return Decision.deny(f"blocked.{name}", f"{name} is blocked: {why}.", hint)
    folder = normal(place.cwd / (found[1] or "."))
    if not folder.is_relative_to(place.root):
        return outside(arguments[0])
    own = str(folder.relative_to(place.root))
    judged = target.profile.decide_assignment(ENVIRONMENT, own)
    if not judged.allowed:
        return judged
    return target.files.check((str(folder),), place.cwd) or Builtin(arguments, Activate(own))


def _source_variables(arguments: tuple[str, ...], target: BuiltinTarget, place: Place) -> Builtin | Decision:
    (file,) = arguments
    if refusal := target.profile.refuse_token(arguments):
        return refusal
    decided = target.profile.decide_file(file, place)
    if not decided.allowed:
        return decided
    return target.files.check(decided.paths, place.cwd) or Builtin(arguments, Source(file))


def _export(
    words: tuple[Word, ...], target: BuiltinTarget, state: LineState, values: Mapping[str, str]
) -> Builtin | Decision:
    """As in an assignment, the value of `export NAME=value` stays one word."""
    texts = tuple(text for word in words for text in _declared(word, values))
    found: dict[str, str] = {}
    others = False
    for text in texts:
        name, sign, value = text.partition("=")
        if isinstance(text, Guess) and not sign:
            others = True
            continue
        if not VARIABLE_NAME.fullmatch(name):
            return _misused("export", "takes names of variables, or NAME=value")
        judged = target.profile.decide_assignment(name, value if sign else values.get(name, ""))
        if not judged.allowed:
            return judged
        if sign or name in values:
            found[name] = value if sign else values[name]
    if not texts:
        return _misused("export", "takes names of variables, or NAME=value")
    return Builtin(texts, Define(tuple(found.items()), exported=True, others=others))


def _local(
    words: tuple[Word, ...], target: BuiltinTarget, state: LineState, values: Mapping[str, str]
) -> Builtin | Decision:
    """`local NAME=value NAME`: those without a value are empty."""
    texts = tuple(text for word in words for text in _declared(word, values))
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not VARIABLE_NAME.fullmatch(name):
            return _misused("local", "takes names of variables, or NAME=value")
        exported = state.allexport or name in state.exported or name in target.files.variables
        judged = target.profile.decide_variable(name, value, exported=exported)
        if not judged.allowed:
            return judged
        found[name] = value
    return Builtin(texts, Localize(tuple(found.items()))) if found else _misused("local", "takes names of variables")


def _shift(arguments: tuple[str, ...], state: LineState) -> Builtin | Decision:
    count = arguments[0] if arguments else "1"
    if len(arguments) > 1 or not count.isdecimal() or not count.isascii() or len(count) > 4:
        return _misused("shift", "takes a number")
    return Builtin(arguments, Shift(int(count)))


def _declared(word: Word, values: Mapping[str, str]) -> tuple[str, ...]:
    """What a word declares: NAME=value stays one word, anything else is split as for a program."""
    written = ASSIGNMENT.match(word.text)
    starts = min((each.start for each in word.parameters), default=len(word.text))
    if written and written.end() <= starts:
        return (joined(word, values),)
    text = joined(word, values)
    return (text,) if isinstance(text, Guess) else tuple(each.text for each in expand_words((word,), values))


def _unset(arguments: tuple[str, ...], target: BuiltinTarget) -> Builtin | Decision:
    names = arguments[1:] if arguments[:1] == ("-v",) else arguments
    if not names or not all(VARIABLE_NAME.fullmatch(name) for name in names):
        return _misused("unset", "takes names of variables")
    for name in names:
        judged = target.profile.decide_variable(name, "", exported=name in target.files.variables)
        if not judged.allowed:
            return judged
    return Builtin(arguments, Forget(names))


def _exit(name: str, arguments: tuple[str, ...], state: LineState) -> Builtin | Decision:
    """`exit` and `return`, with the status of what ran last where none is given."""
    given = arguments or (str(state.status),)
    if len(given) > 1 or not STATUS.fullmatch(given[0]) or int(given[0]) > LAST_STATUS:
        return _misused(name, f"takes a number up to {LAST_STATUS}")
    return Builtin(arguments, Exit(int(given[0])) if name == "exit" else Return(int(given[0])))


def _set(arguments: tuple[str, ...]) -> Builtin | Decision:
    """`set -e`, `-u`, `-x` and `-o pipefail`, also as `set -euxo pipefail`."""
    given: dict[str, bool] = {}
    words = iter(arguments)
    for word in words:
        if word[:1] not in {"-", "+"} or not word[1:] or set(word[1:]) - set(OPTIONS):
            return _unset_option()
        if "o" in word and next(words, "") != "pipefail":
            return _unset_option()
        given |= dict.fromkeys((OPTIONS[letter] for letter in word[1:]), word.startswith("-"))
    return Builtin(arguments, Options(**given)) if arguments else _unset_option()


def _unset_option() -> Decision:
    return _misused("set", "takes -a, -e, -u, -x and -o pipefail")


def _misused(name: str, what: str) -> Decision:
    rule = "syntax.cd" if name == "cd" else "syntax.builtin"
    return Decision.deny(
        rule, f"{name} {what} here.", EXAMPLES.get(name, "For example: cd DIR && ls, export CI=1, set -e, exit 1.")
    )
