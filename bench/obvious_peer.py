"""What most would build: FastAPI, a WebSocket, a subprocess, a file with the output and two committed rows for each command.

A peer of the bench: `python -m uvicorn bench.obvious_peer:app`. `PEER_COMMAND` is what every message runs, as a JSON list,
`PEER_FOLDER` where its rows and files are.
"""

import asyncio
import json
import os
import sqlite3
from itertools import count
from pathlib import Path

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

COMMAND = json.loads(os.environ["PEER_COMMAND"])
FOLDER = Path(os.environ["PEER_FOLDER"])

app = FastAPI()
numbers = count()
rows = sqlite3.connect(FOLDER / "rows.db", check_same_thread=False, isolation_level=None)
rows.executescript("pragma journal_mode = wal; pragma synchronous = full; create table runs (id, status, at)")
writing = asyncio.Lock()


async def write(*row: object) -> None:
    """Commit a row."""
    async with writing:
        await asyncio.to_thread(rows.execute, "insert into runs values (?, ?, datetime())", row)


@app.websocket("/ws")
async def run(socket: WebSocket) -> None:
    """Run the command for each message."""
    await socket.accept()
    try:
        while True:
            await socket.receive_text()
            await run_once(socket, next(numbers))
    except WebSocketDisconnect:
        pass


async def run_once(socket: WebSocket, number: int) -> None:
    """One command, its output live and in a file."""
    await write(number, "started")
    process = await asyncio.create_subprocess_exec(*COMMAND, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    with (FOLDER / f"{number}.log").open("wb") as file:
        async for line in process.stdout:
            file.write(line)
            await socket.send_text(json.dumps({"type": "stdout", "line": line.decode().rstrip("\n")}))
    code = await process.wait()
    await write(number, "ended")
    await socket.send_text(json.dumps({"type": "complete", "exit_code": code}, separators=(",", ":")))
