"""`python -m tests.transports.asked`: looks at the application in a process of its own, since making one changes the process."""

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from backend.runtime.settings import load_settings
from backend.runtime.wiring import create_app


def routes(app: FastAPI) -> Any:
    """The endpoints of all routes, and those that a limit is counted for."""
    found = {}
    for context in iter_route_contexts(app.routes):
        endpoint = getattr(context, "endpoint", None)
        found[context.path] = f"{endpoint.__module__}.{endpoint.__name__}" if endpoint else ""
    limiter = app.state.limiter
    return [found, sorted({*limiter._route_limits, *limiter._dynamic_route_limits})]


def ask(app: FastAPI, path: str) -> Any:
    """The status of an answer, and whether it has the headers that protect the page. What asks `/boom` gets an error."""
    found: dict[str, Any] = {}

    @app.get("/boom")
    async def boom() -> None:
        raise RuntimeError("boom")

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            guarded = any(name == b"content-security-policy" for name, _ in message["headers"])
            found.update(status=message["status"], guarded=guarded)

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
        "scheme": "http",
        "http_version": "1.1",
        "root_path": "",
        "asgi": {"version": "3.0"},
    }
    with suppress(RuntimeError):
        asyncio.run(app(scope, receive, send))
    return [found["status"], found["guarded"]]


QUESTIONS: dict[str, Callable[..., Any]] = {"routes": routes, "ask": ask}

if __name__ == "__main__":
    _, folder, question, *words = sys.argv
    print(json.dumps(QUESTIONS[question](create_app(load_settings(data_dir=folder)), *words)))
