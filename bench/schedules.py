"""`python -m bench.schedules [--schedules 1000] [--seconds 30]`: the processor time of a server at rest, with schedules and without."""

import argparse
import os
import sqlite3
import sys
import time
from pathlib import Path

from bench.servers import Running, gatepost_server

GOAL = 1.0  # percent of one processor
SETTLE = 5.0  # seconds after the start that are not measured


def main() -> int:
    """Measure and print; exit code 1 when the goal was missed."""
    parser = argparse.ArgumentParser(prog="bench.schedules", description=__doc__)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    shares = []
    for count in (0, options.schedules):
        with gatepost_server("env") as server:
            add_schedules(server, count)
            time.sleep(SETTLE)
            shares.append(share(server, options.seconds))
            print(f"{count} schedules: {shares[-1]:.2f} % of one processor", flush=True)
    return 0 if shares[-1] < GOAL else 1


def add_schedules(server: Running, count: int) -> None:
    """Schedules of the first account that are due in a year."""
    due = (int(time.time()) + 365 * 86400) * 1000
    with sqlite3.connect(server.data / "gatepost.db", timeout=30) as database:
        (owner,) = database.execute("select id from users").fetchone()
        rows = [(f"{number:026}", owner, f"{number}", due) for number in range(count)]
        database.executemany(
            "insert into schedules values (?, ?, ?, 'pwd', 'local', '.', null, '0 0 1 1 *', 'UTC', 'skip', 'skip', 0, 0, 60, 0, ?)",
            rows,
        )
    database.close()


def share(server: Running, seconds: float) -> float:
    """Processor time of the server over so many seconds, in percent."""
    before = processor_time(server.pid)
    time.sleep(seconds)
    return 100 * (processor_time(server.pid) - before) / seconds


def processor_time(pid: int) -> float:
    """Seconds, of all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
