"""The command line: each verb has a module of its own."""

import argparse
import sys
from collections.abc import Sequence

from backend import __version__
from backend.cli import accounts, agent, audit, hook, host, notification, policy, protection, runner, schedule, serve
from backend.core.errors import GatepostError, reason_of
from backend.core.policy.profile import ProfileError
from backend.runtime.settings import SettingsError

EXIT_USAGE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (SettingsError, ProfileError, GatepostError) as error:
        print(f"gatepost: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:  # of a file that no other place expects to fail: the disk is full, or a folder is gone
        where = f"{error.filename}: " if error.filename else ""
        print(f"gatepost: {where}{reason_of(error)}", file=sys.stderr)
        return EXIT_USAGE
    return code


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
