"""Whatever is sent to the API: an answer that says what is wrong, on record, and never a failure of the server."""

import json
import socket
import time
from typing import Any

import httpx
import pytest

from tests.api.world import World, address

NEVER = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
JSON = {"Content-Type": "application/json"}

# Every route that takes a body, with one that is good.
BODIES: dict[tuple[str, str], dict[str, Any]] = {
    ("POST", "/api/agent/execute"): {"project_id": "{project}", "command": "pwd", "dry_run": True},
    ("POST", "/api/executions"): {"command": "pwd", "dry_run": True},
    ("POST", "/api/policy/explain"): {"command": "pwd"},
    ("POST", f"/api/executions/{NEVER}/stdin"): {"data": "x"},
    ("POST", f"/api/executions/{NEVER}/signal"): {"signal": "INT"},
    ("POST", "/api/projects"): {"name": "x"},
    ("PATCH", "/api/projects/{project}"): {"metadata_only": False},
    ("POST", "/api/auth/link"): {"ticket": "gl_x"},
    ("POST", "/api/auth/password"): {"password": "a password that is not set"},
}
# What is no JSON object of any of them, and what may answer it.
MALFORMED: dict[str, tuple[bytes, set[int]]] = {
    "cut off": (b'{"command":', {422}),
    "nothing": (b"", {415, 422}),
    "a list": (b"[]", {422}),
    "null": (b"null", {422}),
    "a string": (b'"pwd"', {422}),
    "not UTF-8": (b'{"command":"\xff"}', {400, 422}),
    "half a surrogate": (
        b'{"command":"\\ud800","name":"\\udfff","data":"\\ud800","ticket":"\\ud800","password":"\\ud800 and more of it"}',
        {422},
    ),
    "deep": (b"[" * 100_000, {400, 422}),
    "a number without end": (b'{"timeout":' + b"9" * 10_000 + b"}", {400, 422}),
    "NaN": (b'{"timeout":NaN,"command":Infinity}', {422}),
    "the same twice": (b'{"command":"a","command":null}', {422}),
    "XML": (b"<x/>", {422}),
    "NUL": (b"\0", {422}),
}
TYPES = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", "nonsense", None)
STRINGS = (
    "\0",
    "a\0b",
    "\u202e",
    "\x1b]0;x\x07",
    "../../etc/passwd",
    "'; drop table users; --",
    "%s%n",
    "🎉" * 20,
    "\ufffe",
)


