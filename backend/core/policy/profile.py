"""Policy as a value: which programs a profile allows, with which options, on which paths.

A `Profile` is parsed from TOML once; its verdicts are pure functions of tokens. What is not listed is refused: programs,
options, abbreviated options. The keys of a profile:

    extends                       the name of a shipped profile: what is given here replaces what that has, except that
                                  programs, kinds and extra programs are added to its own, also where it blocks them
    name, summary                 words for `help`
    operators                     what a line may hold, a subset of | && || ; & > >> < 2>&1 &> << ( $ $( {,} for cd; with ; also
                                  line breaks, with 2>&1 also >&2, with << also <<<, with ( also { } and !, with $ variables, with {,} the
                                  expansion of braces, with for also if, while and until, with cd also export, unset,
                                  set, exit, break, continue, : and source of the file that
                                  activates a virtual environment
    environment                   variables that `NAME=value command` may set
    pipefail = true               a pipeline fails if any of its programs does, not only the last; SIGPIPE is no failure
    quirks                        quirks of all programs, see below
    shell = "bash"                the whole line is run by bash, in a room; of the programs here only the risk is used, and
                                  any other may run that is not blocked
    [risks]                       with a shell: of a program that is not listed (unlisted), and of one whose name is only
                                  known when the line runs (dynamic)
    [limits]                      characters (of the line), arguments (typed words, including the program), steps (that a line
                                  runs, each round of a loop counted; 1000 where it is not given)
    [kinds]                       NAME = a regular expression that all of the value must match, or
                                  {pattern, role}, where the role is one of the built-in kinds: text, path,
                                  target (a file that is written: none of git's own), folder (what other paths may
                                  be relative to), link (what a link leads to, or its name), guess (a path if it looks like one out of the workspace), sed, awk,
                                  run (a program, judged by the same rules, with all words after it), line (a line for a
                                  shell, of plain commands that are judged by the same rules)
    scripts = RISK                programs of the workspace may run by their path (./build.sh), with this risk
    [programs.NAME]               summary, usage, risk, network = true (only where the network is on)
      loopback                    although it is: in a room, whose loopback is its own, for a server there
      arguments                   "listed" (the default), "any"
      flags                       options without a value
      values                      {option = kind}; "kind?" where the value may be omitted
      optional                    long options whose value is text and may be omitted
      refused                     {option = reason}: a better refusal than "not listed"
      operands, first, unless     the kind of the operands; of the first, unless one of these options is given
      quirks                      where it does not parse options as getopt_long does, see program_rules.Quirk
      shapes                      instead of all these: patterns for all arguments, separated by one blank
      requires                    {option = [options]}: one of which must be given too; "" is the program itself,
                                  "operand" is any operand
      moderate, online            options that raise the risk; options that need the network
      watches                     options that watch files, where tools do not poll instead: they need a room
      ends                        options after which everything is an operand
      takes_appended              xargs may add words to it, whatever they are
      alone                       other programs may not start it
      from_input                  without arguments it runs the text of a here-document, as with the operand -
      spares_root                 the workspace itself is not a permitted argument
      spares_null                 /dev/null is not a permitted argument
      in_rooms                    it can do nothing without a room, and is not offered there
      empties, narrows            options with which it deletes what it finds; those of which one must be given too where
                                  it starts at the workspace itself
      subcommands.NAME            the same keys, without a summary; several names may share one table ("ci install");
                                  with `shared = true` the options of the program are options of these too
      like                        instead of all these: the name of a program above that has the same rules
    [extra.NAME]                  the same keys: a program for those projects that name it in `allowed_extra`; one that
                                  has no rules here gets any arguments, and its risk is moderate
    [blocked.programs]            NAME = reason (a better refusal than "not listed")
    [[blocked.arguments]]         rule, pattern (a regular expression on one token), reason, hint
"""

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any, Self

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision, Risk
from backend.core.language.lexer import Word
from backend.core.policy.files import folder_of, outside
from backend.core.policy.line_state import normal
from backend.core.policy.profile_file import PROGRAM_NAME, ProfileError, Table, read_programs, read_toml
from backend.core.policy.program_rules import (
    PLACEHOLDER,
    Argument,
    ArgumentError,
    ArgumentParse,
    ArgumentRole,
    Program,
    ProgramUse,
    Quirk,
    StartedProgram,
    ValueKind,
    linked_files,
)
from backend.core.policy.sed_awk import ScriptError, check_awk, check_sed

