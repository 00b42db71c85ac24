"""Requests to the server. Every answer is a value: a server that is away or says no is expected."""

import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

MOST = 5 * 2**20  # bytes of an answer that are read
CONNECT = 10.0  # seconds
LONGEST_PAUSE = 60.0  # seconds that a server may ask to wait

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Refused:
    """The server will not do it; the same request would be refused again."""

    status: int
    detail: str

    @property
    def is_about_the_key(self) -> bool:
        """Whether the key is invalid, so that nothing but heartbeats makes sense."""
        return self.status in {401, 403}


@dataclass(frozen=True)
class Unavailable:
    """No answer, or none of the server: the same request may succeed later. `pause` is in seconds."""

    reason: str
    pause: float = 0.0


Reply = Json | Refused | Unavailable


class _Bearer(requests.auth.AuthBase):
    """Sets the key itself: without it, requests would send what ~/.netrc has for the host instead."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.key}"
        return request


@dataclass(frozen=True)
class Server:
    """Where requests go. `timeout` is in seconds; `pause` waits, and ends early when the runner stops."""

    url: str
    key: str
    timeout: float
    retries: int
    pause: Callable[[float], object]
    now: Callable[[], float] = time.time

    def client(self) -> "Client":
        """A connection for one thread."""
        return Client(self)


class Client:
    """Requests of one thread, over a connection that stays open."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.session = requests.Session()
        self.session.auth = _Bearer(server.key)
        self.session.headers["Content-Type"] = "application/json"

    def ask(self, method: str, path: str, body: Json | None = None, *, nonce: str = "", wait: float = 0.0) -> Reply:
        """The reply to a request, which is sent again with the same nonce while there is none.

        `wait` is how many seconds the server may take, in addition to its usual time.
        """
        nonce = nonce or str(uuid.uuid4())
        reply = self._ask(method, path, body, nonce, wait)
        for attempt in range(self.server.retries):
            if not isinstance(reply, Unavailable):
                break
            self.server.pause(max(reply.pause, min(0.25 * 2**attempt, 5.0)))
            reply = self._ask(method, path, body, nonce, wait)
        return reply

    def _ask(self, method: str, path: str, body: Json | None, nonce: str, wait: float) -> Reply:
        headers = {"X-Request-Timestamp": str(int(self.server.now())), "X-Request-Nonce": nonce}
        data = b"" if body is None else json.dumps(body).encode()
        try:
            with self.session.request(
                method,
                f"{self.server.url}/api/runner/{path}",
                data=data,
                headers=headers,
                timeout=(CONNECT, self.server.timeout + wait),
                allow_redirects=False,  # the key is for this server alone
                stream=True,
            ) as response:
                content = response.raw.read(MOST, decode_content=True)
                return read_reply(response.status_code, response.headers, content)
        except (requests.RequestException, OSError) as error:
            return Unavailable(f"The server cannot be reached: {_cause(error)}.")
        except Exception as error:
            if type(error).__module__.startswith("urllib3"):  # it broke off in the middle of an answer
                return Unavailable(f"The server broke off its answer: {_cause(error)}.")
            raise


def read_reply(status: int, headers: Mapping[str, str], content: bytes) -> Reply:
    """What an answer means. One that is no JSON object is not the server's: a proxy has answered."""
    if 300 <= status < 400:
        host = urlsplit(headers.get("Location", "")).hostname
        to = f"to {host} " if host else ""
        return Unavailable(f"The answer is a redirect {to}({status}): is it the page of a login, or a missing https?")
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        if status == 413:
            return Refused(413, "The request is too large for a proxy in front of the server.")
        kind = headers.get("Content-Type", "no type").split(";")[0]
        what = f"{kind}, status {status}"
        return Unavailable(f"The answer is no JSON ({what}): a proxy has answered, for example with a page to log in.")
    if status < 300:
        return answer
    detail = " ".join(str(answer[name]) for name in ("detail", "hint") if answer.get(name)) or str(answer.get("error"))
    if status == 429 or status >= 500:
        return Unavailable(f"{detail} ({status})", _retry_after(headers))
    return Refused(status, detail)


def _retry_after(headers: Mapping[str, str]) -> float:
    sent = headers.get("Retry-After", "")
    return min(float(sent), LONGEST_PAUSE) if sent.isdigit() else 0.0


def _cause(error: BaseException) -> str:
    """The innermost reason, without addresses of objects."""
    text = str(error.args[0] if error.args else error)
    return text.rpartition(": ")[2].strip("')\" ") or type(error).__name__
