"""The only judge of a line: its length, its grammar, every command, every file it redirects to, every folder it enters.

All of it is judged before anything runs, with the variables as far as they are known then. A step that follows on another
is judged once more just before it starts, because its variables, globs and links depend on what ran before it.
"""

from collections.abc import Iterable
from dataclasses import field
from functools import reduce
from itertools import repeat
from pathlib import PurePosixPath
from typing import Protocol

from backend.core.dataclasses import dataclass, replace
from backend.core.decisions import Decision, Risk
from backend.core.language.grouped import spread
from backend.core.language.parser import ExpandedRedirect, Invocation, builtins_among, no_background, parse
from backend.core.language.patterns import matches
from backend.core.language.tree import (
    Assignment,
    Background,
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
    Script,
    Step,
    Trap,
    While,
    Word,
    assigned_names,
    has_background,
    substitutions,
    words_of,
)
from backend.core.language.words import UNKNOWN, Guess, Listed, Unset, expand_words, joined, names_all
from backend.core.policy.builtins import KILL, judge_builtin, names_execution
from backend.core.policy.files import FileView, in_temporary
from backend.core.policy.line_state import BEGINNING, CALL_DEPTH, NOT_STARTED, Define, Effect, LineState
from backend.core.policy.profile import OFFLINE, Offline, Place, Profile, has_all
from backend.core.policy.shell import judge_bash, run_by_bash

RISKS = list(Risk)
TESTS = frozenset({"[", "test"})
OPEN_REDIRECTS = frozenset({"<", ">", ">>"})
ANSWERED = frozenset({"help", "clear"})  # lines that Gatepost answers itself, also where a shell runs all others
NESTING_LIMIT = 100  # lists of steps within lists of steps: compounds, substitutions, calls
STEP_LIMIT = 1000  # steps of a line that are judged before it starts
LENGTH_LIMIT = 400_000  # characters of these, with each round of a loop


class PolicyTarget(Protocol):
    """What a line is judged against: a profile, the files it can name, and whether there is a network."""

    @property
    def profile(self) -> Profile: ...

    @property
    def files(self) -> FileView: ...

    @property
    def network(self) -> bool: ...

    @property
    def offline(self) -> Offline: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step may run, and the decision on its riskiest command.

    With an `effect` no program runs: the step changes the state of the line. With `is_line` its program runs the whole
    line, and reports what that leaves.
    """

    invocations: tuple[Invocation, ...]
    decision: Decision
    effect: Effect | None = None
    is_builtin: bool = False
    is_line: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A line that may run, from the state `start` on.

    `decision` is that of its riskiest command; `argvs` are all commands, globs and variables expanded as far as they were
    known.
    """

    script: Script
    verdicts: tuple[Verdict, ...]
    decision: Decision
    argvs: tuple[tuple[str, ...], ...]
    start: LineState

    @property
    def cwd(self) -> PurePosixPath:
        """The folder that it starts in."""
        return self.start.cwd

    @property
    def invocations(self) -> frozenset[Invocation]:
        """What was judged before the line started."""
        return frozenset(invocation for verdict in self.verdicts for invocation in verdict.invocations)

    @property
    def program(self) -> str:
        """The name of the first program."""
        return self.argvs[0][0]


@dataclass(frozen=True, slots=True)
class Scope:
    """What lines are judged against, and nothing else of a target."""

    profile: Profile
    files: FileView
    network: bool
    offline: Offline = OFFLINE


def _for_line(target: PolicyTarget) -> Scope:
    return Scope(target.profile, target.files.for_line(), target.network, target.offline)


def admit(line: str, target: PolicyTarget, cwd: str, before: LineState = BEGINNING) -> Plan | Decision:
    """Judge a line that would run in the folder `cwd` of a target, with what else is kept of the state `before` it."""
    target = _for_line(target)
    profile = target.profile
    if refusal := profile.check_length(line):
        return refusal
    if profile.shell and line.strip() not in ANSWERED:
        return _judge_shell(line, target, cwd, before)
    script = parse(line, profile.operators, assignments=bool(profile.environment))
    if isinstance(script, Decision):
        return script
    if not profile.has_background and has_background(script.steps):
        return no_background()
    if refusal := profile.check_count(sum(len(each.words) + len(each.assignments) for each in script.commands)):
        return refusal
    folder = target.files.enter(cwd)
    if isinstance(folder, Decision):
        return folder
    # They were judged when they were set, perhaps under another profile.
    for name, value in before.exported.items():
        if not (judged := profile.decide_assignment(name, value)).allowed:
            return judged
    return _judge_script(script, target, replace(before, cwd=folder))


