"""The ports that tests give to servers."""

import socket

import pytest

from tests.ports import free_port


def test_a_server_gets_the_port_that_it_is_told_and_nobody_else_does() -> None:
    port = free_port()
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)) as server:
        assert server.getsockname()[1] == port
