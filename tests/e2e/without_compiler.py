"""`python without_compiler.py WORD ...`: `python -m backend WORD ...` on a machine that seems to have no C compiler."""

import runpy

from backend.executors.local import cage_binary

if __name__ == "__main__":
    cage_binary.COMPILERS = ()  # type: ignore[assignment]
    runpy.run_module("backend", run_name="__main__", alter_sys=True)
