"""`policy check`: the verdict on command lines, without running them."""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any

from backend.core.dataclasses import dataclass
from backend.core.execution.model import EXIT_DENIED
from backend.core.policy.admit import Plan, admit
from backend.core.policy.files import Unseen
from backend.core.policy.profile import OFFLINE, Offline, Profile
from backend.policies.loader import load_profile
from backend.runtime.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class WrittenLines:
    """What lines are judged against when no workspace is read."""

    profile: Profile
    files: Unseen
    network: bool = False
    offline: Offline = OFFLINE


def add_verbs(verbs: Any) -> None:
    """Add `policy` to the command line."""
    policy = verbs.add_parser("policy", help="ask the policy").add_subparsers(required=True, metavar="VERB")
    check = policy.add_parser("check", help="judge command lines without running them")
    check.add_argument("--profile", default="terminal", help="the name of a profile, or the path of a TOML file")
    check.add_argument("--json", action="store_true", help="print JSON on a terminal too")
    check.add_argument(
        "lines", nargs="*", metavar="LINE", help="a command line; without any, they come from standard input"
    )
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    settings = load_settings()
    target = WrittenLines(profile_named(options.profile, settings), Unseen(PurePosixPath(settings.workspace_dir)))
    lines: Iterable[str] = options.lines or (line.rstrip("\n") for line in sys.stdin)
    plain = sys.stdout.isatty() and not options.json
    allowed = True
    for line in lines:
        verdict = verdict_on(line, target)
        allowed &= verdict["allowed"]
        print(_sentence(verdict) if plain else json.dumps(verdict, ensure_ascii=False), flush=True)
    return 0 if allowed else EXIT_DENIED


def profile_named(name: str, settings: Settings) -> Profile:
    """A profile as it judges lines that do not run now: the server may have rooms. Raises ProfileError."""
    return load_profile(name, settings.profiles).in_rooms()


def verdict_on(line: str, target: WrittenLines) -> dict[str, Any]:
    """The verdict as JSON; `argv` are all words of a line that is allowed."""
    judged = admit(line, target, ".")
    decision = judged.decision if isinstance(judged, Plan) else judged
    return {
        "command": line,
        "allowed": decision.allowed,
        "rule": decision.rule,
        "reason": decision.reason,
        "risk": str(decision.risk),
        "argv": [word for argv in judged.argvs for word in argv] if isinstance(judged, Plan) else [],
    }


def _sentence(verdict: dict[str, Any]) -> str:
    word = "allowed" if verdict["allowed"] else "denied"
    return f"{word:<8} {verdict['rule']:<20} {verdict['command']}\n{'':8} {verdict['reason']}"
