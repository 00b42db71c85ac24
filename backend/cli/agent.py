"""`agent`: the daemon of a host, which runs commands that arrive over Redis."""

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.runtime.settings import Settings, load_settings

if TYPE_CHECKING:
    from backend.runtime.agent_settings import AgentSettings


def add_verbs(verbs: Any) -> None:
    """Add `agent` to the command line."""
    agent = verbs.add_parser("agent", help="run commands on this host that arrive over Redis")
    agent.add_argument("--data-dir", type=Path, help="folder of recordings and audit (GATEPOST_DATA_DIR, data)")
    agent.add_argument("--check", action="store_true", help="say what is missing and what to do, and end")
    agent.set_defaults(run=_agent)


def _agent(options: argparse.Namespace) -> int:
    from backend.runtime.agent_settings import load_agent_settings
    from backend.runtime.host_agent import run_agent  # imports everything, which other verbs do without

    settings = load_settings(**({"data_dir": options.data_dir} if options.data_dir else {}))
    own = load_agent_settings()
    if options.check:
        return _check(settings, own)
    run_agent(settings, own)
    return 0


def _check(settings: Settings, own: "AgentSettings") -> int:
    from backend.runtime.agent_check import check_agent

    findings = asyncio.run(check_agent(settings, own))
    print(*findings, sep="\n")
    return 1 if any(finding.problem for finding in findings) else 0
