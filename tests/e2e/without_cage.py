"""`python without_cage.py WORD ...`: `python -m backend WORD ...` of an installation that lost the cage."""

import runpy
from pathlib import Path

from backend.executors.local import cage_binary

if __name__ == "__main__":
    cage_binary.FOLDER = Path("/nowhere")
    runpy.run_module("backend", run_name="__main__", alter_sys=True)