def _assert_problem(answer: httpx.Response, *statuses: int) -> None:
    assert answer.status_code in statuses, (answer.status_code, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["rule"]
    assert body["detail"]


def _recorded(world: World, origin: str, status: int) -> None:
    """The audit has it, from this address."""
    (event,) = world.events(kind="rejected", address=origin)
    assert (event["status"], event["path"].startswith("/api/"), bool(event["rule"])) == (status, True, True)


@pytest.mark.parametrize("route", BODIES, ids=" ".join)
class TestBodies:
    """Each route that takes a body."""

    def test_the_good_one_is_understood(self, world: World, route: tuple[str, str]) -> None:
        """The control: what the others change is what is wrong with them."""
        answer = self._send(world, route, json.dumps(self._good(world, route)).encode(), JSON)
        assert answer.status_code not in {400, 413, 415, 422}, answer.text

    @pytest.mark.parametrize("name", MALFORMED)
    def test_what_is_malformed(self, world: World, route: tuple[str, str], name: str) -> None:
        data, statuses = MALFORMED[name]
        origin = address()
        answer = self._send(world, route, data, {**JSON, "X-Forwarded-For": origin})
        _assert_problem(answer, *statuses)
        _recorded(world, origin, answer.status_code)

    @pytest.mark.parametrize("type", TYPES)
    def test_another_type_is_415(self, world: World, route: tuple[str, str], type: str | None) -> None:
        """A page of another origin can send some of these without asking."""
        origin = address()
        headers = {"X-Forwarded-For": origin, **({"Content-Type": type} if type else {})}
        answer = self._send(world, route, json.dumps(self._good(world, route)).encode(), headers)
        _assert_problem(answer, 415)
        _recorded(world, origin, 415)

    @pytest.mark.parametrize("chunked", [False, True], ids=["with its length", "in chunks"])
    def test_a_large_one_is_413(self, world: World, route: tuple[str, str], chunked: bool) -> None:
        data = json.dumps({**self._good(world, route), "x": "x" * 300_000}).encode()
        origin = address()
        answer = self._send(world, route, iter([data]) if chunked else data, {**JSON, "X-Forwarded-For": origin})
        _assert_problem(answer, 413)
        assert answer.headers["x-content-type-options"] == "nosniff"
        _recorded(world, origin, 413)

    def test_an_unknown_field_is_422(self, world: World, route: tuple[str, str]) -> None:
        answer = self._send(world, route, json.dumps({**self._good(world, route), "unknown": 1}).encode(), JSON)
        _assert_problem(answer, 422)
        assert "unknown" in answer.json()["detail"]

    @pytest.mark.parametrize("text", STRINGS, ids=ascii)
    def test_odd_strings_in_every_field_break_nothing(self, world: World, route: tuple[str, str], text: str) -> None:
        good = self._good(world, route)
        for name in {*good, "working_dir", "profile", "members", "allowed_extra"} - {"name"}:
            value = [text] if name in {"members", "allowed_extra"} else text
            answer = self._send(world, route, json.dumps({**good, name: value}).encode(), JSON)
            assert answer.status_code < 500, (name, answer.text)
            if answer.status_code >= 400:
                _assert_problem(answer, answer.status_code)

    def _good(self, world: World, route: tuple[str, str]) -> dict[str, Any]:
        good = BODIES[route]
        return {key: world.project if value == "{project}" else value for key, value in good.items()}

    def _send(self, world: World, route: tuple[str, str], data: Any, headers: dict[str, str]) -> httpx.Response:
        method, path = route
        return world.ask("ann", method, path.format(project=world.project), content=data, headers=headers)


FORMS = [
    ("application/x-www-form-urlencoded", b"username=ann", 422),
    ("application/x-www-form-urlencoded", b"username=ann&password=" + b"x" * 300, 422),
    ("application/x-www-form-urlencoded", b"username=" + b"x" * 65 + b"&password=x", 422),
    ("application/x-www-form-urlencoded", b"username=%00&password=%ed%a0%80", 401),
    ("application/x-www-form-urlencoded", b"a=1&" * 2000, 400),
    ("application/x-www-form-urlencoded", b"username=ann&password=" + b"x" * 300_000, 413),
    ("application/json", b'{"username":"ann","password":"x"}', 415),
    ("text/plain", b"username=ann&password=x", 415),
    ("multipart/form-data", b"x", 400),
    ("multipart/form-data; boundary=x", b"garbage", 400),
    ("multipart/form-data; boundary=x", b'--x\r\ncontent-disposition: form-data; name="username"; filename="f"\r\n\r\na\r\n--x--\r\n', 422),
]  # fmt: skip


@pytest.mark.parametrize(("type", "data", "status"), FORMS)
def test_a_bad_form_of_the_login(world: World, type: str, data: bytes, status: int) -> None:
    answer = world.ask(None, "POST", "/api/auth/token", content=data, headers={"Content-Type": type})
    _assert_problem(answer, status)


IDS = ["..%2f..%2fetc%2fpasswd", "%2e%2e", "%00", NEVER + "%00", NEVER + "%0a", NEVER.lower(), NEVER[:-1], "x" * 300,
       "%ff", "*", "%d9%a1" * 26, "'%20or%201=1", "..;", "%5c..%5c"]  # fmt: skip
WITH_ID = [("GET", "/api/executions/{}"), ("GET", "/api/executions/{}/output"), ("GET", "/api/executions/{}/events"),
           ("GET", "/api/executions/{}/recording"), ("POST", "/api/executions/{}/cancel"), ("GET", "/api/projects/{}"),
           ("DELETE", "/api/projects/{}"), ("GET", "/api/agent/history/{}"), ("GET", "/api/agent/alerts?user_id={}"),
           ("GET", "/api/executions?before={}"), ("GET", "/api/executions?project_id={}")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), WITH_ID)
def test_an_odd_id_is_404_or_422_and_on_record(world: World, method: str, path: str) -> None:
    for id in IDS:
        origin = address()
        answer = world.ask("root", method, path.format(id), headers={"X-Forwarded-For": origin})
        if path.startswith("/api/projects/{}") and id == "%2e%2e":
            continue  # the client itself shortens such a path
        _assert_problem(answer, 404, 405, 422)
        _recorded(world, origin, answer.status_code)


@pytest.mark.parametrize("path", ["/api/agent/execute", "/api/executions", "/api/projects", "/api/auth/token"])
@pytest.mark.parametrize("method", ["PUT", "TRACE", "OPTIONS", "DELETE", "BREW"])
def test_a_wrong_method_is_405(world: World, method: str, path: str) -> None:
    origin = address()
    answer = world.ask("ann", method, path, headers={"X-Forwarded-For": origin})
    _assert_problem(answer, 405)
    assert answer.headers["allow"]
    _recorded(world, origin, 405)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        ("/api/executions", "GET, POST"),
        ("/api/projects", "GET, POST"),
        ("/api/projects/{project}", "GET, PATCH, DELETE"),
        ("/api/agent/execute", "POST"),
        (f"/api/executions/{NEVER}", "GET"),
        ("/", "GET"),
        ("/static/style.css", "GET, HEAD"),
        ("/openapi.json", "GET, HEAD"),
    ],
)
def test_405_names_every_method(world: World, path: str, methods: str) -> None:
    answer = world.ask("ann", "PUT", path.format(project=world.project))
    _assert_problem(answer, 405)
    assert answer.headers["allow"] == methods
    assert answer.json()["hint"] == f"Use {methods.replace(', ', ' or ')}."


