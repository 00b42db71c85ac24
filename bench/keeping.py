"""What it costs to keep records: the audit and history of a command, a page of a long history, the check of the chain."""

import asyncio
import http.client
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from backend.accounts.signatures import Signer, new_signing_key, verify_signature
from backend.core.audit.attempts import Attempt, Completion
from backend.core.audit.chain import EMPTY, TrustedKey, extend
from backend.core.audit.events import Event, Kind
from backend.core.decisions import Decision, Risk
from backend.core.execution.model import Status, Usage
from backend.core.identity import Principal
from backend.core.ids import first_id
from backend.core.recording.messages import Complete
from backend.core.recording.writer import Recorder
from backend.runtime.clock import new_id, now_ms, utc_now
from backend.storage.audit_chain import Chain
from backend.storage.audit_head import LedgerContext
from backend.storage.audit_log import SqlAuditLog
from backend.storage.commit_queue import CommitQueue
from backend.storage.database import Database, database_url
from backend.storage.execution_figures import HourlyFigures
from backend.storage.execution_log import SqlExecutionLog
from backend.storage.keys import AuditKeys
from backend.storage.recordings import FileRecordings
from bench.servers import ROOT, Running, gatepost_server

ROWS, PROJECTS, EVENTS, COMMANDS, TIMES = 1_000_000, 20, 200_000, 300, 100
APART_MS = 2540  # between two rows, which are those of nearly 30 days
ROW = """
insert into executions
  (id, principal, user_id, target, project_id, command, working_dir, status, exit_code, duration_ms, risk, rule, deletes, dry_run,
   metadata_only, protection, folder, created_ms)
values (?,'user:bench',?,'project:' || ?,?,'echo hi','.','succeeded',0,2,'safe','allow.echo',0,0,0,'L2','x',?)
"""
EVENT = "insert into audit_events values (?,?,?)"
HEAD = "update audit_head set seq = ?, hash = ?, signature = ?"


@asynccontextmanager
async def open_executions(folder: Path, signer: Signer) -> AsyncIterator[SqlExecutionLog]:
    database = Database(database_url(None, folder))
    await database.migrate()
    keys = AuditKeys(folder / "audit.key", Signer, signer)
    queue = CommitQueue(database, LedgerContext(now_ms, utc_now, new_id, keys, verify_signature))
    await SqlAuditLog(queue).prepare()
    try:
        yield SqlExecutionLog(queue, "bench", "bench")
    finally:
        await queue.close()
        await database.close()


def keeping_seconds() -> list[float]:
    """Of each command: what is written to the history, the audit and the recording, the flushes to the disk included."""
    return asyncio.run(_keep_commands())


async def _keep_commands() -> list[float]:
    seconds = []
    with tempfile.TemporaryDirectory(prefix="gatepost-bench-") as name:
        recordings = FileRecordings(Path(name) / "recordings")
        async with open_executions(Path(name), Signer(new_signing_key())) as executions:
            for _ in range(COMMANDS):
                begun = time.perf_counter()
                await _keep(executions, recordings)
                seconds.append(time.perf_counter() - begun)
    return seconds


async def _keep(executions: SqlExecutionLog, recordings: FileRecordings) -> None:
    decision = Decision(True, "allow.echo", Risk.SAFE, "It is allowed.")
    attempt = Attempt(
        new_id(),
        Principal("socket:bench", "127.0.0.1"),
        "local",
        None,
        "echo hi",
        (("echo", "hi"),),
        ".",
        decision,
        "policy",
    )
    log = recordings.create(attempt.id)
    await executions.open(attempt)
    await executions.close(attempt, Completion(Status.SUCCEEDED, 0, 2, usage=Usage(protection="L2")))
    Recorder(attempt.id, log, time.monotonic).end(_complete())


def _complete() -> Complete:
    return Complete(
        status=Status.SUCCEEDED,
        exit_code=0,
        signal=None,
        duration_ms=2,
        timed_out=False,
        truncated=False,
        stdout_bytes=3,
        stderr_bytes=0,
    )


