"""The refusals of requests about an execution: their rules and their texts."""

from typing import assert_never

from backend.core.decisions import Decision, Risk
from backend.core.errors import GatepostError, RecordingError, reason_of
from backend.core.execution.model import CloseInput, Delivery, Instruction, Resize, Signal, Stop, Write

RETRY_AFTER = 5.0  # seconds that a client is asked to wait for unavailable storage
UNRECORDED = frozenset({"recording.unavailable", "storage.unavailable"})  # the rules of what cannot be recorded


def unavailable(error: GatepostError) -> Decision:
    """No command runs that cannot be recorded, audited, or counted."""
    rule = "recording.unavailable" if isinstance(error, RecordingError) else "storage.unavailable"
    hint = "Try again in a moment. If this persists, the operator must check the disk and the database."
    return Decision.deny(rule, str(error), hint, retry_after=RETRY_AFTER)


def failed() -> Decision:
    """A bug prevented a verdict; nothing runs."""
    hint = "The server's log has the reason; the operator must look into it."
    return Decision.deny("server.failed", "Gatepost failed before it had a verdict on this command.", hint)


def unreadable(error: OSError) -> Decision:
    """The recording exists but cannot be read."""
    reason = f"The recording cannot be read: {reason_of(error)}."
    hint = "Try again in a moment. If this persists, the operator must check the disk."
    return Decision.deny("recording.unavailable", reason, hint, retry_after=RETRY_AFTER)


def unknown(execution: str) -> Decision:
    """The execution does not exist for the caller."""
    reason = f"There is no execution {execution} that you may view."
    return Decision.deny(
        "execution.unknown", reason, "It may belong to another account, or have been deleted because of its age."
    )


def forgotten(execution: str) -> Decision:
    """The history contains the execution, but there is no recording."""
    reason = f"The execution {execution} has no recording, or it has been deleted."
    return Decision.deny("execution.forgotten", reason, "Its entry in the history says how it ended.")


def hidden(problem: Decision, execution: str) -> Decision:
    """The same to a client that only asks for a recording: that there was one is no matter."""
    return unknown(execution) if problem.rule == "execution.forgotten" else problem


def unreachable(execution: str) -> Decision:
    """Another server runs or stores the execution, or a host runs it, and does not answer."""
    reason = f"The server that runs or stores the execution {execution}, or its host, does not answer."
    hint = "Try again in a moment. If that server is gone, its executions are recorded as lost after some seconds."
    return Decision.deny("execution.unreachable", reason, hint, retry_after=RETRY_AFTER)


def uncontrolled() -> Decision:
    """The caller may view the execution but not control it."""
    reason = "You can view this execution but not control it."
    return Decision.deny("role.forbidden", reason, "Ask an administrator for the role or scope to run commands.")


def unknown_project(project: str) -> Decision:
    """The project does not exist for the caller."""
    reason = f"There is no project {project!r} that you may use."
    return Decision.deny("project.unknown", reason, "The list of projects names yours.")


def nothing_runs(instruction: str) -> Decision:
    """A client named no execution, and none of those that it follows is running."""
    reason = f"No such command is running that could receive `{instruction}`."
    return Decision.deny("execution.not_running", reason, "Start a command first.")


def undelivered(instruction: Instruction, delivery: Delivery, execution: str) -> Decision | None:
    """Why an instruction had no effect; None when it was delivered, or is a stop of what has just ended by itself."""
    match delivery:
        case Delivery.DELIVERED:
            return None
        case Delivery.NOT_READING:
            reason = "The command is not reading its standard input, and no more is buffered."
            return _undelivered("stdin.full", reason, "Wait until it reads, or cancel it.")
        case Delivery.CLOSED:
            return _closed(instruction)
        case Delivery.UNREACHABLE:
            return unreachable(execution)
        case Delivery.NOT_RUNNING if isinstance(instruction, Stop):
            return None
        case Delivery.NOT_RUNNING:
            reason = f"No program of the execution {execution} is running that could receive this."
            return _undelivered("execution.not_running", reason, "Its entry in the history says whether it has ended.")
        case _:
            assert_never(delivery)


def _closed(instruction: Instruction) -> Decision:
    match instruction:
        case Resize():
            return _undelivered("terminal.none", "The command has no terminal whose size could change.", "Go on.")
        case Write() | CloseInput() | Signal() | Stop():
            reason = "The standard input of this command is closed."
            return _undelivered("stdin.closed", reason, "Start it with `run` or `stdin` to keep it open.")
        case _:
            assert_never(instruction)


def _undelivered(rule: str, reason: str, hint: str) -> Decision:
    return Decision.deny(rule, reason, hint, risk=Risk.SAFE)
