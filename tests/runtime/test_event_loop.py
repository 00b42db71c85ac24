"""The event loop goes on while descriptors are used up, and ends when it is told to."""

import asyncio
import errno
import gc
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from backend.runtime.event_loop import OBJECTS, calm_collector, new_event_loop
from tests.needs import need

WAITING = 20  # connections that wait to be accepted


class Exhausted(socket.socket):
    """A socket whose connections cannot be accepted, as where descriptors are used up."""

    attempts = 0

    def accept(self) -> Any:
        self.attempts += 1
        raise OSError(errno.EMFILE, "Too many open files")


@contextmanager
def loop_of_its_own() -> Iterator[asyncio.AbstractEventLoop]:
    loop = new_event_loop()
    try:
        yield loop
    finally:
        loop.close()


def test_a_body_of_many_values_is_parsed_with_few_collections() -> None:
    began: list[int] = []
    thresholds = gc.get_threshold()
    gc.callbacks.append(lambda phase, info: began.append(info["generation"]))
    try:
        calm_collector()
        json.loads(b"[" + b"[]," * 300_000 + b"[]]")
    finally:
        gc.callbacks.pop()
        gc.set_threshold(*thresholds)
    assert len(began) <= 2 * 300_000 / OBJECTS  # each is reported as it begins and as it ends; by default hundreds


def test_a_connection_that_cannot_be_accepted_is_tried_once_a_second() -> None:
    with loop_of_its_own() as loop:
        errors: list[dict[str, Any]] = []
        loop.set_exception_handler(lambda _, context: errors.append(context))
        listening = Exhausted()
        listening.bind(("127.0.0.1", 0))
        clients: list[socket.socket] = []

        async def serve() -> None:
            server = await loop.create_server(asyncio.Protocol, sock=listening, backlog=2048)
            clients.extend(socket.create_connection(listening.getsockname()) for _ in range(WAITING))
            while listening.attempts < 3:
                await asyncio.sleep(0.01)
            server.close()
            await asyncio.sleep(1.1)  # the last timer finds the socket closed

        loop.run_until_complete(asyncio.wait_for(serve(), 60))
        for client in clients:
            client.close()
        assert listening.attempts == len(errors) == 3, errors[-1]


def test_all_that_wait_are_accepted() -> None:
    with loop_of_its_own() as loop:
        ended = asyncio.Semaphore(0)

        class Counting(asyncio.Protocol):
            def connection_lost(self, exc: Exception | None) -> None:
                ended.release()

        async def serve() -> None:
            server = await loop.create_server(Counting, "127.0.0.1", 0)
            address = server.sockets[0].getsockname()
            for client in [socket.create_connection(address) for _ in range(WAITING)]:
                client.close()
            for _ in range(WAITING):
                await asyncio.wait_for(ended.acquire(), 60)
            server.close()

        loop.run_until_complete(serve())


def test_a_user_whose_commands_can_use_up_what_epoll_watches_is_served_by_poll() -> None:
    def selector() -> str:
        with loop_of_its_own() as loop:
            return type(loop._selector).__name__  # type: ignore[attr-defined]

    need(os.geteuid() == 0 or None, "root, who can become another user")
    assert selector() == "EpollSelector"
    os.seteuid(65534)
    try:
        assert selector() == "PollSelector"
    finally:
        os.seteuid(0)
