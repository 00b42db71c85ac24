"""What is measured. Each function takes the number of rounds and returns figures with their goals."""

import selectors
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.keeping import ROWS, asked_seconds, keeping_seconds, verified_per_second
from bench.servers import Running, gatepost_server, websocketd_server
from bench.sockets import BATCH, Client, check_lines, completed, gatepost, timed, websocketd
from bench.viewers import VIEWERS, flood, shared_command

LINES = 1_000_000
WIDE_LINES = 100_000
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `good` says whether the goal was met, None if there is no goal."""

    name: str
    value: str
    against: str
    goal: str = ""
    good: bool | None = None


def streaming(rounds: int) -> list[Figure]:
    """Lines a second to one client, recorded, against websocketd's best and median."""
    with gatepost_server("seq") as ours, websocketd_server("seq", "1", str(LINES)) as theirs:
        command = f"pyguard 1 {LINES}"
        lines, batch, peer = [], [], []
        for _ in range(rounds):
            peer.append(LINES / timed(lambda: _all_of_websocketd(theirs.port)))
            lines.append(LINES / _stream(ours.port, command, "", LINES))
            batch.append(LINES / _stream(ours.port, command, BATCH, LINES))
    figures = [
        _ratio("`seq 1 1000000`, a message a line", lines, peer, 15),
        _ratio("`seq 1 1000000`, `gatepost.v1.batch`", batch, peer, 60),
    ]
    return figures + _wide(rounds)


def _wide(rounds: int) -> list[Figure]:
    with gatepost_server("true") as ours:
        file = ours.workspace / "wide.txt"
        file.write_text("".join(f"{number:0200d}\n" for number in range(WIDE_LINES)))
        with websocketd_server("cat", str(file)) as theirs:
            lines, peer = [], []
            for _ in range(rounds):
                peer.append(WIDE_LINES / timed(lambda: _all_of_websocketd(theirs.port)))
                lines.append(WIDE_LINES / _stream(ours.port, "cat wide.txt", "", WIDE_LINES))
    return [_ratio("200-character lines, a message a line", lines, peer)]


def _all_of_websocketd(port: int) -> None:
    client = websocketd(port)
    client.drain(lambda _: False, keep=False)
    client.close()


def _stream(port: int, command: str, more: str, lines: int) -> float:
    client = gatepost(port, more)
    begun = time.perf_counter()
    client.send({"command": command})
    data = client.drain(completed)
    seconds = time.perf_counter() - begun
    client.close()
    check_lines(data, lines)
    return seconds


def _ratio(name: str, ours: list[float], peer: list[float], goal: float = 0) -> Figure:
    median, best = statistics.median(peer), max(peer)
    mine = statistics.median(ours)
    value = f"{mine / 1e6:.2f} M lines/s, {mine / median:.0f}x ({mine / best:.0f}x its best)"
    against = f"websocketd {median / 1e6:.3f} ({best / 1e6:.3f}) M lines/s"
    return Figure(name, value, against, f">= {goal:g}x" if goal else "", mine / best >= goal if goal else None)


def latency(rounds: int) -> list[Figure]:
    """`echo hi`: time to the first line, and commands a second on ten connections."""
    with gatepost_server("true") as ours, websocketd_server("echo", "hi") as theirs:
        mine, peer, my_rate, peer_rate = [], [], [], []
        for _ in range(rounds):
            mine += _echo_gatepost(gatepost(ours.port), 300)
            peer += [_echo_websocketd(theirs.port) for _ in range(300)]
            my_rate.append(rate(lambda: gatepost(ours.port), again_echo, completed))
            peer_rate.append(rate(lambda: websocketd(theirs.port), None, None))
    ratio = percentile(mine, 50) / percentile(peer, 50)
    ours_a_second = statistics.median(my_rate)
    return [
        Figure("`echo hi`, first line", f"{spread(mine)}, {ratio:.2f}x", spread(peer), "<= 3x", ratio <= 3),
        Figure(
            "`echo hi` on 10 connections",
            f"{ours_a_second:.0f}/s, {ours_a_second / statistics.median(peer_rate):.2f}x",
            f"{statistics.median(peer_rate):.0f}/s",
            ">= 300/s",
            ours_a_second >= 300,
        ),
    ]


def again_echo(client: Client) -> None:
    client.send({"command": "echo hi"})


def _echo_gatepost(client: Client, times: int) -> list[float]:
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        again_echo(client)
        data = client.until(b'"type":"stdout"')
        seconds.append(time.perf_counter() - begun)
        if not completed(data):
            client.until(b'"type":"complete"')
    return seconds


def _echo_websocketd(port: int) -> float:
    begun = time.perf_counter()
    client = websocketd(port)
    client.until(b"\x81\x02hi")
    seconds = time.perf_counter() - begun
    client.drain(lambda _: False, keep=False)
    client.close()
    return seconds


def rate(
    connect: Callable[[], Client],
    again: Callable[[Client], None] | None,
    done: Callable[[bytes], bool] | None,
    connections: int = 10,
) -> float:
    """Commands a second on so many connections. Without `again` each command is a new connection."""
    selector, count, length = selectors.DefaultSelector(), 0, 2.0
    for _ in range(connections):
        _begin(selector, connect(), again)
    begun = time.perf_counter()
    while time.perf_counter() - begun < length:
        for key, _ in selector.select(1):
            client: Client = key.data[0]
            data = client.socket.recv(65536)
            key.data[1] = (key.data[1] + data)[-2048:]
            if not (done(key.data[1]) if done else not data):
                continue
            count += 1
            selector.unregister(client.socket)
            if again is None:
                client.close()
                client = connect()
            _begin(selector, client, again)
    for key in list(selector.get_map().values()):
        key.data[0].close()
    return count / length


