"""The events of an execution: what the audit says of it, from the request to its end."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from backend.core.audit.attempts import Attempt, Completion
from backend.core.audit.events import Kind
from backend.core.audit.suppression import SuppressedRefusals
from backend.core.decisions import Decision
from backend.core.execution.model import Status
from backend.core.times import iso

Fields = Mapping[str, Any]


class Draft(NamedTuple):
    """An event without its time, id and actor."""

    kind: Kind
    fields: Fields


def refused(attempt: Attempt) -> Draft:
    """A request that was refused."""
    return Draft(_refusal(attempt.decision.rule), {"reason": attempt.decision.reason, **attempt.fields})


def suppressed(flood: SuppressedRefusals) -> Draft:
    """How many refusals of a flood were not written."""
    rule, _ = flood.key
    return Draft(_refusal(rule), {"rule": rule, "suppressed": flood.suppressed, "since": iso(flood.began_ms)})


def _refusal(rule: str) -> Kind:
    return Kind.RATE_LIMITED if rule == "limits.rate" else Kind.DENIED


def submitted(attempt: Attempt) -> Draft:
    """A request that was admitted."""
    return Draft(Kind.SUBMITTED, attempt.fields)


def opened(attempt: Attempt) -> tuple[Draft, ...]:
    """A command that is about to run; a dry run never starts."""
    return (submitted(attempt),) if attempt.dry_run else (submitted(attempt), claimed(attempt.id))


def claimed(execution: str) -> Draft:
    """An execution that is about to run, with the words that were submitted."""
    return Draft(Kind.STARTED, {"execution": execution})


def stepped(execution: str, argvs: tuple[tuple[str, ...], ...], decision: Decision) -> Draft:
    """A later step that is about to run with other words than were judged first."""
    argv = [list(each) for each in argvs]
    fields = {"execution": execution, "argv": argv, "rule": decision.rule, "risk": str(decision.risk)}
    return Draft(Kind.STARTED, fields)


def recordings_deleted(executions: Sequence[str]) -> Draft:
    """Which recordings are about to be deleted, because they are too old or too many."""
    return Draft(Kind.PRUNED, {"recordings": list(executions)})


def closed(execution: str, completion: Completion, folder: str) -> tuple[Draft, ...]:
    """How an execution ended, and before that who cancelled it. `folder` is the data folder that holds the recording."""
    usage, recording = completion.usage, completion.recording
    fields = {
        "execution": execution,
        "status": str(completion.status),
        "reason": completion.reason or None,
        "exit_code": completion.exit_code,
        "duration_ms": completion.duration_ms,
        **usage.figures,
        "layers": list(usage.layers) or None,
        "recording": {**recording.as_json(), "folder": folder} if recording else None,
    }
    end = Draft(Kind.LOST if completion.status is Status.LOST else Kind.FINISHED, fields)
    if not completion.stopped_by:
        return (end,)
    return Draft(Kind.CANCELLED, {"execution": execution, "by": completion.stopped_by}), end
