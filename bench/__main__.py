"""`python -m bench [--rounds N] [--only NAME]`: Gatepost next to its peers, in one run, as a Markdown table."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from bench import measures, peers
from bench.measures import Figure

MEASURES = {**measures.MEASURES, "peers": peers.commands, "kinds": peers.kinds}
NEEDED = ("websocketd", "bwrap")


def main() -> int:
    """Measure and print; exit code 1 when a goal was missed."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=MEASURES)
    options = parser.parse_args()
    if missing := [name for name in NEEDED if not shutil.which(name)]:
        print(f"bench: required: apt-get install {' '.join(missing).replace('bwrap', 'bubblewrap')}", file=sys.stderr)
        return 2
    print(f"{machine()}\n\n| measure | Gatepost | peer | goal | |\n|---|---|---|---|---|")
    good = True
    for name, measure in MEASURES.items():
        if options.only in {None, name}:
            for figure in measure(options.rounds):
                good &= figure.good is not False
                print(row(figure), flush=True)
    return 0 if good else 1


def row(figure: Figure) -> str:
    """A line of the table."""
    verdict = {True: "ok", False: "MISSED", None: ""}[figure.good]
    return f"| {figure.name} | {figure.value} | {figure.against} | {figure.goal} | {verdict} |"


def machine() -> str:
    """What the figures were measured on."""
    models = [line.partition(":")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    found = shutil.which("websocketd")
    peer = (
        subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout.split()
        if found
        else []
    )
    return (
        f"{os.cpu_count()} x{models[0] if models else ' unknown'}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}, uvicorn {version('uvicorn')}, {' '.join(peer[:2])}"
    )


if __name__ == "__main__":
    sys.exit(main())