def _judge_shell(line: str, target: PolicyTarget, cwd: str, before: LineState) -> Plan | Decision:
    """Judge a line that bash runs as a whole: one step with one program."""
    folder = target.files.enter(cwd)
    if isinstance(folder, Decision):
        return folder
    exported = tuple(before.exported.items())
    judged = judge_bash(line, target.profile, _place(target, folder), exported)
    if isinstance(judged, Decision):
        return judged
    argv = run_by_bash(line)
    script = Script((Step("", (Command(tuple(map(Word, argv))),)),))
    verdict = Verdict((Invocation(argv, exported),), judged.decision, is_line=True)
    return Plan(script, (verdict,), judged.decision, judged.argvs, replace(before, cwd=folder))


def _judge_script(script: Script, target: PolicyTarget, start: LineState) -> Plan | Decision:
    judged = _Judgement(target, start)
    if refusal := judged.refusal(script.steps) or judged.trapped():
        return refusal
    if not judged.verdicts:
        return _only_defined()
    decision = riskiest(verdict.decision for verdict in judged.verdicts)
    argvs = tuple(invocation.argv for verdict in judged.verdicts for invocation in verdict.invocations)
    return Plan(script, tuple(judged.verdicts), decision, argvs, start)


@dataclass(slots=True)
class _Judgement:
    """The judgement of a line before it starts, as if each of its steps succeeded."""

    target: PolicyTarget
    state: LineState
    verdicts: list[Verdict] = field(default_factory=list)
    length: int = 0  # characters of all that was judged
    depth: int = 0

    def refusal(self, steps: tuple[Step, ...]) -> Decision | None:
        """Why one of the steps may not run."""
        self.depth += 1
        if self.depth > NESTING_LIMIT:
            return too_deep()
        for step in steps:
            step = resolved(step, self.state)
            if refusal := self._redirected(step) if step.redirects else self._any(step):
                return refusal
        self.depth -= 1
        return None

    def _any(self, step: Step) -> Decision | None:
        return self._compound(step.compound) if step.compound else self._step(step)

    def _redirected(self, step: Step) -> Decision | None:
        if refusal := self._substituted(step.substitutions):
            return refusal
        placed = place_redirects(step.filled(repeat(UNKNOWN)), self.target, self.state)
        return placed if isinstance(placed, Decision) else self._any(placed)

    def _compound(self, compound: Compound) -> Decision | None:
        match compound:
            case Background(steps=steps):
                refusal = self._subshell(steps)
                self.state = self.state.starting(NOT_STARTED)
                return refusal
            case Fed(steps=steps):
                return self.refusal(steps)
            case Function(name=name, body=body):
                self.state = self.state.declaring(name, body)
                return None
            case Call():
                return self._call(compound)
            case Trap(steps=steps):
                self.state = replace(self.state, trap=steps)
                return None
            case Group(steps=steps, subshell=subshell):
                return self._subshell(steps) if subshell else self.refusal(steps)
            case If():
                return self._if(compound)
            case Case():
                return self._case(compound)
            case While():
                return self._while(compound)
            case For():
                return self._for(compound)
            case Piped(stages=stages):
                return next((refusal for each in stages if (refusal := self._subshell((each,)))), None)

    def _subshell(self, steps: tuple[Step, ...]) -> Decision | None:
        before = self.state
        self.state = replace(before, trap=())
        refusal = self.refusal(steps) or self.trapped()
        self.state = before
        return refusal

    def trapped(self) -> Decision | None:
        """Why what runs at the end may not."""
        return self.refusal(self.state.trap)

    def _call(self, call: Call) -> Decision | None:
        """The steps of a function are judged with the words that it is called with."""
        if refusal := self._substituted(substitutions(call.words)):
            return refusal
        filled, before = call.filled(repeat(UNKNOWN)), self.state
        begun = enter_call(filled, self.target, before)
        if isinstance(begun, Decision):
            return begun
        self.state = begun
        refusal = self.refusal(call.body)
        self.state = self.state.returned(before)
        return refusal

    def _if(self, compound: If) -> Decision | None:
        """Each branch is judged; what follows, as if the first one had run."""
        after: list[LineState] = []
        for branch in compound.branches:
            if refusal := self.refusal(branch.condition):
                return refusal
            before = self.state
            if refusal := self.refusal(branch.steps):
                return refusal
            after.append(self.state)
            self.state = before
        refusal = self.refusal(compound.otherwise)
        self.state = reduce(LineState.merged, (*after, self.state))
        return refusal

    def _case(self, compound: Case) -> Decision | None:
        """Each choice is judged; what follows, as if the first one had run, or none."""
        if refusal := self._substituted(substitutions(words_of(compound))):
            return refusal
        chosen = choose(compound.filled(repeat(UNKNOWN)), self.target, self.state)
        if isinstance(chosen, Decision):
            return chosen
        before, after = self.state, [self.state]
        for choice in compound.choices:
            if refusal := self.refusal(choice.steps):
                return refusal
            after.append(self.state)
            self.state = before
        self.state = reduce(LineState.merged, after[1:] + after[:1])
        return None

    def _while(self, loop: While) -> Decision | None:
        """One round is judged, with variables that may have been set in another one."""
        steps = (*loop.repeated.condition, *loop.repeated.steps, *loop.after)
        before = self.state = self.state.guessing(assigned_names(steps))
        refusal = self.refusal(steps)
        self.state = self.state.merged(before)
        return refusal

    def _for(self, loop: For) -> Decision | None:
        """The steps are judged with each word; where there is none yet, with one that is not known."""
        if refusal := self._substituted(substitutions(loop.words)):
            return refusal
        filled = repeat(UNKNOWN)
        words = _words(tuple(each.filled(filled) for each in loop.words), self.target, self.state)
        if isinstance(words, Decision):
            return words
        is_known = not any(substitutions(loop.words))
        for word in words or (UNKNOWN,):
            word = word if is_known else Guess(word)
            if refusal := self._step(assigned((loop.name, word))) or self.refusal(loop.body):
                return refusal
        return None

    def _substituted(self, parameters: Iterable[Parameter]) -> Decision | None:
        """Why a substitution may not run."""
        return next((refusal for each in parameters if (refusal := self._subshell(each.steps))), None)

    def _step(self, step: Step) -> Decision | None:
        if refusal := self._substituted(step.substitutions):
            return refusal
        step = step.filled(repeat(UNKNOWN))
        verdict = _judge_step(step, self.target, self.state)
        if isinstance(verdict, Decision):
            return verdict
        self.verdicts.append(verdict)
        self.state = self.state.after(verdict.effect)
        self.length += sum(len(word) + 1 for invocation in verdict.invocations for word in invocation.argv)
        return _too_many_steps() if len(self.verdicts) > STEP_LIMIT or self.length > LENGTH_LIMIT else None


