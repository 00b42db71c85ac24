"""The command line: each verb has a module of its own."""

import argparse
from collections.abc import Sequence
from functools import partial

from backend import __version__
from backend.cli import accounts, agent, audit, hook, host, notification, policy, protection, runner, schedule, serve
from backend.cli.failures import said


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
    return said(partial(options.run, options))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gatepost", description="One guarded gate through which commands run.")
    parser.add_argument("--version", action="version", version=f"gatepost {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    serve.add_verb(verbs)
    agent.add_verb(verbs)
    host.add_verbs(verbs)
    runner.add_verbs(verbs)
    policy.add_verbs(verbs)
    protection.add_verb(verbs)
    accounts.add_verbs(verbs)
    audit.add_verbs(verbs)
    schedule.add_verbs(verbs)
    notification.add_verbs(verbs)
    hook.add_verbs(verbs)
    return parser
