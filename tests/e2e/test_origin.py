"""Which pages may open the terminal: a browser names its page in `Origin`, a program names none."""

import asyncio
import socket
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from backend.runtime.settings import SettingsError, load_settings
from tests.client import terminal
from tests.conftest import StartServer
from tests.serving import Server

# HOST and PORT are those of the server.
FOREIGN = [
    "http://evil.test",
    "http://HOST.evil.test",
    "http://HOST.evil.test:PORT",
    "http://evilHOST:PORT",
    "http://HOST:PORT.evil.test",
    "http://HOST:1",
    "http://HOST",
    "https://HOST",
    "http://HOST:PORT@evil.test",
    "http://evil.test:PORT",
    "http://localhost:PORT",
    "http://HOST:99999",
    "http://HOST:x",
    "http://[HOST",
    "ws://HOST:PORT",
    "file://HOST:PORT",
    "chrome-extension://HOST:PORT",
    "HOST:PORT",
    "null",
    "",
    "*",
    "http://",
]


def _fill(origin: str, server: Server) -> str:
    return origin.replace("HOST", "127.0.0.1").replace("PORT", str(server.port))


async def _status(server: Server, **options: Any) -> int:
    try:
        async with terminal(server, **options) as client:
            await client.quiet()
    except InvalidStatus as refused:
        return refused.response.status_code
    return 101


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_page_gets_403(server: Server, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with terminal(server, additional_headers={"Origin": _fill(origin, server)}):
            pass
    assert refused.value.response.status_code == 403
    assert b"origin.foreign" in refused.value.response.body


@pytest.mark.parametrize(
    ("origin", "host", "proxy"),
    [
        ("http://evil.test", "gate.test", False),
        ("https://gate.test:8443", "gate.test", True),  # nginx with `Host $host`
        ("http://gate.test:8080", "gate.test:80", True),
        ("http://" + "e" * 5000 + ".test", "gate.test", False),
    ],
)
async def test_the_refusal_names_the_origin_and_the_setting(
    server: Server, origin: str, host: str, proxy: bool
) -> None:
    headers = {"Origin": origin, "Host": host, "Upgrade": "websocket", "Connection": "Upgrade"}
    headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw=="}
    answer = server.get("/ws/terminal", headers)
    assert (answer.status, answer.json["rule"]) == (403, "origin.foreign")
    assert f"Pages of {origin[:200]} may not connect to {host}." in answer.json["message"]
    assert f"GATEPOST_ALLOWED_ORIGINS={origin[:200]}" in answer.json["hint"]
    assert ("proxy_set_header Host $http_host" in answer.json["hint"]) is proxy
    assert f"GATEPOST_ALLOWED_ORIGINS={origin[:200]}" in server.stdout, "what a browser hides is in the log"


async def test_two_origins_open_nothing(server: Server) -> None:
    headers = [("Origin", _fill("http://HOST:PORT", server)), ("Origin", "http://evil.test")]
    assert await _status(server, additional_headers=headers) in {400, 403}


async def test_a_program_without_an_origin_passes(server: Server) -> None:
    assert await _status(server) == 101


@pytest.mark.parametrize("origin", ["http://HOST:PORT", "HTTP://HOST:PORT", "https://HOST:PORT"])
async def test_the_page_of_the_same_host_and_port_passes(server: Server, origin: str) -> None:
    assert await _status(server, additional_headers={"Origin": _fill(origin, server)}) == 101


async def test_a_name_that_was_pointed_at_this_machine_gets_403(server: Server) -> None:
    """DNS rebinding: Host and Origin agree, on a name that is not ours."""
    headers = {"Origin": f"http://evil.test:{server.port}"}
    uri = server.ws_url.replace("127.0.0.1", "evil.test")
    with pytest.raises(InvalidStatus) as refused:
        async with connect(uri, host="127.0.0.1", port=server.port, additional_headers=headers):
            pass
    assert refused.value.response.status_code == 403
    assert b"GATEPOST_HOST_NAMES=evil.test" in refused.value.response.body


async def _rebound(server: Server, reached: str, **headers: str) -> int:
    """The status of a socket that a page of evil.test opens to its own name, which now resolves to us."""
    headers |= {"Origin": f"http://evil.test:{server.port}"}
    uri = server.ws_url.replace("127.0.0.1", "evil.test")
    try:
        async with connect(uri, host=reached, port=server.port, additional_headers=headers):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


async def test_no_address_of_the_machine_can_be_rebound_to(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_HOST": "0.0.0.0"})
    others = [address for address in await _addresses() if await _reaches(address, server.port)]
    assert {address: await _rebound(server, address) for address in ["127.0.0.2", *others]} == dict.fromkeys(
        ["127.0.0.2", *others], 403
    )
    assert await _rebound(server, "127.0.0.2", **{"X-Forwarded-For": "1.2.3.4"}) == 403, "loopback is no proxy's"
    for address in others:
        assert await _rebound(server, address, **{"X-Forwarded-For": "1.2.3.4"}) == 101, "a proxy chose us by the name"
    assert server.get("/healthz", {"Host": "probe.test"}).status == 200


async def _addresses() -> list[str]:
    """The addresses of this machine in its networks."""
    found = await asyncio.get_running_loop().getaddrinfo(socket.gethostname(), 0, family=socket.AF_INET)
    return sorted({str(entry[4][0]) for entry in found if not str(entry[4][0]).startswith("127.")})


async def _reaches(address: str, port: int) -> bool:
    try:
        (await asyncio.open_connection(address, port))[1].close()
    except OSError:
        return False
    return True


async def test_listed_host_names_and_proxied_ones_pass(start_server: StartServer) -> None:
    listed = start_server({"GATEPOST_HOST_NAMES": "gate.test, my_gate, Evil.test"})
    assert await _rebound(listed, "127.0.0.1") == 101
    proxied = start_server({"TRUSTED_PROXY_HOPS": "1"})
    assert await _rebound(proxied, "127.0.0.1") == 101


@pytest.mark.parametrize("names", ["*", "https://gate.test", "gate.test:8000", "gate.test/x"])
def test_what_is_no_host_name_is_refused_at_startup(names: str) -> None:
    with pytest.raises(SettingsError, match="GATEPOST_HOST_NAMES"):
        load_settings(host_names=names)


async def test_listed_origins_pass_and_what_only_looks_like_them_does_not(start_server: StartServer) -> None:
    listed = "https://ops.example.org, http://tools.example.org:8080"
    server = start_server({"GATEPOST_ALLOWED_ORIGINS": listed})
    matrix = {
        "https://ops.example.org": 101,
        "https://OPS.example.org": 101,
        "http://tools.example.org:8080": 101,
        "http://ops.example.org": 403,
        "https://ops.example.org:8443": 403,
        "https://ops.example.org.evil.test": 403,
        "https://evil.test/https://ops.example.org": 403,
        "http://tools.example.org": 403,
        "null": 403,
    }
    found = {origin: await _status(server, additional_headers={"Origin": origin}) for origin in matrix}
    assert found == matrix


LISTED = {"GATEPOST_ALLOWED_ORIGINS": "https://Ops.example.org:443/"}
READS = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "content-type,x-any"}


async def test_pages_of_listed_origins_can_read_the_service_and_its_health(start_server: StartServer) -> None:
    server = start_server(LISTED)
    for path in ("/", "/health"):
        for origin, allowed in {"https://ops.example.org": True, "https://evil.test": False, "null": False}.items():
            answer = server.get(path, {"Origin": origin})
            assert answer.status == 200
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
            assert "access-control-allow-credentials" not in answer.headers
            asked = server.get(path, {"Origin": origin, **READS}, method="OPTIONS")
            assert (asked.status == 200, "access-control-allow-origin" in asked.headers) == (allowed, allowed)
            assert asked.headers["x-content-type-options"] == "nosniff"
        assert "origin" in server.get(path, {"Origin": "https://ops.example.org"}).headers["vary"].lower()
    assert await _status(server, additional_headers={"Origin": "https://ops.example.org"}) == 101


@pytest.mark.parametrize("path", ["/api/agent/health", "/readyz", "/static/style.css", "/metrics", "/docs"])
def test_nothing_else_can_be_read_from_elsewhere(start_server: StartServer, path: str) -> None:
    server = start_server(LISTED)
    answer = server.get(path, {"Origin": "https://ops.example.org"})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("origins", ["*", "ops.example.org", "https://ops.example.org/app", "https://*.example.org"])
def test_what_no_browser_sends_as_an_origin_is_refused_at_startup(origins: str) -> None:
    with pytest.raises(SettingsError, match="GATEPOST_ALLOWED_ORIGINS"):
        load_settings(allowed_origins=origins)
