"""Gatepost next to what protects as much: websocketd that starts `bwrap`, and FastAPI with `bwrap`, a file and committed rows.

All take turns in one run. What has been measured is deleted at the end: ext4 makes new files slowly for minutes after many
were deleted.
"""

import random
import re
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench.levels import shown
from bench.measures import Figure, again_echo, percentile, rate, spread
from bench.output_path import texts
from bench.servers import Running, gatepost_server, obvious_server, websocketd_server
from bench.sockets import BATCH, Client, completed, gatepost, timed, websocketd
from bench.sockets import obvious as open_peer

ONCE = 100  # commands of a round
TEXT_SIZE = 16_000_000  # bytes of each kind of text
Connect = Callable[[], Client]


def commands(rounds: int) -> list[Figure]:
    """`echo hi` until it is complete, and commands a second, next to both."""
    bwrap = _bwrap()
    with (
        gatepost_server("true") as ours,
        websocketd_server(*bwrap, "/bin/echo", "hi") as simple,
        obvious_server(*bwrap, "/bin/echo", "hi") as obvious,
    ):
        ways: dict[str, Callable[[], list[float]]] = {
            "ours": lambda: _complete(gatepost(ours.port)),
            "websocketd + bwrap": lambda: [timed(lambda: _whole(websocketd(simple.port))) for _ in range(ONCE)],
            "FastAPI + bwrap + rows": lambda: _complete(open_peer(obvious.port)),
        }
        took: dict[str, list[float]] = {name: [] for name in ways}
        rates: dict[str, list[list[float]]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, once in ways.items():
                took[name] += once()
            for name, pair in _rates(ours, simple, obvious).items():
                rates[name].append(pair)
    return [figure for name in list(ways)[1:] for figure in _compared(name, took, rates)]


def kinds(rounds: int) -> list[Figure]:
    """Every kind of text, as messages and in batches, next to websocketd."""
    figures = []
    with gatepost_server("true") as ours:
        for number, (name, made) in enumerate(texts(random.Random(1)).items()):
            file = ours.workspace / f"{number}.txt"
            _fill(file, made)
            figures += _of_kind(name, ours, file, rounds)
    return figures


def _bwrap() -> list[str]:
    """bwrap with what a room shows; without a workspace, in the folder of the programs."""
    return [shutil.which("bwrap") or "bwrap", *shown(Path("/usr"))]


def _complete(client: Client) -> list[float]:
    """Seconds until each of some commands is complete."""
    seconds = []
    for _ in range(ONCE):
        begun = time.perf_counter()
        again_echo(client)
        client.until(b'"type":"complete"')
        seconds.append(time.perf_counter() - begun)
    client.close()
    return seconds


def _whole(client: Client) -> None:
    """All of a connection to websocketd."""
    client.drain(lambda _: False, keep=False)
    client.close()


def _rates(ours: Running, simple: Running, obvious: Running) -> dict[str, list[float]]:
    """Commands a second on 10 and on 50 connections."""
    ends: dict[str, tuple[Connect, Callable[[Client], None] | None, Callable[[bytes], bool] | None]] = {
        "ours": (lambda: gatepost(ours.port), again_echo, completed),
        "websocketd + bwrap": (lambda: websocketd(simple.port), None, None),
        "FastAPI + bwrap + rows": (lambda: open_peer(obvious.port), again_echo, completed),
    }
    return {name: [rate(*end, connections) for connections in (10, 50)] for name, end in ends.items()}


GOALS = {"websocketd + bwrap": (0.7, 2.0, 2.5), "FastAPI + bwrap + rows": (None, 2.5, 3.0)}


def _compared(name: str, took: dict[str, list[float]], rates: dict[str, list[list[float]]]) -> list[Figure]:
    most, *least = GOALS[name]
    ratio = percentile(took["ours"], 50) / percentile(took[name], 50)
    title, good = f"`echo hi` until complete, {name}", None if most is None else ratio <= most
    goal = "" if most is None else f"<= {most}x"
    figures = [Figure(title, f"{spread(took['ours'])}, {ratio:.2f}x", spread(took[name]), goal, good)]
    for number, (connections, wanted) in enumerate(zip((10, 50), least, strict=True)):
        mine, peer = (statistics.median(each[number] for each in rates[who]) for who in ("ours", name))
        title, value = f"the same on {connections} connections", f"{mine:.0f}/s, {mine / peer:.2f}x"
        figures.append(Figure(title, value, f"{peer:.0f}/s", f">= {wanted}x", mine / peer >= (wanted or 0)))
    return figures


def _fill(file: Path, made: Callable[[int], str | bytes]) -> None:
    size, number = 0, 0
    with file.open("wb") as out:
        while size < TEXT_SIZE:
            line = made(number)
            size += out.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
            number += 1


def _of_kind(name: str, ours: Running, file: Path, rounds: int) -> list[Figure]:
    size, command = file.stat().st_size, f"cat {file.name}"
    with websocketd_server("cat", str(file)) as theirs:
        peer, lines, batch = [], [], []
        for _ in range(rounds):
            peer.append(timed(lambda: _whole(websocketd(theirs.port))))
            lines.append(_streamed(ours, command, "", size))
            batch.append(_streamed(ours, command, BATCH, size))
    pairs = ((f"{name}, a message a line", lines, 6.0), (f"{name}, batched", batch, 20.0))
    return [_faster(title, mine, peer, size, goal) for title, mine, goal in pairs]


def _streamed(server: Running, command: str, more: str, size: int) -> float:
    """Seconds until all of a file has arrived, recorded."""
    client = gatepost(server.port, more)
    begun = time.perf_counter()
    client.send({"command": command})
    data = client.drain(completed)
    seconds = time.perf_counter() - begun
    client.close()
    if re.findall(rb'"stdout_bytes":(\d+)', data) != [str(size).encode()]:
        raise AssertionError(f"{command} was not streamed as a whole: {data[-300:]!r}")
    return seconds


def _faster(title: str, mine: list[float], peer: list[float], size: int, goal: float) -> Figure:
    ratio = statistics.median(peer) / statistics.median(mine)
    rates = [size / 1e6 / statistics.median(each) for each in (mine, peer)]
    return Figure(title, f"{rates[0]:.0f} MB/s, {ratio:.1f}x", f"{rates[1]:.1f} MB/s", f">= {goal:g}x", ratio >= goal)
