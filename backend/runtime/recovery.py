"""After a server died: what ran then is written down as lost, or as it ended."""

import asyncio
from collections.abc import Mapping
from typing import Any

from backend.core.audit.attempts import Attempt, Completion, Record
from backend.core.decisions import Decision
from backend.core.execution.model import Status, Usage
from backend.core.identity import Principal
from backend.storage.history import HistoryStore
from backend.storage.ledger import LedgerStore
from backend.storage.recordings import RecordingFolder


async def recover(history: HistoryStore, recordings: RecordingFolder, ledger: LedgerStore) -> int:
    """Close every execution of this data folder that no server runs any more; how many there were.

    Several servers may do so at once, and while others run commands: each ending is written once.
    """
    closed = 0
    for record in await history.running(ledger.folder):
        last = recordings.last_message(record.id)
        if last is None:
            continue  # another server on this folder runs it
        ending = Completion(
            status=Status(last.get("status", Status.LOST)),
            exit_code=last.get("exit_code"),
            duration_ms=last.get("duration_ms", 0),
            usage=_usage(last),
            recording=await asyncio.to_thread(recordings.seal, record.id),
        )
        await ledger.close(_attempt(record), ending, once=True)
        closed += 1
    return closed


def _usage(last: Mapping[str, Any]) -> Usage:
    return Usage(
        cpu_ms=last.get("cpu_ms", 0),
        peak_memory=last.get("peak_memory_bytes", 0),
        read_bytes=last.get("read_bytes", 0),
        written_bytes=last.get("written_bytes", 0),
        protection=last.get("protection") or "",
    )


def _attempt(record: Record) -> Attempt:
    return Attempt(
        id=record.id,
        principal=Principal(record.principal, ""),
        project=record.project_id,
        command=record.command,
        argvs=(),
        working_dir=record.working_dir,
        decision=Decision(True, record.rule, record.risk, ""),
        policy="",
    )
