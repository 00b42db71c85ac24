"""Every instruction has an answer, whatever runs."""

from itertools import product

import pytest

from backend.core.execution.instructions import STDIN_LIMIT, Instructions
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
from backend.core.execution.refusals import undelivered

EVERY = [Stop(StopReason.CANCELLED, "ann"), Signal(SignalName.INT), Write(b"x"), CloseInput(), Resize(80, 24)]


class Programs:
    """A pipeline that runs, or has just ended."""

    def __init__(self, *, alive: bool = True) -> None:
        self.alive = alive
        self.seen: list[str] = []

    def stop(self) -> None:
        self.seen.append("stop")

    async def signal(self, name: SignalName) -> Delivery:
        self.seen.append(name)
        return Delivery.DELIVERED if self.alive else Delivery.NOT_RUNNING


async def test_a_signal_reaches_what_runs_and_nothing_else() -> None:
    instructions, programs = Instructions(stdin=False), Programs()
    assert await instructions.deliver(Signal(SignalName.INT)) is Delivery.NOT_RUNNING
    with instructions.received_by(programs):
        assert await instructions.deliver(Signal(SignalName.INT)) is Delivery.DELIVERED
    assert await instructions.deliver(Signal(SignalName.INT)) is Delivery.NOT_RUNNING
    assert programs.seen == ["INT"]
    with instructions.received_by(Programs(alive=False)):
        assert await instructions.deliver(Signal(SignalName.INT)) is Delivery.NOT_RUNNING


async def test_a_stop_before_a_program_starts_stops_it() -> None:
    instructions, programs = Instructions(stdin=False), Programs()
    assert await instructions.deliver(Stop(StopReason.CANCELLED, "ann")) is Delivery.DELIVERED
    with instructions.received_by(programs):
        assert programs.seen == ["stop"]
        assert await instructions.deliver(Stop(StopReason.TIMED_OUT)) is Delivery.DELIVERED
    assert (instructions.reason, instructions.stopped_by) == (StopReason.CANCELLED, "ann")
    assert programs.seen == ["stop"]


async def test_standard_input_is_bounded_and_closed_once() -> None:
    instructions = Instructions(stdin=True)
    assert await instructions.deliver(Write(b"x" * STDIN_LIMIT)) is Delivery.DELIVERED
    assert await instructions.deliver(Write(b"y")) is Delivery.NOT_READING
    assert await instructions.deliver(CloseInput()) is Delivery.DELIVERED
    assert await instructions.deliver(Write(b"")) is Delivery.CLOSED
    assert await instructions.deliver(CloseInput()) is Delivery.CLOSED
    assert len(instructions.stdin.waiting) == STDIN_LIMIT


async def test_the_last_bytes_close_standard_input_with_one_instruction() -> None:
    instructions = Instructions(stdin=True)
    assert await instructions.deliver(Write(b"x" * (STDIN_LIMIT + 1), last=True)) is Delivery.NOT_READING
    assert await instructions.deliver(Write(b"end", last=True)) is Delivery.DELIVERED
    assert (bytes(instructions.stdin.waiting), instructions.stdin.closed) == (b"end", True)
    assert await instructions.deliver(Write(b"", last=True)) is Delivery.CLOSED


async def test_without_standard_input_or_terminal_a_client_is_answered() -> None:
    instructions = Instructions(stdin=False)
    for instruction in (Write(b"x"), CloseInput(), Resize(80, 24)):
        assert await instructions.deliver(instruction) is Delivery.CLOSED


@pytest.mark.parametrize(("instruction", "delivery"), list(product(EVERY, Delivery)))
def test_every_answer_has_its_words(instruction: Instruction, delivery: Delivery) -> None:
    problem = undelivered(instruction, delivery, "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    late = isinstance(instruction, Stop) and delivery is Delivery.NOT_RUNNING  # it has just ended by itself
    if delivery is Delivery.DELIVERED or late:
        assert problem is None
    else:
        assert problem
        assert problem.rule in {
            "execution.not_running",
            "execution.unreachable",
            "stdin.closed",
            "stdin.full",
            "terminal.none",
        }
        assert problem.reason
        assert problem.hint
