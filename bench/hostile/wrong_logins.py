"""Forty addresses that try passwords of the first account, ten at once from each, again and again."""

from bench.hostile.clients import again, connect, for_seconds

ADDRESSES, AT_ONCE = 40, 10
FORM = b"username=admin&password=wrong"
HEAD = f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(FORM)}\r\nConnection: close\r\n\r\n"
ATTEMPT = f"POST /api/auth/token HTTP/1.1\r\nHost: gatepost\r\n{HEAD}".encode() + FORM


async def attack(url: str, seconds: float, token: str) -> None:
    places = [f"127.0.0.{number + 2}" for number in range(ADDRESSES)]
    await for_seconds(seconds, *(again(_attempt, url, place) for place in places for _ in range(AT_ONCE)))


async def _attempt(url: str, source: str) -> None:
    peer = await connect(url, source)
    try:
        peer.writer.write(ATTEMPT)
        await peer.reader.read()
    finally:
        peer.writer.transport.abort()
