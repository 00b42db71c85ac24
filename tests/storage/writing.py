"""What a ledger writes, for tests; as a program, a process that writes until it is killed.

    python -m tests.storage.writing URL KEY_FILE COUNT

prints the id of each execution once the ledger has returned.
"""

import asyncio
import itertools
import secrets
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from backend.accounts.credentials import Signer, verify_signature
from backend.core.audit.attempts import Attempt, Completion
from backend.core.decisions import Decision, Risk
from backend.core.execution.model import Status, Usage
from backend.core.identity import Principal
from backend.core.ids import ulid
from backend.storage.database import Database
from backend.storage.keys import AuditKeys
from backend.storage.ledger import LedgerStore, Stamp

FOLDER = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
ANN = Principal("user:ann", "10.0.0.1")
ALLOWED = Decision(True, "allow.echo", Risk.SAFE, "")
ENDED = Completion(Status.SUCCEEDED, 0, 12, usage=Usage(protection="L2"))

_folder = tempfile.TemporaryDirectory(prefix="gatepost-keys-")
_numbers = itertools.count()


def new_id() -> str:
    return ulid(time.time_ns() // 1_000_000, secrets.randbits(40) << 40 | next(_numbers))


def attempt(command: str = "echo x", decision: Decision = ALLOWED, **fields: Any) -> Attempt:
    standard = {"principal": ANN, "project": None, "argvs": (("echo", "x"),), "working_dir": ".", "policy": "p"}
    return Attempt(**{"id": new_id(), **standard, "command": command, "decision": decision, **fields})


def refusal(rule: str = "blocked.rm") -> Decision:
    return Decision.deny(rule, "No.", "Leave it.")


def keys_of(signer: Signer) -> AuditKeys:
    """The key alone, in a folder without files."""
    return AuditKeys(Path(_folder.name) / "audit.key", Signer, signer)


def store(database: Database, signer: Signer, folder: str = FOLDER, **fields: Any) -> LedgerStore:
    stamp = Stamp(
        lambda: time.time_ns() // 1_000_000,
        lambda: "2026-01-02T03:04:05.678Z",
        new_id,
        keys_of(signer),
        verify_signature,
    )
    return LedgerStore(database, stamp, folder, **fields)


async def _write(url: str, key: Path, count: int) -> None:
    database = Database(url)
    ledger = store(database, Signer(key.read_bytes()))

    async def one() -> None:
        each = attempt()
        await ledger.open(each)
        print(each.id, flush=True)
        await ledger.close(each, ENDED)

    for _ in range(count):
        await asyncio.gather(*(one() for _ in range(5)))
    await ledger.close_writer()
    await database.close()


if __name__ == "__main__":
    asyncio.run(_write(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
