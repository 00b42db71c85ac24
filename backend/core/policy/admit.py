"""The verdict on a whole line: every command of it, every file it redirects to, every folder it enters.

The line is judged completely before anything runs. Each later step is judged again just before it starts, because its
globs and links depend on what ran before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

from backend.core.decisions import Decision, Risk
from backend.core.execution.model import Invocation
from backend.core.execution.targets import Target
from backend.core.language.parser import Command, Script, Step, parse
from backend.core.policy.profile import Place, Profile

RISKS = list(Risk)
OPEN_REDIRECTS = frozenset({"<", ">", ">>"})


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a step may run, in which folder, and the decision on its riskiest command."""

    invocations: tuple[Invocation, ...]
    decision: Decision


@dataclass(frozen=True, slots=True)
class Plan:
    """A line that may run. `decision` is that of its riskiest command; `argvs` are all commands, globs expanded."""

    script: Script
    verdicts: tuple[Verdict, ...]
    decision: Decision
    argvs: tuple[tuple[str, ...], ...]


def read(line: str, profile: Profile) -> Script | Decision:
    """Parse a line within the limits of its profile: its length, its operators, its assignments."""
    return profile.check_length(line) or parse(line, profile.operators, assignments=bool(profile.environment))


def judge(script: Script, target: Target, cwd: PurePosixPath) -> Plan | Decision:
    """Judge a line that is not empty, from its first step to its last."""
    verdicts: list[Verdict] = []
    for step in script.steps:
        verdict = judge_step(step, target, cwd)
        if isinstance(verdict, Decision):
            return verdict
        verdicts.append(verdict)
        cwd = cwd / step.folder
    decision = riskiest(verdict.decision for verdict in verdicts if verdict.invocations)
    argvs = tuple(invocation.argv for verdict in verdicts for invocation in verdict.invocations)
    return Plan(script, tuple(verdicts), decision, argvs)


def judge_step(step: Step, target: Target, cwd: PurePosixPath) -> Verdict | Decision:
    """Judge one pipeline as it would run in `cwd` now."""
    place = Place(target.workspace.root, cwd, target.network)
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


def _judge_folder(folder: str, target: Target, place: Place) -> Verdict | Decision:
    if not place.holds(folder):
        reason = f"{folder} is outside the workspace."
        return Decision.deny("path.outside", reason, "Name folders relative to the workspace.")
    refusal = target.workspace.check((folder,), place.cwd)
    return refusal or Verdict((), Decision(True, "allow.cd", Risk.SAFE, "Enter a folder"))


def _judge_command(command: Command, target: Target, place: Place) -> tuple[Invocation, Decision] | Decision:
    profile = target.profile
    for assignment in command.assignments:
        judged = profile.decide_assignment(assignment.name, assignment.value)
        if not judged.allowed:
            return judged
    argv = target.workspace.expand(command.words, place.cwd)
    if isinstance(argv, Decision):
        return argv
    decision = profile.decide(argv, place)
    if not decision.allowed:
        return decision
    paths = list(decision.paths)
    for redirect in command.redirects:
        if redirect.operator in OPEN_REDIRECTS:
            judged = profile.decide_file(redirect.target, place)
            if not judged.allowed:
                return judged
            paths += judged.paths
    refusal = target.workspace.check(tuple(paths), place.cwd)
    environment = tuple((each.name, each.value) for each in command.assignments)
    return refusal or (Invocation(argv, environment, command.redirects), decision)
