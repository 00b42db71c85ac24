"""The HTTP routes of a real server: what they tell, what they refuse, what stands on every answer."""

import gzip
import json
import os
import random
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from tests import preloaded
from tests.client import BATCH, assert_gapless, output, terminal
from tests.conftest import StartServer
from tests.needs import need
from tests.serving import ROOT, Server, wait_until

UNKNOWN = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PAGE = ROOT / "frontend" / "index.html"

# Probes come often and from one address; the files of the page and the description are static.
UNLIMITED = {"/health", "/healthz", "/health/protection", "/readyz", "/metrics", "/static", "/openapi.json"}
PUBLIC_API = {"/api/executions/{execution}/recording", "/api/auth/token", "/api/auth/link"}

PROMISED = ("content-security-policy", "x-content-type-options", "referrer-policy", "cross-origin-opener-policy")


async def _record(server: Server, line: str, **fields: Any) -> str:
    async with terminal(server) as client:
        return str((await client.run(line, **fields))[0]["execution"])


class TestHealth:
    """What probes and dashboards read."""

    def test_health_has_the_shape_that_is_promised(self, server: Server) -> None:
        answer = server.get("/health")
        assert answer.status == 200
        assert answer.json == {"status": "healthy", "api_key_configured": False, "active_connections": 0}

    async def test_health_counts_the_connections(self, server: Server) -> None:
        async with terminal(server), terminal(server):
            assert server.get("/health").json["active_connections"] == 2
        wait_until(lambda: server.get("/health").json["active_connections"] == 0, "the count to go down")

    def test_healthz_answers(self, server: Server) -> None:
        assert server.get("/healthz").json == {"status": "ok"}

    def test_readyz_says_what_is_missing(self, start_server: StartServer) -> None:
        server = start_server()
        answer = server.get("/readyz")
        assert (answer.status, answer.json) == (
            200, {"status": "ready", "checks": {**dict.fromkeys(("recordings", "workspace", "database", "protection"), "ok")}}
        )  # fmt: skip
        (server.workspace / "welcome.txt").unlink()
        server.workspace.rmdir()
        answer = server.get("/readyz")
        assert (answer.status, answer.json["checks"]["workspace"]) == (503, "failed")
        assert server.get("/health").status == 200

    async def test_metrics_are_in_the_format_of_prometheus(self, start_server: StartServer) -> None:
        server = start_server()
        async with terminal(server) as client:
            await client.run("pwd")
            await client.run("rm x")
            await client.start("pyguard sleep 30")
            answer = server.get("/metrics")
            await client.send(type="cancel")
            await client.reply()
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {family.name: family for family in text_string_to_metric_families(answer.body.decode())}
        kinds = {
            name: family.type
            for name, family in families.items()
            if name.startswith("gatepost_") and not name.endswith("_created")
        }
        assert kinds == {
            "gatepost_alerts": "counter",
            "gatepost_audit_failures": "counter",
            "gatepost_executions": "counter",
            "gatepost_executions_running": "gauge",
            "gatepost_execution_duration_seconds": "histogram",
            "gatepost_policy_decisions": "counter",
            "gatepost_rate_limited": "counter",
            "gatepost_ws_connections": "gauge",
        }
        values = {
            (sample.name, *sample.labels.values()): sample.value
            for family in families.values()
            for sample in family.samples
        }
        assert values["gatepost_executions_total", "succeeded"] == 1
        assert values["gatepost_executions_running",] == 1
        assert values["gatepost_ws_connections",] == 1
        assert values["gatepost_policy_decisions_total", "denied", "blocked.rm"] == 1

    def test_metrics_can_be_off(self, start_server: StartServer) -> None:
        assert start_server({"GATEPOST_METRICS": "false"}).get("/metrics").status == 404


