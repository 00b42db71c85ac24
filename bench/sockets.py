"""The smallest possible WebSocket client: raw sockets, nothing parsed while the clock runs."""

import json
import re
import socket
import time
from collections.abc import Callable

BOUND = 60.0  # seconds any measurement may take
BUFFER = 1 << 20
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: eHh4eHh4eHh4eHh4eHh4eA==\r\nSec-WebSocket-Version: 13\r\n{more}\r\n"
)
BATCH = "Sec-WebSocket-Protocol: gatepost.v1.batch\r\n"


class Client:
    """One connection."""

    def __init__(self, port: int, path: str, more: str = "") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), BOUND)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(HANDSHAKE.format(path=path, port=port, more=more).encode())

    def send(self, message: object) -> None:
        """Send a short message, masked with zeros."""
        data = json.dumps(message).encode()
        assert len(data) < 126
        self.socket.sendall(bytes((0x81, 0x80 | len(data))) + bytes(4) + data)

    def until(self, expected: bytes) -> bytes:
        """Read until `expected` was received; returns all that was read."""
        data = b""
        while expected not in data:
            piece = self.socket.recv(65536)
            if not piece:
                raise ConnectionError(f"closed before {expected!r}")
            data += piece
        return data

    def drain(self, last: Callable[[bytes], bool], keep: bool = True) -> bytes:
        """Read at full speed until `last` says so of the newest bytes, or the end."""
        pieces, tail, buffer = [], b"", bytearray(BUFFER)
        while not last(tail):
            size = self.socket.recv_into(buffer)
            if not size:
                break
            if keep:
                pieces.append(bytes(buffer[:size]))
            tail = tail[-1024:] + bytes(buffer[max(0, size - 1024) : size])
        return b"".join(pieces)

    def close(self) -> None:
        self.socket.close()


def gatepost(port: int, more: str = "") -> Client:
    """A terminal that is ready."""
    client = Client(port, "/ws/terminal", more)
    client.until(b'"type":"ready"')
    return client


def websocketd(port: int) -> Client:
    """A connection, which is a command."""
    return Client(port, "/")


def obvious(port: int) -> Client:
    """A connection to `bench.obvious_peer` that is open."""
    client = Client(port, "/ws")
    client.until(b"\r\n\r\n")
    return client


def completed(tail: bytes) -> bool:
    return b'"type":"complete"' in tail


def check_lines(data: bytes, wanted: int) -> None:
    """Every line came once and in order: the numbers of all output messages have no gap."""
    seen = [int(seq) for seq in re.findall(rb'"line":"[^"]*","seq":(\d+)\}', data)]
    if not seen:
        batches = re.findall(rb'"seq":(\d+),"ms":\d+,"lines":\[([^\]]*)\]', data)
        seen = [int(seq) + at for seq, items in batches for at in range(items.count(b'","') + 1)]
    if seen != list(range(2, wanted + 2)):
        raise AssertionError(f"{len(seen)} of {wanted} lines, or out of order")


def timed(action: Callable[[], object]) -> float:
    """Seconds that `action` takes."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun
