"""The command line: each verb has a module of its own."""

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from backend import __version__
from backend.cli import accounts, agent, audit, hook, host, notification, policy, protection, runner, schedule, serve
from backend.cli.failures import said

# What adds each verb to the command line: to add all of them takes longer than most verbs do.
VERBS: dict[str, Callable[[Any], None]] = {
    "serve": serve.add_verb,
    "agent": agent.add_verb,
    "host": host.add_verbs,
    "runner": runner.add_verbs,
    "policy": policy.add_verbs,
    "protection": protection.add_verb,
    "user": accounts.add_verbs,
    "token": accounts.add_verbs,
    "audit": audit.add_verbs,
    "schedule": schedule.add_verbs,
    "notification": notification.add_verbs,
    "hook": hook.add_verbs,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser(words[0] if words else "").parse_args(words)
    return said(partial(options.run, options))


def _parser(verb: str) -> argparse.ArgumentParser:
    """The parser for a command line that begins with `verb`; with all verbs if it is none of them."""
    parser = argparse.ArgumentParser(prog="gatepost", description="One guarded gate through which commands run.")
    parser.add_argument("--version", action="version", version=f"gatepost {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for add in [VERBS[verb]] if verb in VERBS else dict.fromkeys(VERBS.values()):
        add(verbs)
    return parser