class TestPage:
    """`GET /`, the files of the page and the headers that guard it."""

    def test_a_program_gets_the_service_as_json(self, server: Server) -> None:
        for headers in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
            answer = server.get("/", headers)
            assert answer.json["service"] == "Gatepost"
            assert answer.json["endpoints"]["terminal"] == "/ws/terminal"
            assert answer.json["visitors"] == "admitted"
            assert "accept" in answer.headers["vary"].lower()

    def test_a_browser_gets_the_page(self, server: Server) -> None:
        need(PAGE.exists(), "the page")
        answer = server.get("/", BROWSER)
        assert answer.status == 200
        text = re.sub(r"static/[0-9a-f]{16}/", "static/", answer.body.decode())
        assert re.sub(r' *<link rel="modulepreload" [^\n]+\n', "", text) == PAGE.read_text()
        assert answer.headers["content-type"].startswith("text/html")
        assert "accept" in answer.headers["vary"].lower().split(", ")

    def test_the_files_of_the_page_are_served(self, server: Server) -> None:
        need(PAGE.exists(), "the page")
        for path in PAGE.parent.rglob("*"):
            if path.is_file():
                answer = server.get(f"/static/{path.relative_to(PAGE.parent)}")
                assert (answer.status, answer.body) == (200, path.read_bytes())
        assert server.get("/favicon.ico").headers["content-type"] == "image/svg+xml"

    def test_the_files_are_compressed_and_stored_by_their_content(self, server: Server) -> None:
        need(PAGE.exists(), "the page")
        page = server.get("/", BROWSER).body.decode()
        addresses = re.findall(r'(?:src|href)="(static/[^"]+)"', page)
        assert len(addresses) > 20
        for address in addresses:
            answer = server.get(f"/{address}")
            assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
            again = server.get(f"/{address}", {"If-None-Match": answer.headers["etag"]})
            assert (again.status, again.body) == (304, b"")
            packed = server.get(f"/{address}", {"Accept-Encoding": "br, gzip"})
            assert packed.headers["content-encoding"] == "gzip"
            assert gzip.decompress(packed.body) == answer.body
            assert packed.headers["vary"] == "accept-encoding"
        emulator = next(address for address in addresses if address.endswith("xterm.mjs"))
        assert len(server.get(f"/{emulator}", {"Accept-Encoding": "gzip"}).body) < 100_000
        for refused in ("gzip;q=0", "identity", ""):
            assert "content-encoding" not in server.get(f"/{emulator}", {"Accept-Encoding": refused}).headers
        other = server.get(f"/static/0123456789abcdef/{emulator.split('/', 2)[2]}")
        assert (other.status, other.headers["cache-control"]) == (200, "no-cache")
        assert server.get("/", BROWSER).headers["cache-control"] == "no-cache"
        assert server.get(f"/{emulator}", method="POST").status == 405

    @pytest.mark.parametrize(
        "path",
        [
            "/static/../backend/settings.py",
            "/static/..%2fbackend/settings.py",
            "/static/%2e%2e/LICENSE",
            "/static//etc/passwd",
        ],
    )
    def test_no_file_outside_is_served(self, server: Server, path: str) -> None:
        assert server.get(path).status == 404

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "/", 200),
            ("GET", "/health", 200),
            ("GET", "/openapi.json", 200),
            ("GET", "/nowhere", 404),
            ("GET", "/static/nowhere", 404),
            ("POST", "/", 405),
            ("GET", "/ws/terminal", 404),
            ("GET", f"/api/executions/{UNKNOWN}/recording", 404),
            ("GET", "/api/executions/x/recording", 422),
        ],
    )
    def test_the_headers_stand_on_every_answer(self, server: Server, method: str, path: str, status: int) -> None:
        answer = server.get(path, method=method)
        assert answer.status == status
        _assert_guarded(answer.headers)
        assert "server" not in answer.headers

    def test_the_policy_of_the_page_lets_no_foreign_script_in(self, server: Server) -> None:
        policy = server.get("/").headers["content-security-policy"]
        rules = {name: values for name, *values in (rule.split() for rule in policy.split(";"))}
        assert rules["default-src"] == rules["script-src"] == ["'self'"]
        assert rules["frame-ancestors"] == rules["object-src"] == ["'none'"]
        assert "'self'" in rules["connect-src"]

    def test_the_headers_stand_on_a_500_too(self, tmp_path: Path) -> None:
        assert _asked(tmp_path, "ask", "/nowhere") == [404, True]
        assert _asked(tmp_path, "ask", "/boom") == [500, True]


