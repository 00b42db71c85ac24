"""`python -m bench.hostile [--seconds N] [--only NAME]`: what another client notices of each attack, as a Markdown table."""

import argparse
import http.client
import json
import multiprocessing
import resource
import secrets
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode

from bench.hostile.registry import ATTACKS, run_attack
from bench.measures import MIB, spread
from bench.servers import Running, gatepost_server
from bench.sockets import Client, gatepost, timed

# The client that measures is an account; all other limits are the defaults.
SETTINGS = {"GATEPOST_USER_RATE": "1000000/minute", "GATEPOST_HTTP_RATE": "1000000/minute"}
PAUSE = 0.02  # seconds between two measurements
FAILED = 60.0  # seconds that a measurement counts for which got no answer


@dataclass(slots=True)
class Noticed:
    """What the other client measured: seconds of each answer, and the most memory that the server had."""

    echo: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    refused: int = 0
    memory: int = 0


def main() -> int:
    """Run the attacks and print what came of them."""
    parser = argparse.ArgumentParser(prog="bench.hostile", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--only", choices=ATTACKS)
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| attack | `echo` alone | under attack | `/healthz` alone | under attack | no answer | memory |")
    print("|---|---|---|---|---|---|---|")
    for name in ATTACKS:
        if options.only in {None, name}:
            print(row(name, options.seconds), flush=True)
    return 0


def row(name: str, seconds: float) -> str:
    """A line of the table: one attack on a server of its own."""
    with tempfile.TemporaryDirectory() as folder:
        password = Path(folder) / "password"
        password.write_text(secrets.token_hex())
        with gatepost_server("env", SETTINGS | {"GATEPOST_ADMIN_PASSWORD_FILE": str(password)}) as server:
            token = log_in(server, password.read_text())
            alone = notice_for(server, token, seconds)
            under = notice_attack(server, token, name, seconds)
    return (
        f"| {name} | {spread(alone.echo)} | {spread(under.echo)} | {spread(alone.health)} | {spread(under.health)} "
        f"| {under.refused} | {(under.memory - alone.memory) / MIB:+.0f} MiB |"
    )


def log_in(server: Running, password: str) -> str:
    """A token of the first account."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=FAILED)
    form = urlencode({"username": "admin", "password": password})
    connection.request("POST", "/api/auth/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
    return str(json.load(connection.getresponse())["access_token"])


def notice_for(server: Running, token: str, seconds: float) -> Noticed:
    """Measure a server without other clients."""
    end = time.monotonic() + seconds
    return notice(server, token, lambda: time.monotonic() > end)


def notice_attack(server: Running, token: str, name: str, seconds: float) -> Noticed:
    """Measure a server while it is attacked from another process."""
    url = f"http://127.0.0.1:{server.port}"
    attacker = multiprocessing.get_context("spawn").Process(target=run_attack, args=(name, url, seconds, token))
    attacker.start()
    try:
        return notice(server, token, lambda: not attacker.is_alive())
    finally:
        attacker.kill()
        attacker.join()


def notice(server: Running, token: str, over: Callable[[], bool]) -> Noticed:
    """Measure until it is `over`, each kind of answer on a thread of its own."""
    noticed = Noticed(memory=server.memory())
    kinds = [(noticed.echo, lambda: echo(server.port, token)), (noticed.health, lambda: health(server.port))]
    threads = [threading.Thread(target=measure, args=(noticed, *kind, over)) for kind in kinds]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        noticed.memory = max(noticed.memory, server.memory())
        time.sleep(PAUSE)
    return noticed


def measure(noticed: Noticed, seconds: list[float], action: Callable[[], object], over: Callable[[], bool]) -> None:
    """Add the time of each answer; one that does not come is a very late one."""
    while not over():
        try:
            seconds.append(timed(action))
        except OSError:
            noticed.refused += 1
            seconds.append(FAILED)
        time.sleep(PAUSE)


def echo(port: int, token: str) -> None:
    """A command on a new connection, as its user sees it."""
    client: Client = gatepost(port, f"Authorization: Bearer {token}\r\n")
    try:
        client.send({"command": "echo hi"})
        if b'"type":"stdout"' not in client.until(b'"type":"complete"'):
            raise ConnectionError("no output")
    finally:
        client.close()


def health(port: int) -> None:
    """The probe of a platform."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=FAILED)
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    connection.close()


if __name__ == "__main__":
    sys.exit(main())
