"""`python -m bench.instructions`: the user instructions that the server executes for one `echo hi` over a terminal.

Instructions differ by a few per cent between runs, however busy the machine is. `perf stat` counts those of the server alone,
not of the commands; where the processor has no counters for it, valgrind simulates one: then the start takes minutes, and the
cage has what valgrind knows of the kernel.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from bench.servers import GENEROUS, gatepost_server
from bench.sockets import completed, gatepost, timed

WARM = 50  # commands before counting begins: threads are started, caches are filled
COUNTER = "instructions:u"
GOAL = 4e6
START_BOUND = 600.0  # seconds for a server under valgrind
TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)


def main() -> int:
    """Measure and print; exit code 1 when the goal was missed, 2 where nothing can count."""
    parser = argparse.ArgumentParser(prog="bench.instructions", description=__doc__)
    parser.add_argument("--commands", type=int, default=300)
    parser.add_argument("--profile", type=Path, help="store what valgrind finds, for callgrind_annotate")
    parser.add_argument("--port", type=int, help="only run the commands, on this server")
    options = parser.parse_args()
    if options.port:
        run(options.port, options.commands)
        return 0
    if not options.profile and has_counter():
        total = with_perf(options.commands)
    elif shutil.which("valgrind"):
        total = with_valgrind(options.commands, options.profile)
    else:
        print("bench: perf with the counters of a processor is required, or valgrind", file=sys.stderr)
        return 2
    each = total / options.commands
    print(f"{each / 1e6:.2f} M user instructions for a command (goal: {GOAL / 1e6:.0f} M)")
    return 0 if each <= GOAL else 1


def run(port: int, commands: int) -> None:
    """Run commands one after another, on one connection."""
    client = gatepost(port)
    for _ in range(commands):
        client.send({"command": "echo hi"})
        client.drain(completed, keep=False)
    client.close()


def has_counter() -> bool:
    """Whether `perf` can count instructions here."""
    if not shutil.which("perf"):
        return False
    done = subprocess.run(["perf", "stat", "-x,", "-e", COUNTER, "true"], capture_output=True, text=True, check=False)
    return done.returncode == 0 and _counted(done.stderr).isdigit()


def _counted(printed: str) -> str:
    return next((line.split(",")[0] for line in printed.splitlines() if COUNTER in line), "")


def with_perf(commands: int) -> int:
    """Count in the threads of the server while another process has the commands run."""
    with gatepost_server("true") as server:
        run(server.port, WARM)
        counting = ["perf", "stat", "-x,", "--no-inherit", "-e", COUNTER, "-p", str(server.pid), "--"]
        client = [sys.executable, "-m", "bench.instructions", "--port", str(server.port), "--commands", str(commands)]
        return int(_counted(subprocess.run(counting + client, capture_output=True, text=True, check=True).stderr))


def with_valgrind(commands: int, profile: Path | None) -> int:
    """Count in a simulated processor. Valgrind may not know Landlock, so no protection is required."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "found"
        simulated = ["valgrind", "-q", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={found}"]
        words = [*simulated, sys.executable, "-m", "bench.simulated"]
        settings = GENEROUS | {"GATEPOST_PROTECTION_MINIMUM": "L0"}
        with gatepost_server("true", settings, words, START_BOUND) as server:
            run(server.port, WARM)
            control = partial(_control, server.pid)
            control("--instr=on")
            run(server.port, WARM)
            control("--zero")
            seconds = timed(lambda: run(server.port, commands))
            control("--dump=commands")
            time.sleep(seconds)  # what the server does of itself is no part of a command, and commands take long here
            control("--dump=idle")
        busy, idle = sorted(Path(folder).glob("found.*"), key=lambda path: path.stat().st_mtime_ns)[:2]
        if profile:
            shutil.copy(busy, profile)
        return _total(busy) - _total(idle)


def _control(pid: int, what: str) -> None:
    subprocess.run(["callgrind_control", what, str(pid)], check=True, capture_output=True)


def _total(dump: Path) -> int:
    return int(TOTAL.findall(dump.read_text())[-1])


if __name__ == "__main__":
    sys.exit(main())