__all__ = ["MissingVariables", "Place", "Profile", "ProfileError"]

OPERATORS = frozenset(
    {"|", "&&", "||", ";", "&", ">", ">>", "<", "2>&1", "&>", "<<", "(", "$", "$(", "{,}", "for", "cd"}
)

# Variables that make a program load code, start another program or search elsewhere for its files.
DANGEROUS_VARIABLE = re.compile(
    "(?i:LD_.*|DYLD_.*|GIT_.*|PYTHON(?!DONTWRITEBYTECODE$|UNBUFFERED$).*|PERL.*|RUBY.*|NPM_CONFIG_.*|YARN_.*|BASH.*|GCONV_PATH|NODE_(?!ENV$).*)"
    "|PATH|ENV|IFS|HOME|SHELL|SHELLOPTS|PS4|EDITOR|VISUAL|PAGER|BROWSER|LESS.*|TMPDIR|TAR_OPTIONS|TAPE|GREP_.*|UNZIP|ZIP.*"
    "|POSIXLY_CORRECT|.*_PROXY|.*_proxy|XDG_.*|LOCPATH|NLSPATH|TERMINFO.*|AWK.*|GAWK.*|CURL_.*|WGET.*|SSL_.*|SSH_.*"
)
# These make a program load files of the workspace, which is no news where its own programs run anyway (`scripts`).
LOADS_OWN_CODE = frozenset({"PYTHONPATH"})
VARIABLE_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
# Several of the harmless variables name a file when their value is a path.
VARIABLE_VALUE = re.compile(r"(?!.*\.\.)(?::?[A-Za-z0-9_+*@,.=-][A-Za-z0-9_+*@,.:=/ -]*)?")

# Variables that change what a shell does with a line.
SHELL_VARIABLES = frozenset({"CDPATH", "ENV", "HOME", "IFS", "OLDPWD", "OPTIND", "PATH", "PWD"})

# In the expressions of find.
ALTERNATIVES = frozenset({"-o", "-or", ","})
NEGATIONS = {("!",), ("-not",)}
MATCHES_ALL = re.compile(r"[*?./]+|\.[*+]|\+0[a-zA-Z]?")
ASKS_FOR_HELP = frozenset({"-h", "--help", "--version"})
OF_PROJECT = "A program of the project"
LOOPBACK = re.compile(r"(https?://)?(localhost|127\.0\.0\.1)(:[0-9]+)?([/?].*)?", re.S)
STEPS = 1000  # that a line may run, unless its profile gives a number
STARTED_LIMIT = 3  # programs that start programs that start programs
CAN_PERMIT = "An administrator can permit it in a profile (GATEPOST_PROFILES)."
NULL_DEVICE = "/dev/null"
# Files that describe the machine, and a device that holds nothing, which every command may read.
OPEN_FILES = frozenset(
    {
        "/dev/urandom",
        "/etc/os-release",
        "/proc/cpuinfo",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/uptime",
        "/proc/version",
    }
)
SCRIPT = ValueKind("program of the project", ArgumentRole.TARGET)
DEVICES = PurePosixPath("/dev")
GIT_SETTINGS = re.compile(r"(?i)(\.gitconfig|\.config/git(/|$))")


@dataclass(frozen=True, slots=True)
class Offline:
    """What is said where there is no network: `reason` goes on after the name of the program, `hint` is who can change that."""

    rule: str
    reason: str
    hint: str

    def refusal(self, program: Program) -> Decision:
        return Decision.deny(
            self.rule, f"{program.name} reaches the network, {self.reason}.", self.hint, risk=Risk.HIGH
        )


