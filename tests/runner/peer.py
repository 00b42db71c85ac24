"""Something that answers HTTP as a test says: a proxy, or a server in trouble."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from gatepost_django.client import Server


@dataclass
class Peer:
    """Answers with the next of `answers`, the last one for ever: a status, a body, headers. `seen` is what it was asked."""

    answers: list[tuple[int, Any, dict[str, str]]]
    seen: list[tuple[str, dict[str, str], Any]] = field(default_factory=list)
    url: str = ""

    def answer(self) -> tuple[int, Any, dict[str, str]]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def server(self, **fields: Any) -> Server:
        """What a runner knows of it."""
        given = {"timeout": 5.0, "retries": 0, "pause": lambda seconds: None, **fields}
        return Server(self.url, "dc_key", **given)


@contextmanager
def peer(*answers: tuple[int, Any] | tuple[int, Any, dict[str, str]]) -> Iterator[Peer]:
    """A peer that listens."""
    said = Peer([(each[0], each[1], each[2] if len(each) > 2 else {}) for each in answers])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            said.seen.append((self.path, dict(self.headers), json.loads(body) if body else None))
            status, answer, headers = said.answer()
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        listening.daemon_threads = True
        said.url = f"http://127.0.0.1:{listening.server_address[1]}"
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield said
        finally:
            listening.shutdown()
            thread.join()
