"""Which pages may open the terminal: a browser names its page in `Origin`, a program names none."""

from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

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
