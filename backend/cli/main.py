"""The command line: each verb has a module of its own."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module

from backend import __version__
from backend.cli.failures import said
from backend.runtime.collector import nothing_is_garbage

# The module whose `add_verbs` adds a verb. Only the one that is used is imported: an agent keeps what it imports for weeks.
VERBS = {
    "serve": "serve",
    "agent": "agent",
    "host": "host",
    "runner": "runner",
    "policy": "policy",
    "protection": "protection",
    "user": "accounts",
    "token": "accounts",
    "audit": "audit",
    "schedule": "schedule",
    "notification": "notification",
    "hook": "hook",
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
    with nothing_is_garbage():
        for module in [VERBS[verb]] if verb in VERBS else dict.fromkeys(VERBS.values()):
            import_module(f"backend.cli.{module}").add_verbs(verbs)
    return parser
