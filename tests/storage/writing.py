"""What a server writes, for tests; as a program, a process that writes until it is killed.

    python -m tests.storage.writing URL KEY_FILE COUNT

prints the id of each execution once the log has returned.
"""

import asyncio
import itertools
import secrets
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.accounts.signatures import Signer, new_signing_key, verify_signature
from backend.core.audit.attempts import Attempt, Completion
from backend.core.decisions import Decision, Risk
from backend.core.execution.model import Status, Usage
from backend.core.execution.ownership import Holdings
from backend.core.identity import Principal
from backend.storage.audit_chain import Chain
from backend.storage.audit_head import LedgerContext
from backend.storage.audit_log import SqlAuditLog
from backend.storage.checkpoint import AnchorFile
from backend.storage.commit_queue import CommitQueue
from backend.storage.database import Database
from backend.storage.execution_log import SqlExecutionLog
from backend.storage.keys import AuditKeys
from backend.storage.ownership import SqlOwnership
from tests.ids import numbered_id

TIME = "2026-01-02T03:04:05.678Z"
FOLDER = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
ANN = Principal("user:ann", "10.0.0.1")
ALLOWED = Decision(True, "allow.echo", Risk.SAFE, "")
ENDED = Completion(Status.SUCCEEDED, 0, 12, usage=Usage(protection="L2"))

_folder = tempfile.TemporaryDirectory(prefix="gatepost-keys-")
_numbers = itertools.count()


def new_id() -> str:
    return numbered_id(time.time_ns() // 1_000_000, secrets.randbits(24) << 40 | next(_numbers))


def attempt(command: str = "echo x", decision: Decision = ALLOWED, **fields: Any) -> Attempt:
    target = f"project:{fields['project']}" if fields.get("project") else "local"
    standard = {
        "principal": ANN,
        "target": target,
        "project": None,
        "argvs": (("echo", "x"),),
        "working_dir": ".",
        "policy": "p",
    }
    return Attempt(**{"id": new_id(), **standard, "command": command, "decision": decision, **fields})


def refusal(rule: str = "blocked.rm") -> Decision:
    return Decision.deny(rule, "No.", "Leave it.")


def keys_of(signer: Signer) -> AuditKeys:
    """The key alone, in a folder without files."""
    return AuditKeys(Path(_folder.name) / "audit.key", Signer, signer)


@dataclass(frozen=True, slots=True)
class Ledger:
    """What one server writes through."""

    queue: CommitQueue
    audit: SqlAuditLog
    executions: SqlExecutionLog
    ownership: SqlOwnership

    async def finish(self) -> None:
        """Write what is left."""
        self.executions.close_floods()
        await self.queue.close()


def ledger_with(
    database: Database,
    context: LedgerContext,
    folder: str = FOLDER,
    owner: str = "",
    checkpoint: Path | None = None,
    **fields: Any,
) -> Ledger:
    file = AnchorFile(checkpoint, Chain(database).lost) if checkpoint else None
    queue, holdings, owner = CommitQueue(database, context, file), Holdings(), owner or new_id()
    executions = SqlExecutionLog(queue, owner, folder, holdings, **fields)
    return Ledger(queue, SqlAuditLog(queue), executions, SqlOwnership(queue, owner, folder, holdings))


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def store(database: Database, signer: Signer, folder: str = FOLDER, **fields: Any) -> Ledger:
    context = LedgerContext(now_ms, lambda: TIME, new_id, keys_of(signer), verify_signature)
    return ledger_with(database, context, folder, **fields)


def opened(folder: Path, make: Any = new_signing_key) -> AuditKeys:
    return AuditKeys.open(folder / "audit.key", Signer, make)


def ledger_of(database: Database, keys: AuditKeys) -> Ledger:
    return ledger_with(database, LedgerContext(lambda: 0, lambda: TIME, new_id, keys, verify_signature))


async def change_key(database: Database, keys: AuditKeys) -> None:
    """What `audit rotate-key` does."""
    with keys.changing():
        successor = keys.successor(new_signing_key)
        await ledger_of(database, keys).audit.rotate_key(successor, "cli:root")
        keys.current = successor
        keys.end_change()


async def _write(url: str, key: Path, count: int) -> None:
    database = Database(url)
    ledger = store(database, Signer(key.read_bytes()))

    async def one() -> None:
        each = attempt()
        await ledger.executions.open(each)
        print(each.id, flush=True)
        await ledger.executions.close(each, ENDED)

    for _ in range(count):
        await asyncio.gather(*(one() for _ in range(5)))
    await ledger.finish()
    await database.close()


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