def judge_step(step: Step, target: PolicyTarget, state: LineState) -> Verdict | Decision:
    """Judge one pipeline of an admitted line once more, as it would run in this state."""
    return _judge_step(step, _for_line(target), state)


def _judge_step(step: Step, target: PolicyTarget, state: LineState) -> Verdict | Decision:
    try:
        if len(step.commands) == 1 and (builtin := _judge_alone(step.commands[0], target, state)):
            return builtin
        place = _place(target, state.cwd)
        judge = _CommandJudge(target, place, state, state.values(target.files.variables))
        judged = [judge.judged(command) for command in step.commands]
    except Unset as unset:
        return unset.decision
    except _Refused as refused:
        return refused.decision
    return Verdict(tuple(invocation for invocation, _ in judged), riskiest(decision for _, decision in judged))


def _place(target: PolicyTarget, cwd: PurePosixPath) -> Place:
    return Place(target.files.root, cwd, target.network, target.offline, target.files.home)


def assigned(*values: tuple[str, str]) -> Step:
    """The step that sets variables to values that are known."""
    return Step("", (Command((), tuple(Assignment(name, Word(value)) for name, value in values)),))


def judge_words(words: tuple[Word, ...], target: PolicyTarget, state: LineState) -> tuple[str, ...] | Decision:
    """The words of a loop, expanded once it is to begin."""
    return _words(words, _for_line(target), state)


def _words(words: tuple[Word, ...], target: PolicyTarget, state: LineState) -> tuple[str, ...] | Decision:
    try:
        return target.files.expand(expand_words(words, state.values(target.files.variables)), state.cwd)
    except Unset as unset:
        return unset.decision


def resolved(step: Step, state: LineState) -> Step:
    """The step, with the functions that its commands are the names of."""
    if not state.functions or step.compound or not any(_function(each, state) for each in step.commands):
        return step
    stages = tuple(_stage(each, state) for each in step.commands)
    if len(stages) > 1:
        return replace(step, commands=(), compound=Piped(stages))
    return replace(stages[0], join=step.join, negated=step.negated)


def _function(command: Command, state: LineState) -> str:
    name = command.words[0] if command.words else Word("")
    return name.text if name.text in state.functions and not name.parameters else ""


