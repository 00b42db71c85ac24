"""`python -m bench.audit_commit`: what the audit and the history of a command cost, its two transactions in SQLite.

Prints user instructions, counted by valgrind, and microseconds of processor time for each command, one after another and 32
at once. The start is subtracted: a child process writes FEW commands, another one writes as many and COMMANDS more.
"""

import asyncio
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from backend.accounts.signatures import Signer, new_signing_key
from backend.core.audit.attempts import Attempt, Completion
from backend.core.decisions import Decision, Risk
from backend.core.execution.model import Status, Usage
from backend.core.identity import Principal
from backend.runtime.clock import new_id
from backend.storage import commit_queue
from backend.storage.execution_log import SqlExecutionLog
from bench.keeping import open_executions

FEW, COMMANDS = 64, 1920
COUNTED = 192  # of them under valgrind
SLOWER = 50  # times that a program is under valgrind: the interval of signatures is as much longer there
TOTAL = re.compile(r"I +refs: +([\d,]+)")


def main() -> None:
    """Print a row for each number of commands at once; as a child, write commands."""
    if len(sys.argv) > 1:
        at_once, count, slower = map(int, sys.argv[1:])
        commit_queue.SIGN_AFTER *= slower
        asyncio.run(_write(at_once, count))
        return
    print("| commands at once | M instructions | us of processor time |\n|---|---|---|")
    for at_once in (1, 32):
        instructions = (_instructions(at_once, FEW + COUNTED) - _instructions(at_once, FEW)) / COUNTED
        seconds = (_seconds(at_once, FEW + COMMANDS) - _seconds(at_once, FEW)) / COMMANDS
        print(f"| {at_once} | {instructions / 1e6:.3f} | {seconds * 1e6:.0f} |", flush=True)


def _words(at_once: int, count: int, slower: int) -> list[str]:
    return [sys.executable, "-m", "bench.audit_commit", str(at_once), str(count), str(slower)]


def _instructions(at_once: int, count: int) -> int:
    words = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    done = subprocess.run([*words, *_words(at_once, count, SLOWER)], stderr=subprocess.PIPE, check=True, text=True)
    [total] = TOTAL.findall(done.stderr)
    return int(total.replace(",", ""))


def _seconds(at_once: int, count: int) -> float:
    """The processor time of a process that writes commands."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(_words(at_once, count, 1), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def _write(at_once: int, count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="gatepost-bench-") as name:
        async with open_executions(Path(name), Signer(new_signing_key())) as executions:
            for _ in range(count // at_once):
                await asyncio.gather(*(_command(executions) for _ in range(at_once)))


async def _command(executions: SqlExecutionLog) -> None:
    who, decision = Principal("user:bench", "127.0.0.1"), Decision(True, "allow.echo", Risk.SAFE, "It is allowed.")
    attempt = Attempt(new_id(), who, "local", None, "echo hi", (("echo", "hi"),), ".", decision, "f" * 64)
    await executions.open(attempt)
    await executions.close(attempt, Completion(Status.SUCCEEDED, 0, 2, usage=Usage(protection="L2")))


if __name__ == "__main__":
    main()
