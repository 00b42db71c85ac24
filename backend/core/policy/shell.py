"""The judge of lines that bash itself runs: their programs are named, and refused where the profile blocks them.

Everything that the text of a line names is judged: also what is in substitutions, functions and texts for `eval`, `trap`
and `bash -c`, and what a program of the profile starts with its own arguments. A name that is only known when the line
runs is given the risk that the profile states for it. What may happen is bounded by the room that the line runs in, not
by this list.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import field
from itertools import chain
from pathlib import PurePosixPath

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision, Risk
from backend.core.language.bash import ShellCommand, ShellWord, parse_bash
from backend.core.language.lexer import Word
from backend.core.policy.profile import Place, Profile
from backend.core.policy.program_rules import (
    PLACEHOLDER,
    Argument,
    ArgumentError,
    ArgumentParse,
    ArgumentRole,
    Program,
    StartedProgram,
)
from backend.core.policy.sed_awk import ScriptError, check_awk, check_sed

STATE = "GATEPOST_STATE"  # the variable with the number of the descriptor that takes what a line leaves
# Writes the folder and the exported variables when bash ends, with a NUL after each.
LEAVE = f"""trap '{{ builtin printf "%s\\0" "${{PWD-}}"; /usr/bin/env -0; }} 2>/dev/null >&"${{{STATE}-}}" || :' EXIT"""
# Variables of one line alone: the shell's own, those of Gatepost, and those that run what no line names.
NOT_KEPT = re.compile("PWD|OLDPWD|SHLVL|_|GATEPOST_.*|BASH.*|SHELLOPTS|ENV|PS4|PROMPT_COMMAND|LD_.*")
RISKS = list(Risk)
NAMED = 10  # programs in the reason
DEPTH_LIMIT = 8  # texts within texts, and programs that start programs
TEXT_LIMIT = 100  # texts of a line that are run as lines: each is parsed by itself
SYSTEM_FOLDERS = ("/bin/", "/usr/bin/", "/usr/local/bin/")
IN_FOLDER = re.compile(r"(\"?)\$(?:PWD|\{PWD\})\1/*")  # the folder that a line is in, as it is named without cd
SHELL_FILES = frozenset({"--init-file", "--rcfile"})
SHELLS = frozenset({"ash", "bash", "dash", "ksh", "rbash", "sh", "zsh"})
FOLDER_CHANGES = frozenset({"cd", "popd", "pushd"})
# What only changes the shell itself.
BUILTINS = frozenset(
    [
        ":",
        "[",
        "bg",
        "break",
        "caller",
        "cd",
        "continue",
        "declare",
        "dirs",
        "disown",
        "echo",
        "exit",
        "export",
        "false",
        "fg",
        "getopts",
        "help",
        "jobs",
        "let",
        "local",
        "logout",
        "mapfile",
        "popd",
        "printf",
        "pushd",
        "pwd",
        "read",
        "readarray",
        "readonly",
        "return",
        "set",
        "shift",
        "suspend",
        "test",
        "times",
        "true",
        "type",
        "typeset",
        "ulimit",
        "umask",
        "unalias",
        "unset",
        "wait",
    ]
)
# What makes other names of programs mean something else, or runs text of its own making.
RENAMING = frozenset({"alias", "bind", "compgen", "complete", "compopt", "enable", "fc", "hash", "history", "shopt"})
READS_FILE = frozenset({".", "source"})
# Variables that decide which program a name means, or what a shell reads before it begins.
REPLACING = re.compile(
    "PATH|BASH_(ENV|CMDS|ALIASES|FUNC.*)|BASHOPTS|SHELLOPTS|ENV|LD_.*|LESS(OPEN|CLOSE)|PROMPT_COMMAND|PS[0-4]"
)
# Variables with the command that other programs start.
STARTING = re.compile(
    "(GIT_|GIT_SEQUENCE_)?EDITOR|(GIT_|MAN)?PAGER|(GIT|SSH)_ASKPASS|GIT_(EXTERNAL_DIFF|PROXY_COMMAND|SSH|SSH_COMMAND)"
    "|BROWSER|VISUAL"
)
ASSIGNS = frozenset({"declare", "env", "export", "local", "readonly", "typeset"})  # by their arguments
ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_%]*)(?:\[.*\])?\+?=(.*)", re.S)
SETS = frozenset({"declare", "getopts", "local", "mapfile", "printf", "read", "readarray", "typeset"})  # what they name
# Options of `set` that make bash read the line as it reads what is typed.
TYPED = re.compile("-[A-Za-z]*[HK][A-Za-z]*|history|histexpand|keyword")


def run_by_bash(line: str) -> tuple[str, ...]:
    """The arguments with which bash runs a line, and reports what it leaves. Its first line stays the first."""
    return ("bash", "--norc", "--noprofile", "-c", f"{LEAVE};{line}")


@dataclass(frozen=True, slots=True)
class ShellVerdict:
    """The decision on a line that may run, and all commands that it names, with unknown words as they are written."""

    decision: Decision
    argvs: tuple[tuple[str, ...], ...]


def judge_bash(
    line: str, profile: Profile, place: Place, exported: Iterable[tuple[str, str]] = ()
) -> ShellVerdict | Decision:
    """The verdict on a line of bash, which gets these variables."""
    if not profile.has_rooms:
        reason = f"The profile {profile.name} runs lines by a shell, which requires rooms (protection L3)."
        hint = "The operator enables GATEPOST_NAMESPACES, or an administrator gives the project another profile."
        return Decision.deny("protection.rooms", reason, hint)
    judge = _Judge(profile, place)
    if any(REPLACING.fullmatch(name) for name, _ in exported):
        judge.add_dynamic()
    if refusal := judge.text(line, 0):
        return refusal
    unknown = ", and what is only known when it runs" if judge.is_dynamic else ""
    names = list(dict.fromkeys(argv[0] for argv in judge.argvs))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    reason = f"Run by bash: {', '.join(names[:NAMED]) or 'no program'}{more}{unknown}"
    return ShellVerdict(Decision(True, "allow.bash", judge.risk, reason), tuple(judge.argvs) or (("bash",),))


@dataclass(slots=True)
class _Judge:
    profile: Profile
    place: Place
    argvs: list[tuple[str, ...]] = field(default_factory=list)
    risk: Risk = Risk.SAFE
    words: int = 0
    texts: int = 0
    is_dynamic: bool = False

    def text(self, line: str, depth: int) -> Decision | None:
        """Why a line, or a text that is run as one, is refused."""
        self.texts += 1
        if self.texts > TEXT_LIMIT:
            reason = f"The line has more than {TEXT_LIMIT} texts that are run as lines."
            return Decision.deny("limits.expansion", reason, "Put them into a script of the project.")
        text = parse_bash(line)
        if isinstance(text, Decision):
            return text
        if text.evaluates:
            self.add_dynamic()
        commands = (self._command(command, depth) for command in text.commands)
        refusals = (self._assign(name, value, depth) for name, value in text.assigned)
        return next(filter(None, chain(commands, refusals)), None)

    def _assign(self, name: str, value: ShellWord | None, depth: int) -> Decision | None:
        """Judge a variable that other programs are started through: by its text, or by what the name of a program means."""
        if REPLACING.fullmatch(name):
            self.add_dynamic()
        elif STARTING.fullmatch(name):
            return self.run_text((value,), depth + 1) if value else None
        return None

    def _command(self, command: ShellCommand, depth: int) -> Decision | None:
        """Judge one command, and what it starts."""
        self.words += len(command)
        if refusal := self.profile.check_count(self.words):
            return refusal
        self.argvs.append(tuple(word.shown for word in command))
        for word in command:
            if word.text is not None and (refusal := self.profile.refuse_token((word.text,))):
                return refusal
        written = command[0].known
        if written is None or written.startswith("-") or any(map(str.isspace, written)):
            self.add_dynamic()
            return None
        name = PurePosixPath(written).name if "/" in written else written
        if refusal := self.profile.refuse_blocked(name):
            return refusal
        if depth == DEPTH_LIMIT:
            reason = f"Programs and texts that start others are nested more than {DEPTH_LIMIT} deep."
            return Decision.deny("limits.expansion", reason, "Put them into a script of the project.")
        if "/" in written and not written.startswith(SYSTEM_FOLDERS):
            self.raise_risk(self.profile.unlisted)
            return None
        return self._named(name, command[1:], depth + 1)

    def _set(self, name: str, words: ShellCommand, depth: int) -> Decision | None:
        """Judge the variables that a command sets by its arguments."""
        texts = [word.known or "" for word in words]
        if name == "set" and any(map(TYPED.fullmatch, texts)):
            self.add_dynamic()
        if name in SETS and any(
            REPLACING.fullmatch(text) or re.fullmatch("-[A-Za-z]*n[A-Za-z]*", text) for text in texts
        ):
            self.add_dynamic()
        found = filter(None, map(ASSIGNMENT.fullmatch, texts if name in ASSIGNS else ()))
        return next(filter(None, (self._assign(each[1], ShellWord(each[2], each[2]), depth) for each in found)), None)

    def _named(self, name: str, words: ShellCommand, depth: int) -> Decision | None:
        if refusal := self._set(name, words, depth):
            return refusal
        if runs := RUNNING.get(name):
            return runs(self, words, depth)
        if name in SHELLS:
            return _shell(self, words, depth)
        if name in RENAMING or name in READS_FILE:
            self.add_dynamic()
        elif name in FOLDER_CHANGES:  # where it leads is not known: nothing after it is the workspace itself
            self.place = replace(self.place, cwd=self.place.root / PLACEHOLDER)
        elif program := self.profile.programs.get(name):
            return self._program(program, words, depth)
        elif name not in BUILTINS:
            self.raise_risk(self.profile.unlisted)
        return None

    def _program(self, program: Program, words: ShellCommand, depth: int) -> Decision | None:
        """A program whose arguments the profile knows: these only raise the risk, unless they empty the workspace."""
        texts = tuple(map(self._text, words))
        if refusal := self._refuse_emptying((program.name, *texts), words):
            return refusal
        parse = ArgumentParse()
        try:
            if not all(map(_is_plain_script, parse.arguments(program, iter(texts)))):
                self.raise_risk(self.profile.unlisted)
        except ArgumentError:
            self.raise_risk(max(program.risk, self.profile.unlisted, key=RISKS.index))
            if _starts_others(program):
                self.add_dynamic()
            return None
        for use in parse.uses:
            self.raise_risk(use.risk)
        refusals = (self._command(_started(each), depth) for each in parse.started)
        return next(filter(None, refusals), None)

    def _text(self, word: ShellWord) -> str:
        if word.text is None and IN_FOLDER.fullmatch(word.source):
            return str(self.place.cwd)
        return PLACEHOLDER if word.text is None else word.text

    def _refuse_emptying(self, argv: tuple[str, ...], words: ShellCommand) -> Decision | None:
        """Refuse what would delete the workspace itself, or everything in it."""
        typed = (Word(argv[0]), *(Word(text, _globs(word)) for text, word in zip(argv[1:], words, strict=True)))
        decision = self.profile.decide_globs(typed, self.place) or self.profile.decide(argv, self.place)
        return decision if decision.rule == "path.root" else None

    def add_dynamic(self) -> None:
        """A name that is only known when the line runs."""
        self.is_dynamic = True
        self.raise_risk(self.profile.dynamic)

    def raise_risk(self, risk: Risk) -> None:
        """The risk of the line is at least this one."""
        self.risk = max(self.risk, risk, key=RISKS.index)

    def run(self, words: ShellCommand, depth: int) -> Decision | None:
        """Judge the command that these words are, if there are any."""
        return self._command(words, depth) if words else None

    def run_text(self, words: ShellCommand, depth: int) -> Decision | None:
        """Judge the line that these words make."""
        texts = [word.known for word in words]
        if None in texts:
            self.add_dynamic()
            return None
        return self.text(" ".join(text or "" for text in texts), depth)


_Runs = Callable[[_Judge, ShellCommand, int], Decision | None]


def _prefixed(valued: str = "", asks: str = "") -> _Runs:
    """A builtin that runs the command after its options: those in `valued` take a word, with those in `asks` none is run."""

    def runs(judge: _Judge, words: ShellCommand, depth: int) -> Decision | None:
        while words and (option := words[0].known or "").startswith("-") and option != "--":
            if set(option) & set(asks):
                return None
            words = words[2:] if option[-1] in valued else words[1:]
        return judge.run(words[1:] if words and words[0].known == "--" else words, depth)

    return runs


def _mapfile(judge: _Judge, words: ShellCommand, depth: int) -> Decision | None:
    """The text after the option -C is run for each part that is read."""
    for number, word in enumerate(words):
        if (option := word.known or "").startswith("-") and "C" in option:
            attached = option.partition("C")[2]
            return judge.run_text((ShellWord(attached, attached),) if attached else words[number + 1 :][:1], depth)
    return None


def _coproc(judge: _Judge, words: ShellCommand, depth: int) -> Decision | None:
    judge.add_dynamic()  # its first word can be a name
    return judge.run(words, depth)


def _trap(judge: _Judge, words: ShellCommand, depth: int) -> Decision | None:
    given = words[1:] if words and words[0].known == "--" else words
    return judge.run_text(given[:1], depth) if len(given) > 1 and given[0].known != "-" else None


def _shell(judge: _Judge, words: ShellCommand, depth: int) -> Decision | None:
    """A shell within the shell: its text is judged; what it reads as its input is not known."""
    runs_text = False
    while words and (option := words[0].known or "") and option[0] in "-+":
        runs_text = runs_text or (not option.startswith("--") and "c" in option)
        valued = option in SHELL_FILES or (not option.startswith("--") and option[-1] in "oO")
        if option in SHELL_FILES or set(option) & set("il"):
            judge.add_dynamic()
        words = words[2:] if valued else words[1:]
    if not words or not words[0].known:
        judge.add_dynamic()
    elif runs_text:
        return judge.run_text(words[:1], depth)
    else:
        judge.raise_risk(judge.profile.unlisted)  # a script
    return None


RUNNING: Mapping[str, _Runs] = {
    "!": _prefixed(),
    "builtin": _prefixed(),
    "command": _prefixed(asks="vV"),
    "coproc": _coproc,
    "eval": _Judge.run_text,
    "exec": _prefixed("a"),
    "mapfile": _mapfile,
    "readarray": _mapfile,
    "time": _prefixed("fo"),
    "trap": _trap,
}


def _is_plain_script(argument: Argument) -> bool:
    """Whether it is no script of sed or awk that does more than the profile permits: it may start programs."""
    try:
        match argument.role:
            case ArgumentRole.SED:
                check_sed(argument.text)
            case ArgumentRole.AWK:
                check_awk(argument.text)
    except ScriptError:
        return False
    return True


def _starts_others(program: Program) -> bool:
    kinds = (program.operands, program.first, *(option.kind for option in program.options.values()))
    return any(kind is not None and kind.role is ArgumentRole.RUN for kind in kinds)


def _started(started: StartedProgram) -> ShellCommand:
    """The words of a program that another one starts; what that replaces in them is not known."""
    name = started.argv[0]
    texts = (PLACEHOLDER if started.replaced and started.replaced in name else name, *started.words)
    pairs = zip(started.argv, texts, strict=True)
    return tuple(ShellWord(written, None if PLACEHOLDER in text else text) for written, text in pairs)


def _globs(word: ShellWord) -> frozenset[int]:
    """The places of its characters that are patterns; all, since they are only compared with `*` and `?`."""
    return frozenset(range(len(word.text or ""))) if word.is_glob else frozenset()