def verified_per_second(rounds: int) -> float:
    """Events a second of a chain in SQLite."""
    return asyncio.run(_verify(rounds))


async def _verify(rounds: int) -> float:
    signer, rates = Signer(new_signing_key()), []
    with tempfile.TemporaryDirectory(prefix="gatepost-bench-") as name:
        async with open_executions(Path(name), signer) as executions:
            _make_chain(Path(name) / "gatepost.db", signer)
            for _ in range(rounds):
                begun = time.perf_counter()
                verdict = await Chain(executions.queue.database).verify(TrustedKey(signer.public, verify_signature))
                rates.append(EVENTS / (time.perf_counter() - begun))
                if verdict.problem:
                    raise AssertionError(verdict.problem)
    return statistics.median(rates)


def _make_chain(path: Path, signer: Signer) -> None:
    fields = {"execution": new_id(), "command": "ls -la src", "argv": [["ls", "-la", "src"]], "rule": "allow.ls"}
    more = {"project": new_id(), "policy": "f" * 64, "risk": "safe", "working_dir": "."}
    event = Event(new_id(), utc_now(), Kind.SUBMITTED, "user:bench", "127.0.0.1", {**fields, **more})
    with sqlite3.connect(path) as database:
        head, links = extend(EMPTY, (event for _ in range(EVENTS)))
        database.executemany(EVENT, ((link.seq, link.body, link.hash) for link in links))
        database.execute(HEAD, (head.seq, head.hash, signer.sign(head.statement())))
    database.close()


class Asked(NamedTuple):
    """How long each answer of a server took whose history is long, in seconds."""

    pages: list[float]  # GET /api/agent/history/{project}
    stats: list[float]  # GET /api/agent/stats


def asked_seconds() -> Asked:
    """A server that is asked again and again."""
    with gatepost_server("true") as server:
        token = _administrator(server)
        project = _ask(server, token, "POST", "/api/projects", {"name": "bench"})["id"]
        with sqlite3.connect(server.data / "gatepost.db", timeout=30) as database:
            database.execute("delete from summarised_hours")  # these rows come too late for it
            database.executemany(ROW, _rows(project, _ask(server, token, "GET", "/api/auth/me", None)["id"]))
        database.close()
        asyncio.run(_summarise(server.data))
        pages = _seconds(server, token, f"/api/agent/history/{project}", lambda page: len(page) == 50)
        return Asked(
            pages, _seconds(server, token, "/api/agent/stats?days=30", lambda found: found["total_commands"] == ROWS)
        )


async def _summarise(folder: Path) -> None:
    database = Database(database_url(None, folder))
    await HourlyFigures(database).summarise(now_ms())
    await database.close()


def _seconds(server: Running, token: str, path: str, as_expected: Callable[[Any], bool]) -> list[float]:
    seconds = []
    for _ in range(TIMES):
        begun = time.perf_counter()
        found = _ask(server, token, "GET", path, None)
        seconds.append(time.perf_counter() - begun)
        if not as_expected(found):
            raise AssertionError(f"{path}: {found}")
    return seconds


def _rows(project: str, user: str) -> Iterator[tuple[str, str, str, str, int]]:
    owners = [project, *(f"{number:026d}" for number in range(1, PROJECTS))]
    first = now_ms() - ROWS * APART_MS
    for number in range(ROWS):
        made, owner = first + number * APART_MS, owners[number % PROJECTS]
        yield f"{first_id(made)[:-16]}{number:016d}", user, owner, owner, made


def _administrator(server: Running) -> str:
    """A token of the account that the server made."""
    words = ["token", "create", "--user", "admin", "--name", "bench", "--scopes", "read execute admin"]
    environment = {"PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "backend", *words, "--data-dir", str(server.data)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


def _ask(server: Running, token: str, method: str, path: str, body: object) -> dict[str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status >= 300:
        raise AssertionError(f"{path}: {answer.status} {text!r}")
    found: dict[str, str] = json.loads(text)
    return found