def _stage(command: Command, state: LineState) -> Step:
    """A command as a step; variables before the name of a function make it the program, which is refused or found."""
    name = _function(command, state)
    if not name or command.assignments:
        return Step("", (command,))
    return Step("", (), Call(name, command.words[1:], state.functions[name]), redirects=command.redirects)


def enter_call(call: Call, target: PolicyTarget, state: LineState) -> LineState | Decision:
    """The state in which a function begins: its words are expanded now."""
    if call.name in state.called or len(state.called) == CALL_DEPTH:
        return _too_many_calls(call.name)
    try:
        words = _listed(call.words, _for_line(target), state)
    except Unset as unset:
        return unset.decision
    return words if isinstance(words, Decision) else state.calling(call.name, words)


def _listed(words: tuple[Word, ...], target: PolicyTarget, state: LineState) -> Listed | Decision:
    """The words that these become, as a list that can be named. Raises Unset."""
    values = state.values(target.files.variables)
    expanded = expand_words(words, values)
    items = target.files.expand(expanded, state.cwd)
    if isinstance(items, Decision):
        return items
    return Listed(items, is_all=names_all(words, values) or has_all(expanded, _place(target, state.cwd)))


def choose(compound: Case, target: PolicyTarget, state: LineState) -> tuple[Step, ...] | Decision:
    """The steps of the first choice with a pattern that matches."""
    values = state.tested_values(target.files.variables)
    try:
        word = joined(compound.word, values)
        for choice in compound.choices:
            if any(matches(word, pattern, values) for pattern in choice.patterns):
                return choice.steps
    except Unset as unset:
        return unset.decision
    return ()


def place_redirects(step: Step, target: PolicyTarget, state: LineState) -> Step | Decision:
    """A compound with the files that it reads and writes as they are named now: in it, folder and variables may change."""
    values = state.values(target.files.variables)
    try:
        redirects = tuple(_placed(each, target.files, state.cwd, values) for each in step.redirects)
    except Unset as unset:
        return unset.decision
    return spread(replace(step, redirects=redirects))


def _placed(redirect: Redirect, files: FileView, cwd: PurePosixPath, values: dict[str, str]) -> Redirect:
    text = joined(redirect.target, values)
    if redirect.operator == "<<":
        return replace(redirect, target=Word(text))
    return replace(redirect, target=in_temporary(Word(str(cwd / text)), files)) if text else redirect


def riskiest(decisions: Iterable[Decision]) -> Decision:
    """The first of those with the highest risk."""
    return max(decisions, key=lambda decision: RISKS.index(decision.risk))


class _Refused(Exception):
    def __init__(self, decision: Decision) -> None:
        super().__init__(decision.reason)
        self.decision = decision


def _judge_alone(command: Command, target: PolicyTarget, state: LineState) -> Verdict | Decision | None:
    """The verdict on what changes the state of the line: assignments and builtins. None for a program."""
    values = state.values(target.files.variables)
    if not command.words:
        return _judge_assignments(command, target, state, values)
    builtins = builtins_among(target.profile.operators)
    name = expand_words(command.words[:1], values) if builtins else ()
    if len(name) != 1 or not _is_builtin(name[0].text, command, builtins, values):
        return None
    place = _place(target, state.cwd)
    judged = judge_builtin(command, target, place, state, values)
    if isinstance(judged, Decision):
        return judged
    argv = (name[0].text, *judged.arguments)
    decision = Decision(True, f"allow.{name[0].text.replace(':', 'true')}", Risk.SAFE, "Change the state of the line")
    return Verdict((Invocation(argv),), decision, judged.effect, is_builtin=True)


def _is_builtin(name: str, command: Command, builtins: frozenset[str], values: dict[str, str]) -> bool:
    """Whether no program runs: kill is one, unless it names an execution."""
    if name != KILL or "wait" not in builtins:
        return name in builtins
    return names_execution(each.text for each in expand_words(command.words[1:], values))


def _judge_assignments(
    command: Command, target: PolicyTarget, state: LineState, values: dict[str, str]
) -> Verdict | Decision:
    """Variables of the line: only those that programs get are those of the profile."""
    found: dict[str, str] = {}
    for assignment in command.assignments:
        exported = state.allexport or assignment.name in {*state.exported, *target.files.variables}
        items = assignment.items
        value = joined(assignment.value, values) if items is None else _listed(items, target, state)
        if isinstance(value, Decision):
            return value
        if isinstance(value, Listed) and exported:
            return _exported_array(assignment.name)
        judged = target.profile.decide_variable(assignment.name, value, exported=exported)
        if not judged.allowed:
            return judged
        values[assignment.name] = found[assignment.name] = value
    decision = Decision(True, "allow.environment", Risk.SAFE, "Set a variable of the line")
    invocations = tuple(Invocation((f"{name}={_shown(value)}",)) for name, value in found.items())
    return Verdict(invocations, decision, Define(tuple(found.items()), exported=False), is_builtin=True)