def _begin(selector: selectors.BaseSelector, client: Client, again: Callable[[Client], None] | None) -> None:
    selector.register(client.socket, selectors.EVENT_READ, [client, b""])
    if again:
        again(client)


def concurrent(rounds: int) -> list[Figure]:
    """`echo` alone and while another socket streams at full speed, with what that leaves of the stream."""
    with gatepost_server("yes") as ours:
        client = gatepost(ours.port)
        alone = _echo_gatepost(client, 100 * rounds)
        with flood(ours) as stream:
            speed = stream.speed(rounds)
            begun, sent = time.perf_counter(), stream.size
            beside = _echo_gatepost(client, 100 * rounds)
            left = (stream.size - sent) / (time.perf_counter() - begun) / speed
    ratio = percentile(beside, 99) / percentile(alone, 99)
    shown = f"{spread(beside)}, {ratio:.2f}x of {spread(alone)} alone"
    return [
        Figure("`echo hi` next to `yes` at full speed", shown, "", "p99 <= 2x", ratio <= 2),
        Figure("what that leaves of the stream", f"{left:.0%}", "", ">= 85 %", left >= 0.85),
    ]


def viewers(_: int) -> list[Figure]:
    """Many viewers of one command."""
    found = shared_command()
    grown = found.grown / MIB
    each = f"{found.microseconds:.3f} us a line ({found.alone:.2f} for the first)"
    return [
        Figure(f"each of {VIEWERS} viewers of a command", each, "", "<= 0.08 us", found.microseconds <= 0.08),
        Figure(f"growth while {VIEWERS} viewers read", f"{grown:.0f} MiB", "", "<= 32 MiB", grown <= 32),
    ]


def memory(_: int) -> list[Figure]:
    """An idle socket, a client that reads nothing, output without line ends."""
    return [_idle(), _unread(), _endless_line()]


def _idle(count: int = 1000) -> Figure:
    with gatepost_server("true") as ours:
        gatepost(ours.port).send({"command": "echo hi"})
        before = ours.memory()
        clients = [gatepost(ours.port) for _ in range(count)]
        kib = (ours.memory() - before) / count / 1024
        for client in clients:
            client.close()
    return Figure("memory of an idle socket", f"{kib:.0f} KB", "", "<= 32 KB", kib <= 32)


def _unread() -> Figure:
    with gatepost_server("yes") as ours:
        _warm(ours)
        before = ours.memory()
        client = gatepost(ours.port)
        client.send({"command": "pyguard"})
        mib = peak(ours, before, lambda: time.sleep(10))
        client.close()
    return Figure("growth while a client reads nothing of `yes` for 10 s", f"{mib:.1f} MiB", "", "< 8 MiB", mib < 8)


def _endless_line() -> Figure:
    script = Path(__file__).parent / "endless_line.py"
    with gatepost_server(f"python3 {script}") as ours:
        _warm(ours)
        before = ours.memory()
        client = gatepost(ours.port)
        client.send({"command": "pyguard"})
        mib = peak(ours, before, lambda: client.drain(completed, keep=False))
        client.close()
    return Figure("growth over 1 GB without a line end", f"{mib:.1f} MiB", "", "< 8 MiB", mib < 8)


def _warm(server: Running) -> None:
    client = gatepost(server.port)
    _echo_gatepost(client, 20)
    client.close()


def peak(server: Running, before: int, action: Callable[[], object]) -> float:
    """The most that the server grew while `action` ran, in MiB."""
    thread = threading.Thread(target=action)
    thread.start()
    peak = before
    while thread.is_alive():
        peak = max(peak, server.memory())
        thread.join(0.05)
    return (peak - before) / MIB


def keeping(rounds: int) -> list[Figure]:
    """The history and the audit."""
    kept = percentile(added := keeping_seconds(), 50)
    asked = asked_seconds()
    paged, counted = percentile(asked.pages, 50), percentile(asked.stats, 50)
    verified = verified_per_second(rounds)
    return [
        Figure("history, audit and recording of a command", spread(added), "", "p50 < 2 ms", kept < 0.002),
        Figure(f"`GET /api/agent/history`, {ROWS:,} rows", spread(asked.pages), "", "p50 < 20 ms", paged < 0.020),
        Figure(f"`GET /api/agent/stats`, {ROWS:,} rows", spread(asked.stats), "", "p50 <= 15 ms", counted <= 0.015),
        Figure("`audit verify`", f"{verified:,.0f} events/s", "", ">= 50,000/s", verified >= 50_000),
    ]


def percentile(seconds: list[float], percent: int) -> float:
    return sorted(seconds)[min(len(seconds) - 1, len(seconds) * percent // 100)]


def spread(seconds: list[float]) -> str:
    return f"p50 {percentile(seconds, 50) * 1e3:.2f}, p99 {percentile(seconds, 99) * 1e3:.2f} ms"


MEASURES = {
    "streaming": streaming,
    "latency": latency,
    "concurrent": concurrent,
    "viewers": viewers,
    "memory": memory,
    "keeping": keeping,
}
