"""`protection`: the self-test of the cage."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from backend.runtime.settings import load_settings


def add_verbs(verbs: Any) -> None:
    """Add `protection` to the command line."""
    protection = verbs.add_parser("protection", help="test how commands are confined on this machine")
    protection.add_argument("--data-dir", type=Path, help="folder that the cage is stored in (GATEPOST_DATA_DIR, data)")
    protection.add_argument("--json", action="store_true", help="print JSON on a terminal too")
    protection.set_defaults(run=_protection)


def _protection(options: argparse.Namespace) -> int:
    from backend.runtime.preflight import build_guard

    settings = load_settings(**({"data_dir": options.data_dir} if options.data_dir else {}))
    guard = build_guard(settings)
    found = guard.protection
    plain = sys.stdout.isatty() and not options.json
    print(found.table() if plain else json.dumps(found.as_json()))
    return 0 if guard.unprotected() is None else 1
