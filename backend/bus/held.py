"""A connection to Redis that is held, where its only user would take it from a pool and give it back for each exchange."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from backend.bus.link import GONE, Command
from backend.core.dataclasses import dataclass


@dataclass(slots=True)
class HeldConnection:
    """One connection of a client, for one exchange after the other.

    What fails is tried again as often as the client does it. One that was closed meanwhile is replaced before it is used.
    """

    client: Redis
    _connection: Any = field(default=None, init=False)  # an AbstractConnection, most of whose methods have no types

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, among them errors: one that Redis refuses must not make the others fail. Raises what GONE names."""
        connection = self._connection = self._connection or self._made()
        tries = connection.retry.get_retries()
        while True:
            try:
                return await self._exchange(connection, commands)
            except GONE:
                await connection.disconnect(nowait=True)
                if not tries:
                    raise
                tries -= 1

    def _made(self) -> Any:
        pool: Any = self.client.connection_pool
        return pool.make_connection()

    async def _exchange(self, connection: Any, commands: Sequence[Command]) -> list[Any]:
        await _make_ready(connection)
        await connection.send_packed_command(connection.pack_commands(commands))
        answers = [await _answer(connection) for _ in commands]  # all, before what is wrong with one could end this
        return [self._read(command[0], answer) for command, answer in zip(commands, answers, strict=True)]

    def _read(self, name: Any, answer: Any) -> Any:
        """An answer in the form that the client gives it."""
        read = self.client.response_callbacks.get(name)
        return read(answer) if read and not isinstance(answer, Exception) else answer

    async def close(self) -> None:
        """Close it. Raises nothing."""
        if self._connection:
            with suppress(*GONE):
                await self._connection.disconnect(nowait=True)


async def _make_ready(connection: Any) -> None:
    """Connect, unless it is; again where Redis has closed it, or has said what nothing asked for."""
    await connection.connect()
    try:
        ready = not await connection.can_read_destructive()
    except GONE:
        ready = False
    if not ready:
        await connection.disconnect(nowait=True)
        await connection.connect()


async def _answer(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def read_group(stream: str, group: str, consumer: str, start: str, count: int, wait: float) -> Command:
    """The command that reads what a group has not read yet, or from `start` on what a consumer has not acknowledged."""
    return "XREADGROUP", "GROUP", group, consumer, "COUNT", count, "BLOCK", round(wait * 1000), "STREAMS", stream, start