QUERIES = ["/api/executions?limt=5", "/api/agent/stats?days=7&day=7", "/api/projects?x=1", "/api/auth/me?x",
           "/api/agent/health?x=1", f"/api/executions/{NEVER}?dry_run=true", f"/api/executions/{NEVER}/recording?formt=x",
           f"/api/executions/{NEVER}/output?Offset=1", "/api/executions?" + "x" * 5000 + "=1"]  # fmt: skip


@pytest.mark.parametrize("path", QUERIES, ids=lambda path: path[:40])
def test_an_unknown_query_parameter_is_422_and_on_record(world: World, path: str) -> None:
    origin = address()
    answer = world.ask("ann", "GET", path, headers={"X-Forwarded-For": origin})
    _assert_problem(answer, 422)
    name = path.rpartition("&" if "&" in path else "?")[2].partition("=")[0]
    assert answer.json()["detail"] == (
        f"The request cannot be understood: query.{name[:64]}: Extra inputs are not permitted."
    )
    assert answer.json()["hint"].startswith("This route accepts ")
    _recorded(world, origin, 422)


def test_the_hint_names_the_query_parameters_that_are_known(world: World) -> None:
    answer = world.ask("ann", "GET", "/api/executions?limt=5")
    assert answer.json()["hint"] == "This route accepts before, everyone, limit, project_id, schedule, status, target."
    assert world.ask("ann", "GET", "/?utm=1").status_code == 200, "the page is no part of the API"


@pytest.mark.parametrize("path", ["/api/agent/execute", "/api/executions", "/api/policy/explain"])
def test_a_number_as_an_id_gets_the_hint_that_ids_are_strings(world: World, path: str) -> None:
    answer = world.ask("ann", "POST", path, {"project_id": 5, "command": "pwd"})
    _assert_problem(answer, 422)
    assert answer.json()["hint"].startswith("Ids are strings")
    assert "project_id" in answer.json()["detail"]
    assert "hint" not in world.ask("ann", "POST", path, {"project_id": "5", "command": 7}).json()


@pytest.mark.parametrize("text", [" ", "a b", "\0", "\u202e", "project:x", "x" * 65], ids=ascii)
@pytest.mark.parametrize(
    ("path", "others"),
    [
        ("/api/executions", {}),
        ("/api/policy/explain", {}),
        ("/api/schedules", {"name": "x", "cron": "0 0 1 1 *"}),
        ("/api/hooks", {"name": "x"}),
    ],
)
def test_what_cannot_be_the_id_of_a_project_is_422(world: World, path: str, others: dict[str, str], text: str) -> None:
    answer = world.ask("ann", "POST", path, {"command": "pwd", "project_id": text, **others})
    _assert_problem(answer, 422)
    assert answer.json()["errors"][0]["place"] == "body.project_id"


def test_what_is_invalid_is_said_without_the_words_of_a_library(world: World) -> None:
    both = world.ask("ann", "POST", "/api/executions", {"command": "pwd", "project_id": "x", "target": "local"})
    assert both.json()["detail"].endswith(": body: name a project or a target, not both.")
    hook = {"name": "x", "command": "echo {a}", "parameters": {"a": {"pattern": "[a-z]+"}}}
    answer = world.ask("ann", "POST", "/api/hooks", hook)
    assert answer.json()["detail"].endswith(": body.parameters.a: the field type is required.")


@pytest.mark.parametrize("path", ["/api/agent/execute", "/api/executions"])
def test_a_line_that_is_too_long_is_refused_by_its_rule_and_recorded(world: World, path: str) -> None:
    answer = world.ask("ann", "POST", path, {"project_id": world.project, "command": "echo " + "x" * 31996})
    _assert_problem(answer, 400)
    assert (answer.json()["rule"], answer.json()["detail"]) == (
        "limits.characters",
        "Command validation failed: The line has 32001 characters; at most 32000 are allowed. "
        "Put long text into a file in the workspace. [limits.characters]",
    )
    entry = world.ask("ann", "GET", f"/api/executions/{answer.json()['command_id']}").json()
    assert (entry["status"], entry["rule"], len(entry["command"])) == ("denied", "limits.characters", 32000)
    body = {"project_id": world.project, "command": "echo " + "x" * 31995, "dry_run": True}
    assert world.ask("ann", "POST", path, body).status_code in {200, 202}