OFFLINE = Offline(
    "network.off",
    "which is off here",
    "Use what is already in the workspace, or a project whose network an administrator turns on.",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command would run: the workspace that confines it and the folder in it, both absolute, and whether the network
    is on. It may name the files of a `home` too."""

    root: PurePosixPath
    cwd: PurePosixPath
    network: bool = False
    offline: Offline = OFFLINE
    home: PurePosixPath | None = None

    def holds(self, path: str) -> bool:
        """Whether `path`, relative to `cwd`, stays in the workspace or the home as far as its text shows."""
        return self.inside(path) is not None

    def inside(self, path: str) -> PurePosixPath | None:
        """The path relative to the workspace, or to the home; None where it is in neither."""
        full = normal(self.cwd / path)
        folder = folder_of(full, self.root, self.home or self.root)
        return full.relative_to(folder) if full.is_relative_to(folder) else None

    def works_in(self, folder: str) -> bool:
        """Whether a folder is in the workspace, where lines run: the home is not a place to work in."""
        return normal(self.cwd / folder).is_relative_to(self.root)

    def is_root(self, path: str) -> bool:
        """Whether `path` is the workspace or the home itself, a folder above it, or the root of the file system."""
        full = normal(self.cwd / path)
        return len(full.parts) == 1 or any(each.is_relative_to(full) for each in (self.root, self.home) if each)


@dataclass(frozen=True, slots=True)
class BlockedArgument:
    """A token that is refused for every program."""

    rule: str
    pattern: re.Pattern[str]
    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class MissingVariables:
    """Variables that a program needs and the service does not have. Without `subcommands` every use of it needs them."""

    names: tuple[str, ...]
    subcommands: tuple[str, ...] = ()

    def refusal(self, argv: tuple[str, ...]) -> Decision | None:
        """Refuse a command that needs them; none that only asks for help does."""
        words = set(takewhile(lambda word: word != "--", argv[1:]))
        if words & ASKS_FOR_HELP or (self.subcommands and words.isdisjoint(self.subcommands)):
            return None
        variables = " and ".join(self.names)
        reason = f"{argv[0]} needs {variables}, which the server does not have."
        hint = f"The operator sets {variables} in the environment of the service, or in its .env file, and restarts it."
        return Decision.deny("program.key", reason, hint)


@dataclass(frozen=True, slots=True)
class Profile:
    """What one kind of principal may run. A profile without programs allows nothing."""

    name: str
    summary: str
    max_characters: int
    max_arguments: int
    max_steps: int
    programs: Mapping[str, Program]
    blocked_programs: Mapping[str, str]
    blocked_arguments: tuple[BlockedArgument, ...]
    operators: frozenset[str] = frozenset()
    environment: frozenset[str] = frozenset()
    pipefail: bool = False
    extra: Mapping[str, Program] = field(default_factory=dict)
    scripts: Risk = Risk.BLOCKED
    shell: str = ""
    unlisted: Risk = Risk.BLOCKED
    dynamic: Risk = Risk.BLOCKED
    has_rooms: bool = False
    only_in_rooms: Mapping[str, Program] = field(default_factory=dict)
    has_background: bool = True
    hash: str = ""
    missing: Mapping[str, MissingVariables] = field(default_factory=dict)

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Parse a profile; raises ProfileError for anything that is missing, unknown or of the wrong type."""
        return cls.from_tables(read_toml(text), text)

    @classmethod
    def from_tables(cls, tables: dict[str, Any], text: str) -> Self:
        """The same from a file that was read; `text` is all that it was made of."""
        try:
            profile = cls._from_table(Table("profile", tables))
        except re.error as error:
            raise ProfileError(str(error)) from error
        return replace(profile, hash=hashlib.sha256(text.encode()).hexdigest())

    @classmethod
    def _from_table(cls, table: Table) -> Self:
        limits, blocked = table.table("limits"), table.table("blocked")
        programs, extra = read_programs(table)
        shell = _shell(table)
        risks = table.table("risks")
        scripts = table.choice("scripts", Risk, Risk.BLOCKED)
        profile = cls(
            name=table.text("name"),
            summary=table.text("summary"),
            max_characters=limits.number("characters"),
            max_arguments=limits.number("arguments"),
            max_steps=limits.number("steps", STEPS),
            programs={name: program for name, program in programs.items() if not program.in_rooms},
            only_in_rooms={name: program for name, program in programs.items() if program.in_rooms},
            extra=extra,
            scripts=scripts,
            shell=shell,
            unlisted=risks.choice("unlisted", Risk, None) if shell else Risk.BLOCKED,
            dynamic=risks.choice("dynamic", Risk, None) if shell else Risk.BLOCKED,
            blocked_programs=blocked.table("programs").texts(),
            blocked_arguments=tuple(map(_blocked_argument, blocked.tables_of("arguments"))),
            operators=_operators(table),
            environment=_environment(table, scripts),
            pipefail=table.truth("pipefail"),
        )
        for part in (table, limits, blocked, risks):
            part.end()
        return profile

    def with_extra(self, names: Iterable[str]) -> Self:
        """This profile with additional programs of a project, by the rules that it has for them. Raises ProfileError."""
        added = {}
        for name in names:
            if name in self.blocked_programs:
                raise ProfileError(
                    f"{name} is blocked: {self.blocked_programs[name]}; a profile of your own can list it"
                )
            if not PROGRAM_NAME.fullmatch(name):
                raise ProfileError(f"{name!r} is not the plain name of a program")
            added[name] = self.extra.get(name) or Program(name, OF_PROJECT, risk=Risk.MODERATE, any_arguments=True)
        return replace(self, programs={**added, **self.programs})

    def without(self, missing: Mapping[str, MissingVariables]) -> Self:
        """This profile on a server that lacks variables that programs need."""
        return replace(self, missing=missing)

    def without_background(self) -> Self:
        """This profile where lines start no executions of their own."""
        return replace(self, has_background=False)

    def in_rooms(self) -> Self:
        """This profile on a server whose commands run in rooms."""
        return replace(self, has_rooms=True, programs={**self.only_in_rooms, **self.programs})

    @property
    def allowed(self) -> str:
        """The programs of this profile as a sentence."""
        if self.shell:
            return "Any installed program may run here that is not blocked."
        return f"Allowed here: {', '.join(sorted(self.programs))}." if self.programs else "Nothing is allowed here."

    def check_length(self, line: str) -> Decision | None:
        """Refuse a line that is too long."""
        if len(line) <= self.max_characters:
            return None
        return Decision.deny(
            "limits.characters",
            f"The line has {len(line)} characters; at most {self.max_characters} are allowed.",
            "Put long text into a file in the workspace.",
        )

    def check_count(self, words: int) -> Decision | None:
        """Refuse a line without words, or with more than the profile allows."""
        if words == 0:
            return Decision.deny("command.empty", "There is no command.", self.allowed, risk=Risk.SAFE)
        if words <= self.max_arguments:
            return None
        return Decision.deny(
            "limits.arguments",
            f"The command has {words} words; at most {self.max_arguments} are allowed.",
            "Split it into several commands.",
        )

    def decide(self, argv: tuple[str, ...], place: Place) -> Decision:
        """The verdict on one command. `argv` contains at least the program."""
        return self._decide_started(StartedProgram(argv), place, 0)

    def _decide_started(self, started: StartedProgram, place: Place, depth: int) -> Decision:
        argv = started.argv
        decision = self._decide(started, place, depth)
        missing = self.missing.get(argv[0])
        return (missing.refusal(argv) if missing and decision.allowed else None) or decision

    def _decide(self, started: StartedProgram, place: Place, depth: int) -> Decision:
        name, words = started.argv[0], started.words
        program = self.programs.get(name) or self._script(name, depth)
        if refusal := (None if program else self._refuse_name(name)) or self.refuse_token(words):
            return refusal
        if program is None or (program.alone and depth):
            return Decision.deny(f"blocked.{name}", f"{name} is not started by other programs here.", self.allowed)
        if program.loopback and self.has_rooms and any(map(LOOPBACK.fullmatch, words)):
            place = replace(place, network=True)  # whatever else it names: nothing leads out of the room
        if program.network and not place.network:
            return place.offline.refusal(program)
        parse, arguments = ArgumentParse(), []
        if program.operands is SCRIPT:
            if refusal := _refuse_written(name, place):
                return refusal
            arguments.append(Argument(name, ArgumentRole.PATH))
        try:
            for argument in _arguments(parse, program, words):
                if refusal := _refuse_path(parse.uses[-1].program, argument, place):
                    return refusal
                arguments.append(argument)
            if started.open_ended:
                parse.check_open_end()
            _check_guard(started, parse.uses[-1].program)
            refusal = self._refuse_uses(parse.uses, place) or _refuse_emptying(
                parse, words, arguments, self.programs, place
            )
            decision = refusal or _allow(program, parse, arguments, place)
        except ArgumentError as error:
            return Decision.deny(error.rule, error.reason, error.hint, risk=Risk.HIGH)
        except ScriptError as error:
            return Decision.deny("option.script", f"In the script: {error}.", program.usage, risk=Risk.HIGH)
        return self._with_started(decision, parse, place, depth) if decision.allowed else decision

    def _refuse_uses(self, uses: list[ProgramUse], place: Place) -> Decision | None:
        for use in uses:
            if use.is_online and not place.network:
                return place.offline.refusal(use.program)
            if use.watches and not self.has_rooms:
                return _no_watches(use.program)
            use.check()
        return None

    def _script(self, name: str, depth: int) -> Program | None:
        """A program of the workspace, named by its path."""
        if "/" not in name or depth or self.scripts is Risk.BLOCKED:
            return None
        return Program(name, OF_PROJECT, risk=self.scripts, any_arguments=True, operands=SCRIPT)

    def _with_started(self, decision: Decision, parse: ArgumentParse, place: Place, depth: int) -> Decision:
        """The verdict on a command together with those on the programs that it starts."""
        for name, value in parse.assigned:
            judged = self.decide_assignment(name, value)
            if not judged.allowed:
                return judged
        for started in parse.started:
            if depth == STARTED_LIMIT:
                reason = f"Programs that start programs are nested more than {STARTED_LIMIT} deep."
                return Decision.deny("option.value", reason, "Start the program itself.", risk=Risk.HIGH)
            inner = self._decide_started(started, place, depth + 1)
            if not inner.allowed:
                return inner
            is_unknown = started.open_ended or any(PLACEHOLDER in word for word in started.words)
            wipes = is_unknown and self.programs[started.argv[0]].spares_root
            risk = max(decision.risk, Risk.HIGH if wipes else inner.risk, key=list(Risk).index)
            decision = replace(decision, risk=risk, paths=(*decision.paths, *inner.paths))
        return decision

    def decide_globs(self, words: tuple[Word, ...], place: Place) -> Decision | None:
        """Refuse a glob for everything in the workspace where the workspace itself is refused too."""
        return self.refuse_all(words[0].text) if has_all(words[1:], place) else None

    def refuse_all(self, name: str) -> Decision | None:
        """Refuse everything in the workspace to a program that the workspace itself is refused to."""
        program = self.programs.get(name)
        return _root_refusal(program, Risk.HIGH) if program and program.spares_root else None

    def guarded(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The command with `--` where words follow that are only known later, so that none of them is an option."""
        program = self.programs.get(argv[0])
        if program is None or Quirk.APPENDS not in program.quirks:
            return argv
        parse = ArgumentParse()
        try:
            deque(parse.arguments(program, iter(argv[1:])), maxlen=0)
            inner = parse.started[0] if parse.started else StartedProgram(())
            at = inner.first_unknown if inner.replaced else len(inner.argv)
            options_follow = any(word.startswith("-") for word in inner.argv[at:])
            if at and not options_follow and self._takes_end(inner.argv[:at]):
                return (*argv[: len(argv) - len(inner.argv) + at], "--", *inner.argv[at:])
        except ArgumentError:
            pass  # it will be refused
        return argv

    def with_input(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """The command as it reads code from a here-document."""
        program = self.programs.get(argv[0])
        return (*argv, "-") if program and program.from_input and len(argv) == 1 else argv

    def _takes_end(self, argv: tuple[str, ...]) -> bool:
        """Whether `--` at the end makes what follows operands. Raises ArgumentError."""
        program = self.programs.get(argv[0])
        if program is None:
            return False
        parse = ArgumentParse()
        deque(parse.arguments(program, iter(argv[1:])), maxlen=0)
        use = parse.uses[-1]
        if use.program.takes_options:
            return not use.has_only_operands and Quirk.NO_END not in use.program.quirks
        return False

    def decide_file(self, path: str, place: Place) -> Decision:
        """The verdict on a file that the line redirects to or from."""
        allowed = Decision(True, "allow.redirect", Risk.SAFE, "Redirect to or from a file")
        if path == NULL_DEVICE:
            return allowed
        if not path or normal(place.cwd / path).is_relative_to(DEVICES):
            return outside(path)
        return _refuse_written(path, place) or replace(allowed, paths=(path,))

    def decide_assignment(self, name: str, value: str) -> Decision:
        """The verdict on `NAME=value` before a command."""
        if name not in self.environment:
            names = f"Allowed here: {', '.join(sorted(self.environment))}." if self.environment else "Remove it."
            return Decision.deny("environment.unlisted", f"{name} may not be set here.", names, risk=Risk.HIGH)
        if not VARIABLE_VALUE.fullmatch(value):
            reason = f"The value of {name} may contain letters, digits and plain punctuation, and no path out of the workspace."
            return Decision.deny("environment.value", reason, "Choose a plain value.", risk=Risk.HIGH)
        return Decision(True, "allow.environment", Risk.SAFE, f"Set {name} for the command")

    def decide_variable(self, name: str, value: str, *, exported: bool) -> Decision:
        """The verdict on a variable that is set for the line: programs get it only if it is `exported`."""
        if exported:
            return self.decide_assignment(name, value)
        if name in SHELL_VARIABLES:
            return Decision.deny("environment.unlisted", f"{name} may not be set here.", "Remove it.", risk=Risk.HIGH)
        return Decision(True, "allow.environment", Risk.SAFE, f"Set {name} for the line")

    def _refuse_name(self, name: str) -> Decision | None:
        if name in self.programs:
            return None
        if refusal := self.refuse_blocked(name):
            return refusal
        if name in self.only_in_rooms:
            return _needs_room(name)
        if not PROGRAM_NAME.fullmatch(name):
            reason = "A command starts with the plain name of a program: lower-case letters, digits, dot, dash."
            return Decision.deny("program.name", reason, self.allowed)
        reason = f"{name} is not a program of the profile {self.name}."
        return Decision.deny("program.unlisted", reason, f"{self.allowed} {self._can_add(name)}", risk=Risk.HIGH)

    def _can_add(self, name: str) -> str:
        """What an administrator can do about a program that is not listed."""
        how = "by the rules of this profile" if name in self.extra else "with any arguments"
        return (
            f"An administrator can add {name} to a project (allowed_extra), {how}, or to a profile (GATEPOST_PROFILES)."
        )

    def refuse_blocked(self, name: str) -> Decision | None:
        """Refuse a program that is blocked by its name."""
        if why := self.blocked_programs.get(name):
            return Decision.deny(f"blocked.{name}", f"{name} is blocked: {why}.", f"{self.allowed} {CAN_PERMIT}")
        return None

    def refuse_token(self, arguments: tuple[str, ...]) -> Decision | None:
        """Refuse arguments that no program gets."""
        for argument in arguments:
            for blocked in self.blocked_arguments:
                if blocked.pattern.search(argument):
                    return Decision.deny(blocked.rule, blocked.reason, blocked.hint)
        return None


def has_all(words: Iterable[Word], place: Place) -> bool:
    """Whether one of the words is a glob for everything in the workspace."""
    globs = (PurePosixPath(word.text) for word in words if word.is_glob)
    folders = (str(_below_stars(path)) for path in globs if _is_stars(path))
    return any(place.holds(folder) and place.is_root(folder) for folder in folders)


def _is_stars(path: PurePosixPath) -> bool:
    return set(path.name) <= {"*", "?"} and bool(path.name)


def _below_stars(path: PurePosixPath) -> PurePosixPath:
    """The folder of which a glob names everything."""
    while _is_stars(path):
        path = path.parent
    return path


def _allow(program: Program, parse: ArgumentParse, arguments: list[Argument], place: Place) -> Decision:
    _check_scripts(arguments)
    risks = sorted((use.risk for use in parse.uses), key=list(Risk).index)
    paths = _paths(arguments)
    for path in paths:
        if refusal := _refuse_outside(path, place):
            return refusal
    rule = "allow.script" if program.operands is SCRIPT else f"allow.{program.name}"
    return Decision(True, rule, risks[-1], program.summary, paths=paths)


def _paths(arguments: list[Argument]) -> tuple[str, ...]:
    """All files named; with folders that are changed to, also relative to each of them, and to one after the other."""
    paths = [argument.text for argument in arguments if argument.is_path and not _is_open(argument)]
    folders = [PurePosixPath(argument.text) for argument in arguments if argument.role is ArgumentRole.FOLDER]
    starts = {*folders, *(PurePosixPath(*folders[:count]) for count in range(2, len(folders) + 1))}
    return (*paths, *(str(start / path) for start in sorted(starts) for path in paths))


def _is_open(argument: Argument) -> bool:
    """Whether a file outside of the workspace may be named."""
    return argument.text == NULL_DEVICE or (argument.role is ArgumentRole.PATH and argument.text in OPEN_FILES)


def _check_scripts(arguments: list[Argument]) -> None:
    """A script given in pieces is checked as one, as the program runs it."""
    for role, check in ((ArgumentRole.SED, check_sed), (ArgumentRole.AWK, check_awk)):
        pieces = [argument.text for argument in arguments if argument.role is role]
        if pieces:
            check("\n".join(pieces))


def _needs_room(name: str) -> Decision:
    reason = f"{name} can show and do nothing here: processes are visible only to commands in a room (protection L3)."
    hint = "The operator enables GATEPOST_NAMESPACES. jobs, wait and kill are about what a line has started with &."
    return Decision.deny("program.rooms", reason, hint, risk=Risk.SAFE)


def _no_watches(program: Program) -> Decision:
    reason = f"{program.name} cannot watch files here: the kernel reports changes only to commands in a room (protection L3)."
    hint = "Run it again after a change, or use a tool that polls: vite, vitest --watch, tsc --watch, nodemon."
    return Decision.deny("option.watch", reason, hint, risk=Risk.SAFE)


def _check_guard(started: StartedProgram, program: Program) -> None:
    """Raise ArgumentError where a word that is only known later could be an option."""
    at = started.first_unknown
    if not at or not program.takes_options or "--" in started.argv[:at]:
        return
    raise ArgumentError(
        "option.value", f"A word that is only known later could be an option of {program.name}.", program
    )


def _refuse_emptying(
    parse: ArgumentParse,
    words: tuple[str, ...],
    arguments: list[Argument],
    programs: Mapping[str, Program],
    place: Place,
) -> Decision | None:
    """Refuse to delete all that is found from the workspace itself on."""
    use = parse.uses[0]
    deletes = use.given & use.program.empties or any(
        programs[started.argv[0]].spares_root for started in parse.started if started.argv[0] in programs
    )
    if not use.program.empties or not deletes or _is_narrowed(words, use.program):
        return None
    starts = (
        [argument.text for argument in arguments if argument.role is ArgumentRole.PATH]
        if "operand" in use.given
        else ["."]
    )
    if not any(map(place.is_root, starts)):
        return None
    return _root_refusal(use.program, Risk.HIGH)


def _is_narrowed(words: tuple[str, ...], program: Program) -> bool:
    """Whether it deletes only some of what it finds: by a test after the last `-o` that is neither negated nor always true."""
    start = max((at + 1 for at, word in enumerate(words) if word in ALTERNATIVES), default=0)
    return any(
        word in program.narrows and words[at - 1 : at] not in NEGATIONS and not MATCHES_ALL.fullmatch(value)
        for at, (word, value) in enumerate(zip(words, (*words[1:], ""), strict=True))
        if at >= start
    )


def _root_refusal(program: Program, risk: Risk = Risk.BLOCKED) -> Decision:
    reason = f"{program.name} is not allowed on the workspace itself, nor on all that is in it."
    return Decision.deny("path.root", reason, "Name the files in it.", risk=risk)


def _arguments(parse: ArgumentParse, program: Program, words: tuple[str, ...]) -> Iterator[Argument]:
    """The arguments as they are parsed, then the files that its links lead to."""
    given = []
    for argument in parse.arguments(program, iter(words)):
        given.append(argument)
        yield argument
    yield from linked_files(parse.uses[-1], given)


def _refuse_path(program: Program, argument: Argument, place: Place) -> Decision | None:
    if not argument.is_path or (_is_open(argument) and not program.spares_null):
        return None
    if program.spares_root and place.is_root(argument.text):
        return _root_refusal(program)
    if argument.role in {ArgumentRole.TARGET, ArgumentRole.FOLDER}:
        return _refuse_written(argument.text, place)
    return _refuse_outside(argument.text, place)


def _refuse_outside(path: str, place: Place) -> Decision | None:
    if place.holds(path):
        return None
    if ".." in PurePosixPath(path).parts:
        return Decision.deny("path.parent", "'..' leads out of the workspace.", "Name files in the workspace.")
    return outside(path)


def _refuse_written(path: str, place: Place) -> Decision | None:
    """The files in .git decide which programs git starts, so only git may write there, and so do its settings in a home."""
    inside = place.inside(path)
    if inside is None:
        return _refuse_outside(path, place)
    if ".git" in (part.lower() for part in inside.parts) or (
        GIT_SETTINGS.match(str(inside)) and not place.works_in(path)
    ):
        return Decision.deny("path.git", f"{path} is one of git's own files.", "Change it with git.")
    return None


def _shell(table: Table) -> str:
    shell = table.text("shell", "")
    if shell not in {"", "bash"}:
        raise ProfileError(f"{table.place}.shell: must be 'bash'")
    return shell


def _operators(table: Table) -> frozenset[str]:
    operators = frozenset(table.strings("operators"))
    if unknown := operators - OPERATORS:
        raise ProfileError(
            f"{table.place}.operators: {sorted(unknown)[0]!r} is not one of {' '.join(sorted(OPERATORS))}"
        )
    return operators


def _environment(table: Table, scripts: Risk) -> frozenset[str]:
    harmless = frozenset() if scripts is Risk.BLOCKED else LOADS_OWN_CODE
    for name in (names := table.strings("environment")):
        if not VARIABLE_NAME.fullmatch(name):
            raise ProfileError(f"{table.place}.environment: {name!r} is not the name of a variable")
        if DANGEROUS_VARIABLE.fullmatch(name) and name not in harmless:
            raise ProfileError(f"{table.place}.environment: {name} can change which program runs, or from where")
    return frozenset(names)


def _blocked_argument(spec: Table) -> BlockedArgument:
    blocked = BlockedArgument(
        spec.text("rule"), re.compile(spec.text("pattern")), spec.text("reason"), spec.text("hint", "")
    )
    spec.end()
    return blocked
