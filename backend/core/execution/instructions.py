"""Instructions to a running execution: each is answered with its `Delivery`."""

from collections.abc import Callable
from typing import Protocol, assert_never

from backend.core.execution.model import (
    CloseInput,
    Delivery,
    Instruction,
    Resize,
    Signal,
    SignalName,
    Stop,
    StopReason,
    Write,
)

STDIN_LIMIT = 1 << 20  # bytes buffered for a program that does not read


class StdinBuffer:
    """The buffered standard input of a program: bounded, and closed once.

    Its reader sets `on_change`, and calls `abandon` when the program has closed its end. With a `limit` of 0 none reads it.
    """

    def __init__(self, *, is_open: bool) -> None:
        self.waiting = bytearray()
        self.closed = not is_open
        self.abandoned = False
        self.limit = STDIN_LIMIT
        self.on_change: Callable[[], None] = lambda: None

    def write(self, data: bytes, *, last: bool = False) -> Delivery:
        """Add bytes, all of them or none; accept no more behind the `last` ones."""
        if self.closed:
            return Delivery.CLOSED
        if len(self.waiting) + len(data) > self.limit:
            return Delivery.NOT_READING
        self.waiting += data
        self.closed = last
        return self._passed_on()

    def close(self) -> Delivery:
        """Accept no more bytes; those in the buffer can still be read."""
        if self.closed:
            return Delivery.CLOSED
        self.closed = True
        return self._passed_on()

    def abandon(self) -> None:
        """Drop what waits and accept no more: nothing will read it."""
        self.waiting.clear()
        self.closed = self.abandoned = True

    def _passed_on(self) -> Delivery:
        """Have the change noticed, which may show that nothing reads any more."""
        self.on_change()
        return Delivery.CLOSED if self.abandoned else Delivery.DELIVERED


class Receiver(Protocol):
    """The pipeline of programs that is running now."""

    def stop(self) -> None:
        """Begin to stop the pipeline. The reason is in the instructions."""
        ...

    async def signal(self, name: SignalName) -> Delivery:
        """Send a signal to the processes of the pipeline."""
        ...


class Instructions:
    """The instructions to one execution: its standard input and, once it is to stop, the reason.

    An executor attaches the running pipeline as the receiver. Between two pipelines there is none: a stop takes effect
    before the next one starts, input waits for the first program, and a signal is not delivered.
    """

    def __init__(self, *, stdin: bool) -> None:
        self.stdin = StdinBuffer(is_open=stdin)
        self.reason: StopReason | None = None
        self.stopped_by = ""
        self._receiver: Receiver | None = None

    def received_by(self, receiver: Receiver) -> "_Received":
        """Deliver to `receiver` within the context, beginning with a stop that was requested earlier."""
        return _Received(self, receiver)

    async def deliver(self, instruction: Instruction) -> Delivery:
        """Deliver an instruction to the pipeline that is running now. Only a signal may have to wait for its answer."""
        match instruction:
            case Stop(reason, by):
                self.stop(reason, by)
                return Delivery.DELIVERED
            case Signal(name):
                return await self._receiver.signal(name) if self._receiver else Delivery.NOT_RUNNING
            case Write(data, last):
                return self.stdin.write(data, last=last)
            case CloseInput():
                return self.stdin.close()
            case Resize():
                return Delivery.CLOSED  # no executor gives programs a terminal
            case _:
                assert_never(instruction)

    def stop(self, reason: StopReason, by: str = "") -> None:
        """Request a stop; if one was requested before, its reason remains."""
        if self.reason is None:
            self.reason, self.stopped_by = reason, by
            if self._receiver:
                self._receiver.stop()

    def attach(self, receiver: Receiver | None) -> None:
        """Deliver to this one from now on, or to none."""
        self._receiver = receiver
        if receiver and self.reason:
            receiver.stop()


class _Received:
    """A context in which a receiver is attached; as a generator it would take five times as long."""

    __slots__ = ("_instructions", "_receiver")

    def __init__(self, instructions: Instructions, receiver: Receiver) -> None:
        self._instructions, self._receiver = instructions, receiver

    def __enter__(self) -> None:
        self._instructions.attach(self._receiver)

    def __exit__(self, *_: object) -> None:
        self._instructions.attach(None)
