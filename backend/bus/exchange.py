"""Exchanges with Redis: what is sent at the same time shares one of them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field
from typing import Any

from redis.asyncio import Redis

from backend.bus.link import GONE, Command
from backend.core.dataclasses import dataclass

MOST = 256  # senders whose commands are in one exchange


@dataclass(slots=True)
class Exchange:
    """Sends commands to Redis. Those that come during an exchange wait, and share the next one.

    An exchange has `patience` seconds.
    """

    client: Redis
    patience: float
    _waiting: "list[tuple[tuple[Command, ...], asyncio.Future[list[Any]]]]" = field(default_factory=list)
    _task: "asyncio.Task[None] | None" = None

    async def send(self, *commands: Command) -> list[Any]:
        """The answers to commands. Raises what GONE names; whether Redis has executed them is then not known."""
        return await self.put(*commands)

    def put(self, *commands: Command) -> "asyncio.Future[list[Any]]":
        """The same, for a caller that does not wait: what nothing awaits raises nothing."""
        done: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve_error)
        self._waiting.append((commands, done))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())
        return done

    async def _drain(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
            try:
                answers = iter(await self._execute([command for commands, _ in batch for command in commands]))
            except GONE as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for commands, done in batch:
                    _answer(done, [next(answers) for _ in commands])

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        """The answers, among them errors: one that Redis refuses must not make the others fail."""
        async with asyncio.timeout(self.patience):
            pipeline = self.client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            return await pipeline.execute(raise_on_error=False)

    async def close(self) -> None:
        """Finish what is being sent, and close the connections. Raises nothing."""
        if self._task:
            await asyncio.wait({self._task}, timeout=self.patience)
            self._task.cancel()
        with suppress(*GONE):
            await self.client.aclose(close_connection_pool=True)


def _answer(done: "asyncio.Future[list[Any]]", answers: list[Any]) -> None:
    if done.done():  # its sender was cancelled
        return
    if error := next((each for each in answers if isinstance(each, Exception)), None):
        done.set_exception(error)
    else:
        done.set_result(answers)


def _retrieve_error(done: "asyncio.Future[list[Any]]") -> None:
    """Retrieve an error that nothing awaits, so that asyncio does not report it."""
    if not done.cancelled():
        done.exception()