def test_what_is_refused_says_what_to_do(world: World) -> None:
    """Each with its rule and a hint of its own."""
    done = world.start("ann", "cat", stdin=False)
    world.ended(done)
    denied = world.execute("ann", "sudo ls").json()["command_id"]
    broken = {"content": b"{\xff", "headers": {"Content-Type": "application/json"}}
    asked = {
        "request.path": world.ask("ann", "GET", "/api/nowhere"),
        "request.method": world.ask("ann", "DELETE", "/api/agent/execute"),
        "request.invalid": world.ask("ann", "POST", "/api/executions", **broken),
        "execution.unknown": world.ask("ann", "GET", f"/api/executions/{NEVER}"),
        "execution.not_running": world.ask("ann", "POST", f"/api/executions/{done}/stdin", {"data": "x"}),
        "execution.forgotten": world.ask("ann", "GET", f"/api/executions/{denied}/events"),
        "project.unknown": world.ask("ann", "GET", f"/api/projects/{NEVER}"),
        "request.type": world.ask("ann", "POST", "/api/executions", content=b"{}"),
    }
    for rule, answer in asked.items():
        problem = answer.json()
        assert problem["rule"] == rule
        assert len(problem["hint"]) >= len("Use POST."), problem
        assert problem["detail"].endswith("."), problem
    assert asked["request.method"].json()["hint"] == "Use POST."
    assert "/api/nowhere" in asked["request.path"].json()["detail"]


def test_huge_headers_break_nothing(world: World) -> None:
    for headers in (
        {"X-Big": "x" * 60_000},
        {"Authorization": "Bearer " + "x" * 60_000},
        {"Idempotency-Key": "x" * 60_000},
    ):
        answer = world.ask("ann" if "Authorization" not in headers else None, "GET", "/api/auth/me", headers=headers)
        assert answer.status_code in {200, 401}
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=10) as raw:
        raw.settimeout(10)
        try:
            raw.sendall(b"GET /api/auth/me HTTP/1.1\r\nHost: x\r\n" + b"X: " + b"y" * 5_000_000)
            received = raw.recv(100)
        except ConnectionError:
            received = b""
    assert received == b"" or b" 4" in received[:12]
    assert world.ask("ann", "GET", "/api/auth/me").status_code == 200


@pytest.mark.parametrize("size", ["Content-Length: 20000", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/api/runner/commands/sync/", "gr_unknown", 413),
        ("/api/executions", "", 413),
        ("/api/executions", "visitor", 413),
        ("/api/executions", "revoked", 401),
        ("/api/auth/token", "", 413),
    ],
)
def test_a_large_body_of_a_stranger_is_not_read(world: World, path: str, token: str, status: int, size: str) -> None:
    """It is answered before it was sent. Parsing the largest one would stop the service for a second."""
    shown = f"Authorization: Bearer {world.tokens.get(token, token)}\r\n" if token else ""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{shown}{size}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", world.server.port), timeout=5) as raw:
        raw.sendall(head.encode())
        assert raw.recv(100).startswith(b"HTTP/1.1 %d " % status)


def test_a_large_body_of_a_known_client_is_read(world: World) -> None:
    text = "x" * 20_000
    assert world.execute("ann", "cat", stdin=text).json()["stdout"] == text
    made = world.ask("ann", "POST", f"/api/django/{world.project}/keys", {})
    assert made.status_code == 201, made.text
    moment = {"X-Request-Timestamp": str(int(time.time())), "X-Request-Nonce": "a-nonce-of-its-own"}
    commands = {"commands": [{"name": "check", "app_label": "django.core", "help_text": text}]}
    answer = world.ask(made.json()["secret"], "POST", "/api/runner/commands/sync/", commands, headers=moment)
    assert (answer.status_code, answer.json()["synced_count"]) == (200, 1)


def test_the_record_of_a_flood_ends(world: World) -> None:
    """Of a flood from one address the audit takes the beginning only."""
    origin = address()
    for _ in range(80):
        assert world.ask("ann", "GET", "/api/nowhere", headers={"X-Forwarded-For": origin}).status_code == 404
    assert len(world.events(kind="rejected", address=origin)) == 60


def test_nothing_of_all_this_broke_the_server(world: World) -> None:
    """Stands last in this module: what came before is in the log."""
    assert "Traceback" not in world.server.logs
    errors = [line for line in world.server.stdout.splitlines() if json.loads(line)["level"] == "error"]
    assert not errors