def _shown(value: str) -> str:
    return f"({' '.join(value.items)})" if isinstance(value, Listed) else value


@dataclass(slots=True)
class _CommandJudge:
    """The judge of the commands of one pipeline. Raises _Refused and Unset."""

    target: PolicyTarget
    place: Place
    state: LineState
    values: dict[str, str]

    def judged(self, command: Command) -> tuple[Invocation, Decision]:
        """What a command runs, and the decision on it."""
        profile, files = self.target.profile, self.target.files
        environment = self._environment(command)
        is_test = command.words[0].text in TESTS
        values = self.state.tested_values(self.target.files.variables) if is_test else self.values
        words = expand_words(command.words, values)
        if not words:
            raise _Refused(_nothing_left(profile))
        if names_all(command.words, values) and (refusal := self.target.profile.refuse_all(words[0].text)):
            raise _Refused(refusal)
        has_document = any(each.operator == "<<" for each in command.redirects)
        argv, decision = self._decided(words, has_document)
        moved = tuple(in_temporary(word, files) for word in words)
        if decision.rule == "path.outside" and moved != words:
            argv, decision = self._decided(moved, has_document)
        self._allowed(decision)
        redirects, paths = self._redirects(command)
        if refusal := files.check((*decision.paths, *paths), self.place.cwd):
            raise _Refused(refusal)
        return Invocation(argv, environment, redirects), decision

    def _decided(self, words: tuple[Word, ...], has_document: bool) -> tuple[tuple[str, ...], Decision]:
        """The arguments that these words become, and the decision on them."""
        profile = self.target.profile
        if refusal := profile.decide_globs(words, self.place):
            raise _Refused(refusal)
        argv = self.target.files.expand(words, self.place.cwd)
        if isinstance(argv, Decision):
            raise _Refused(argv)
        argv = profile.guarded(profile.with_input(argv) if has_document else argv)
        return argv, profile.decide(argv, self.place)

    def _allowed(self, decision: Decision) -> Decision:
        if not decision.allowed:
            raise _Refused(decision)
        return decision

    def _environment(self, command: Command) -> tuple[tuple[str, str], ...]:
        """What a program gets: the exported variables, and those in front of it, each of which sees those before."""
        given, values = dict(self.state.exported), self.values.copy()
        for assignment in command.assignments:
            value = joined(assignment.value, values)
            self._allowed(self.target.profile.decide_assignment(assignment.name, value))
            given[assignment.name] = values[assignment.name] = value
        return tuple(given.items())

    def _redirects(self, command: Command) -> tuple[tuple[ExpandedRedirect, ...], tuple[str, ...]]:
        """The redirections of a command, and the files that they name."""
        opened: list[ExpandedRedirect] = []
        paths: list[str] = []
        for redirect in command.redirects:
            target = joined(redirect.target, self.values)
            if redirect.operator in OPEN_REDIRECTS:
                target = in_temporary(Word(target), self.target.files).text
                paths += self._allowed(self.target.profile.decide_file(target, self.place)).paths
            opened.append(ExpandedRedirect(redirect.operator, redirect.descriptor, target))
        return tuple(opened), tuple(paths)


def _nothing_left(profile: Profile) -> Decision:
    return Decision.deny(
        "command.empty", "The variables of the command are empty: nothing is left of it.", profile.allowed
    )


def _exported_array(name: str) -> Decision:
    return Decision.deny("syntax.array", f"{name} is exported: programs get no arrays.", 'Write NAME="a b c".')


def _only_defined() -> Decision:
    reason = "The line only says what a function or a trap would do."
    return Decision.deny("command.empty", reason, "Call the function in the same line: f() { ls; }; f", risk=Risk.SAFE)


def _too_many_calls(name: str) -> Decision:
    reason = f"{name} calls itself, or functions call each other more than {CALL_DEPTH} deep."
    return Decision.deny("syntax.function", reason, "Write a loop, or a script.")


def too_deep() -> Decision:
    """Why lists of steps within lists of steps are refused."""
    reason = f"Commands are nested more than {NESTING_LIMIT} deep when functions are called."
    return Decision.deny("limits.expansion", reason, "Write the commands one after another.")


def _too_many_steps() -> Decision:
    reason = f"The line has more than {STEP_LIMIT} steps, or they have more than {LENGTH_LIMIT} characters."
    return Decision.deny("limits.expansion", reason, "Split it into several lines.")
