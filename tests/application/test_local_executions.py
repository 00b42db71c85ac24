"""Recordings whose server died get the end that is on record, whoever looks."""

import asyncio
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backend.application.local_executions import LocalExecutions
from backend.core.audit.attempts import Record
from backend.core.decisions import Risk
from backend.core.execution.model import Status
from backend.core.execution.registry import Registry
from backend.core.recording.lines import encode_lines
from backend.core.recording.writer import Recorder
from backend.storage.memory.executions import MemoryExecutions, Row
from backend.storage.recordings import FileRecordings
from tests.core.recording.recorded import ID, STARTED

RUNNING = Record(
    id=ID,
    principal="user:ann",
    user_id=None,
    target="local",
    project_id=None,
    command="ls",
    working_dir=".",
    status=Status.RUNNING,
    risk=Risk.SAFE,
    rule="allow.ls",
    deletes=False,
    dry_run=False,
    metadata_only=False,
    created_ms=1,
)


def cut_off(folder: Path) -> None:
    log = FileRecordings(folder).create(ID)
    recorder = Recorder(ID, log, lambda: 0.0)
    recorder.add(STARTED)
    recorder.lines("stdout", encode_lines(b"one\ntwo\n"))
    os.close(log._fd)  # what the death of its server does


@pytest.mark.parametrize(
    "ended",
    [
        replace(RUNNING, status=Status.SUCCEEDED, exit_code=0, duration_ms=12, cpu_ms=3),
        replace(RUNNING, status=Status.FAILED, exit_code=137, signal="KILL", duration_ms=9),
        replace(RUNNING, status=Status.LOST, duration_ms=0),
    ],
)
async def test_a_viewer_waits_for_the_end_that_is_on_record_and_gets_it(tmp_path: Path, ended: Record) -> None:
    cut_off(tmp_path)
    history = MemoryExecutions()
    history.add(Row(RUNNING))
    local = LocalExecutions(Registry(), FileRecordings(tmp_path), history)
    seen: asyncio.Queue[bytes] = asyncio.Queue()
    following = asyncio.create_task(local.follow_here(ID, 0, seen.put))
    assert b"two" in await asyncio.wait_for(seen.get(), 60)
    assert not following.done(), "its end is not on record"
    history.rows[ID] = Row(ended)
    assert await asyncio.wait_for(following, 60)
    messages: list[dict[str, Any]] = [json.loads(line) for line in seen.get_nowait().splitlines()]
    last = messages[-1]
    assert (last["type"], last["status"], last["exit_code"], last["signal"]) == (
        "complete",
        ended.status,
        ended.exit_code,
        ended.signal,
    )
    assert [message["seq"] for message in messages] == list(range(4, 4 + len(messages)))
    blocks: list[bytes] = []
    assert await local.copy_here(ID, _into(blocks), 0, None)
    assert b"".join(blocks).splitlines()[-1] == json.dumps(last, separators=(",", ":")).encode()


async def test_what_is_stored_is_copied_with_its_end_once_that_is_on_record(tmp_path: Path) -> None:
    cut_off(tmp_path)
    history = MemoryExecutions()
    history.add(Row(RUNNING))
    local = LocalExecutions(Registry(), FileRecordings(tmp_path), history)
    before: list[bytes] = []
    await local.copy_here(ID, _into(before), 0, None)
    history.rows[ID] = Row(replace(RUNNING, status=Status.SUCCEEDED, exit_code=0, duration_ms=12))
    after: list[bytes] = []
    await local.copy_here(ID, _into(after), 0, None)
    assert b"".join(before).count(b"\n") == 2
    assert b"".join(after).startswith(b"".join(before))
    assert b"".join(after).count(b'"status":"succeeded"') == 1


def _into(blocks: list[bytes]) -> Any:
    async def send(block: bytes) -> None:
        blocks.append(block)

    return send
