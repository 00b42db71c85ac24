"""`agent`: the daemon of a host, which runs commands that arrive over Redis."""

import argparse
from pathlib import Path
from typing import Any

from backend.runtime.settings import load_settings


def add_verb(verbs: Any) -> None:
    """Add `agent` to the command line."""
    agent = verbs.add_parser("agent", help="run commands on this host that arrive over Redis")
    agent.add_argument("--data-dir", type=Path, help="folder of recordings and audit (GATEPOST_DATA_DIR, data)")
    agent.set_defaults(run=_agent)


def _agent(options: argparse.Namespace) -> int:
    from backend.runtime.agent_settings import load_agent_settings
    from backend.runtime.host_agent import run_agent  # imports everything, which other verbs do without

    settings = load_settings(**({"data_dir": options.data_dir} if options.data_dir else {}))
    run_agent(settings, load_agent_settings())
    return 0