class TestRecordings:
    """What ran, as a file."""

    async def test_ndjson_is_what_the_batch_subprotocol_sends(self, server: Server) -> None:
        async with terminal(server, BATCH) as client:
            replies = await client.run("pyguard bash -c 'seq 3000; echo wrong >&2'")
        answer = server.get(f"/api/executions/{replies[0]['execution']}/recording")
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        assert "attachment" in answer.headers["content-disposition"]
        messages = [json.loads(line) for line in answer.body.splitlines()]
        assert_gapless(messages)
        assert output(messages) == output(replies)
        assert (messages[0], messages[-1]) == (replies[0], replies[-1])

    async def test_a_recording_that_still_grows_is_given_so_far(self, server: Server) -> None:
        async with terminal(server) as client:
            await client.send(type="run", command="pyguard bash -c 'echo so far; sleep 30'")
            execution = (await client.until("stdout"))[-1]["execution"]
            messages = server.get(f"/api/executions/{execution}/recording").body.splitlines()
            assert [json.loads(message)["type"] for message in messages] == ["started", "stdout"]
            await client.send(type="cancel")
            await client.reply()

    @pytest.mark.parametrize("version", [2, 3])
    async def test_an_asciicast_is_valid_and_holds_the_output(self, server: Server, version: int) -> None:
        script = 'printf "a\\rb"; sleep 0.3; echo c; echo wrong >&2; echo "q\\"ü🎉"; exit 3'
        execution = await _record(server, f"pyguard bash -c '{script}'")
        answer = server.get(f"/api/executions/{execution}/recording?format=asciicast&version={version}")
        assert answer.headers["content-type"].startswith("application/x-asciicast")
        header, events = _read_cast(answer.body, version)
        assert header["command"].startswith("pyguard bash")
        text = "".join(event[2] for event in events if event[1] == "o")
        assert text.startswith("a\rb")
        assert sorted(text.split("\r\n")) == sorted(["a\rbc", "wrong", 'q"ü🎉', ""])
        assert [event[2] for event in events if event[1] == "x"] == (["3"] if version == 3 else [])
        times = [event[0] for event in events]
        assert 0.25 < (sum(times) if version == 3 else times[-1]) < 5

    async def test_an_asciicast_of_a_command_that_printed_nothing_is_valid(self, server: Server) -> None:
        execution = await _record(server, "pyguard sleep 5", timeout=0.1)
        for version in (2, 3):
            path = f"/api/executions/{execution}/recording?format=asciicast&version={version}"
            _, events = _read_cast(server.get(path).body, version)
            assert ["m" in event[1] for event in events][:1] == [True]

    @pytest.mark.parametrize(
        ("id", "statuses"),
        [
            (UNKNOWN, {404}),
            ("..%2f", {404, 422}),
            ("..%2f..%2fetc%2fpasswd", {404, 422}),
            ("%00", {422}),
            (UNKNOWN + "%00", {422}),
            (UNKNOWN + "%0a", {422}),
            (UNKNOWN.lower(), {422}),
            (UNKNOWN[:-1], {422}),
            (UNKNOWN[:-1] + "%ff", {422}),
            ("x" * 300, {422}),
            ("%2e%2e", {404, 422}),
            ("*", {422}),
            ("%", {422}),
            ("%d9%a1" * 26, {422}),
        ],
    )
    def test_an_odd_id_is_404_or_422(self, server: Server, id: str, statuses: set[int]) -> None:
        assert server.get(f"/api/executions/{id}/recording").status in statuses

    @pytest.mark.parametrize("query", ["format=html", "format=asciicast&version=1", "version=9", "format="])
    def test_an_odd_format_is_422(self, server: Server, query: str) -> None:
        assert server.get(f"/api/executions/{UNKNOWN}/recording?{query}").status == 422


class TestLimits:
    """How often an address may ask."""

    def test_over_the_rate_comes_429_with_retry_after(self, start_server: StartServer) -> None:
        server = start_server({"GATEPOST_HTTP_RATE": "3/minute"})
        answers = [server.get("/") for _ in range(4)]
        assert [answer.status for answer in answers] == [200, 200, 200, 429]
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        _assert_guarded(answers[-1].headers)
        spoofed = server.get("/", {"X-Forwarded-For": "198.51.100.1"})
        assert spoofed.status == 429
        assert {server.get(path).status for path in ("/health", "/healthz", "/readyz", "/metrics")} == {200}

    def test_recordings_are_limited_too(self, start_server: StartServer) -> None:
        server = start_server({"GATEPOST_HTTP_RATE": "2/minute"})
        path = f"/api/executions/{UNKNOWN}/recording"
        assert [server.get(path).status for _ in range(3)] == [404, 404, 429]

    def test_every_route_is_limited_or_known_to_be_free(self, tmp_path: Path) -> None:
        routes, limited = _asked(tmp_path, "routes")
        assert {"/", "/api/executions/{execution}/recording", "/health"} <= set(routes)
        # Those of the API are counted for each account, by the check that asks for its token; those of hooks for each hook.
        counted = {path for path in routes if path.startswith(("/api/", "/hooks/")) and path not in PUBLIC_API}
        free = {path for path, name in routes.items() if name not in limited} - counted
        assert free <= UNLIMITED, "a new route: give it a limit, or say here why it needs none"
        assert not {path for path, name in routes.items() if name in limited} & UNLIMITED


