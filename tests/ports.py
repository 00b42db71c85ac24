"""Ports for servers that tests start."""

import socket

_reserved: list[socket.socket] = []


def free_port() -> int:
    """A TCP port of 127.0.0.1 that only a server which is told it gets, as long as this process runs.

    A socket that is bound and does not listen keeps the port from everybody who asks for any port, tests in other
    processes among them; a server binds it nevertheless, as both allow the reuse of the address.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    _reserved.append(held)
    return int(held.getsockname()[1])
