"""`policy check`: the verdict on lines, without running them."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from backend.core.decisions import Decision
from backend.core.execution.targets import Target
from backend.core.language.lexer import Word
from backend.core.policy.admit import Plan, judge, read
from backend.core.policy.profile import Profile
from backend.policies.loader import load_profile
from backend.runtime.settings import Settings, load_settings

EXIT_DENIED = 126


def add_verbs(verbs: Any) -> None:
    """Add `policy` to the command line."""
    policy = verbs.add_parser("policy", help="ask the policy").add_subparsers(required=True, metavar="VERB")
    check = policy.add_parser("check", help="judge command lines without running them")
    check.add_argument("--profile", default="terminal", help="a shipped profile, or the path of a TOML file")
    check.add_argument("--json", action="store_true", help="print JSON on a terminal too")
    check.add_argument(
        "lines", nargs="*", metavar="LINE", help="a command line; without any, they come from standard input"
    )
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    profile = load_profile(options.profile)
    settings = load_settings()
    lines: Iterable[str] = options.lines or (line.rstrip("\n") for line in sys.stdin)
    plain = sys.stdout.isatty() and not options.json
    allowed = True
    for line in lines:
        verdict = judge_line(profile, line, settings)
        allowed &= verdict["allowed"]
        print(_sentence(verdict) if plain else json.dumps(verdict, ensure_ascii=False), flush=True)
    return 0 if allowed else EXIT_DENIED


class _AsWritten:
    """A workspace that is not looked at: globs stay as they are, links are not followed."""

    def __init__(self, root: PurePosixPath) -> None:
        self.root = root

    def enter(self, cwd: str) -> PurePosixPath:
        return self.root / cwd

    def expand(self, words: tuple[Word, ...], cwd: PurePosixPath) -> tuple[str, ...]:
        return tuple(word.text for word in words)

    def check(self, paths: tuple[str, ...], cwd: PurePosixPath) -> None:
        return None


def judge_line(profile: Profile, line: str, settings: Settings) -> dict[str, Any]:
    """The verdict of `policy check`: globs are judged as they are written, links are not followed."""
    script = read(line, profile)
    if isinstance(script, Decision):
        return _verdict(line, script, ())
    if refusal := profile.check_count(len(script.words)):
        return _verdict(line, refusal, script.argv)
    root = PurePosixPath(settings.workspace_dir)
    plan = judge(script, Target(profile, _AsWritten(root)), root)
    return _verdict(line, plan.decision if isinstance(plan, Plan) else plan, script.argv)


def _verdict(line: str, decision: Decision, argv: tuple[str, ...]) -> dict[str, Any]:
    return {
        "command": line,
        "allowed": decision.allowed,
        "rule": decision.rule,
        "reason": decision.reason,
        "risk": str(decision.risk),
        "argv": list(argv),
    }


def _sentence(verdict: dict[str, Any]) -> str:
    word = "allowed" if verdict["allowed"] else "denied"
    return f"{word:<8} {verdict['rule']:<20} {verdict['command']}\n{'':8} {verdict['reason']}"