class TestFuzz:
    """Whatever is asked, the server does not break."""

    def test_nothing_in_the_description_can_be_made_to_break(self, server: Server) -> None:
        dice = random.Random(3)
        description = server.get("/openapi.json").json
        assert set(description["paths"]) >= {"/", "/health", "/api/executions/{execution}/recording"}
        for path, operations in description["paths"].items():
            for _ in range(60):
                place = path.replace("{execution}", dice.choice(ODD))
                query = "&".join(f"{dice.choice(NAMES)}={dice.choice(ODD)}" for _ in range(dice.randrange(4)))
                headers = {dice.choice(HEADERS): dice.choice(HEADER_VALUES) for _ in range(2)}
                method = dice.choice([*map(str.upper, operations), "POST", "PUT", "HEAD", "OPTIONS", "DELETE"])
                answer = server.get(f"{place}?{query}", headers, method)
                assert answer.status < 500, (method, place, query, headers)
        assert "Traceback" not in server.logs

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "/ws",
            "/ws/terminal/",
            "/ws/terminal/x",
            "/health",
            "/nowhere",
            "/static/x",
            "/api/executions/x/recording",
        ],
    )
    async def test_a_socket_elsewhere_is_refused_and_breaks_nothing(self, server: Server, path: str) -> None:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(server.ws_url.replace("/ws/terminal", path)):
                pass
        assert refused.value.response.status_code in {403, 404}


class TestLogs:
    """What the server writes."""

    async def test_every_line_on_standard_output_is_a_json_object(self, start_server: StartServer) -> None:
        server = start_server()
        async with terminal(server) as client:
            for line in ("pwd", "rm x", "echo 'a\tb'", "pyguard no-such-program", "echo \u2028", "ls\nrm"):
                await client.run(line)
            await client.socket.send("{\n")
            await client.receive()
        server.get("/nowhere%0a%22")
        server.get("/", {"User-Agent": "x\ty"})
        server.stop()
        lines = server.stdout.splitlines()
        assert len(lines) >= 3
        for line in lines:
            entry = json.loads(line)
            assert {"event", "level", "time"} <= set(entry)
            assert entry["time"].endswith("Z")


ODD = [
    "", "x", "0", "-1", "null", "%00", "%0a", "..%2f", "%ff", "%f0%9f%8e%89", "x" * 300, "9" * 40, "[]", "{}", "%7b", "'",
    "%22", UNKNOWN, UNKNOWN.lower(), "asciicast", "ndjson", "2", "3", "1e9", "true", "%25", "%5c", ";", "<b>",
]  # fmt: skip
NAMES = ["format", "version", "execution", "x", "%00", "format[]"]
HEADERS = ["Accept", "Authorization", "Range", "If-None-Match", "X-Forwarded-For", "Content-Type", "Cookie", "Host"]
HEADER_VALUES = [
    "",
    "x",
    "*/*",
    "text/html;q=x",
    "Bearer",
    "Bearer \xff",
    "bytes=0-",
    "bytes=9-1",
    ",,,",
    "9" * 500,
    "::1",
]


def _assert_guarded(headers: Any) -> None:
    assert set(PROMISED) <= set(headers)
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def _read_cast(body: bytes, version: int) -> tuple[dict[str, Any], list[list[Any]]]:
    """A cast, checked against docs.asciinema.org/manual/asciicast."""
    header, *events = map(json.loads, body.decode().splitlines())
    assert header["version"] == version
    size = (header["width"], header["height"]) if version == 2 else (header["term"]["cols"], header["term"]["rows"])
    assert all(isinstance(number, int) and number > 0 for number in size)
    assert isinstance(header["timestamp"], int)
    last = 0.0
    for time, code, data in events:
        assert isinstance(time, int | float)
        assert time >= (last if version == 2 else 0)
        assert code in ("oimr" if version == 2 else "oimrx")
        assert isinstance(data, str)
        last = time
    return header, events


def _asked(folder: Path, *words: str) -> Any:
    env = {"PATH": os.environ["PATH"]}
    done = preloaded.run([str(folder), *words], folder, env, program="tests.transports.asked")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


HALVES = (
    b"GET /health HTTP/1.1\r\nHost: x\r\n",
    b"",
    b"POST /api/agent/execute HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{",
)


@pytest.fixture(scope="class")
def sent(server: Server) -> Iterator[dict[bytes, socket.socket]]:
    """Connections on which half a request was sent, all at once, since the server waits for each."""
    with ExitStack() as opened:
        connections = {}
        for half in HALVES:
            connections[half] = opened.enter_context(socket.create_connection(("127.0.0.1", server.port), 5))
            connections[half].settimeout(20)
            connections[half].sendall(half)
        yield connections


class TestPatience:
    """A request has to come whole within some seconds."""

    @pytest.mark.parametrize("half", HALVES)
    def test_half_a_request_is_closed(self, sent: dict[bytes, socket.socket], half: bytes) -> None:
        while sent[half].recv(4096):
            pass

    async def test_a_socket_is_not_a_request_that_does_not_end(self, server: Server) -> None:
        async with terminal(server) as client:
            messages = await client.run("pyguard sleep 11", bound=20)
            assert messages[-1]["status"] == "succeeded"
