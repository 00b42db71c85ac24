"""The only judge of a line: its length, its grammar, every command, every file it redirects to, every folder it enters.

All of it is judged before anything runs. A step that follows on another is judged once more just before it starts,
because its globs and links depend on what ran before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

from backend.core.decisions import Decision, Risk
from backend.core.language.parser import Command, Invocation, Script, Step, parse
from backend.core.policy.files import FileView, outside
from backend.core.policy.profile import Place, Profile

RISKS = list(Risk)
OPEN_REDIRECTS = frozenset({"<", ">", ">>"})


class PolicyTarget(Protocol):
    """What a line is judged against: a profile, the files it can name, and whether there is a network."""

    @property
    def profile(self) -> Profile: ...

    @property
    def files(self) -> FileView: ...

    @property
    def network(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step may run, and the decision on its riskiest command."""

    invocations: tuple[Invocation, ...]
    decision: Decision


@dataclass(frozen=True, slots=True)
class Plan:
    """A line that may run, from the folder `cwd` on.

    `decision` is that of its riskiest command; `argvs` are all commands, globs expanded.
    """

    script: Script
    verdicts: tuple[Verdict, ...]
    decision: Decision
    argvs: tuple[tuple[str, ...], ...]
    cwd: PurePosixPath

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


def _for_line(target: PolicyTarget) -> Scope:
    return Scope(target.profile, target.files.for_line(), target.network)


def admit(line: str, target: PolicyTarget, cwd: str) -> Plan | Decision:
    """Judge a line that would run in the folder `cwd` of a target."""
    target = _for_line(target)
    profile = target.profile
    if refusal := profile.check_length(line):
        return refusal
    script = parse(line, profile.operators, assignments=bool(profile.environment))
    if isinstance(script, Decision):
        return script
    if refusal := profile.check_count(len(script.words)):
        return refusal
    folder = target.files.enter(cwd)
    return folder if isinstance(folder, Decision) else _judge_script(script, target, folder)


def _judge_script(script: Script, target: PolicyTarget, start: PurePosixPath) -> Plan | Decision:
    verdicts: list[Verdict] = []
    cwd = start
    for step in script.steps:
        verdict = _judge_step(step, target, cwd)
        if isinstance(verdict, Decision):
            return verdict
        verdicts.append(verdict)
        cwd = cwd / step.folder
    decision = riskiest(verdict.decision for verdict in verdicts if verdict.invocations)
    argvs = tuple(invocation.argv for verdict in verdicts for invocation in verdict.invocations)
    return Plan(script, tuple(verdicts), decision, argvs, start)


def judge_step(step: Step, target: PolicyTarget, cwd: PurePosixPath) -> Verdict | Decision:
    """Judge one pipeline of an admitted line once more, as it would run in `cwd` now."""
    return _judge_step(step, _for_line(target), cwd)


def _judge_step(step: Step, target: PolicyTarget, cwd: PurePosixPath) -> Verdict | Decision:
    place = Place(target.files.root, cwd, target.network)
    if step.folder:
        return _judge_folder(step.folder, target, place)
    invocations, decisions = [], []
    for command in step.commands:
        judged = _judge_command(command, target, place)
        if isinstance(judged, Decision):
            return judged
        invocations.append(judged[0])
        decisions.append(judged[1])
    return Verdict(tuple(invocations), riskiest(decisions))


def riskiest(decisions: Iterable[Decision]) -> Decision:
    """The first of those with the highest risk."""
    return max(decisions, key=lambda decision: RISKS.index(decision.risk))


def _judge_folder(folder: str, target: PolicyTarget, place: Place) -> Verdict | Decision:
    if not place.holds(folder):
        return outside(folder)
    refusal = target.files.check((folder,), place.cwd)
    return refusal or Verdict((), Decision(True, "allow.cd", Risk.SAFE, "Enter a folder"))


def _judge_command(command: Command, target: PolicyTarget, place: Place) -> tuple[Invocation, Decision] | Decision:
    profile = target.profile
    for assignment in command.assignments:
        judged = profile.decide_assignment(assignment.name, assignment.value)
        if not judged.allowed:
            return judged
    argv = target.files.expand(command.words, place.cwd)
    if isinstance(argv, Decision):
        return argv
    decision = profile.decide(argv, place)
    if not decision.allowed:
        return decision
    files = _judge_redirects(command, profile, place)
    if isinstance(files, Decision):
        return files
    refusal = target.files.check((*decision.paths, *files), place.cwd)
    environment = tuple((each.name, each.value) for each in command.assignments)
    return refusal or (Invocation(argv, environment, command.redirects), decision)


def _judge_redirects(command: Command, profile: Profile, place: Place) -> tuple[str, ...] | Decision:
    """The files that a command is redirected to and from."""
    paths: list[str] = []
    for redirect in command.redirects:
        if redirect.operator in OPEN_REDIRECTS:
            judged = profile.decide_file(redirect.target, place)
            if not judged.allowed:
                return judged
            paths += judged.paths
    return tuple(paths)
