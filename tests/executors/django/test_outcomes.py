"""The outcome of a command whose end a runner has reported."""

import pytest

from backend.core.django.runs import RunEnd
from backend.core.execution.model import INCOMPLETE, Status, StopReason
from backend.executors.django.outcomes import reported


@pytest.mark.parametrize("reason", sorted(INCOMPLETE))
def test_a_success_whose_output_was_cut_is_none(reason: StopReason) -> None:
    found = reported(RunEnd("success", 0), reason, 3, 0)
    assert (found.status, found.exit_code) == (Status.FAILED, 125)


@pytest.mark.parametrize("reason", [None, StopReason.CANCELLED, StopReason.TIMED_OUT])
def test_a_command_that_had_succeeded_before_it_was_stopped_has_succeeded(reason: StopReason | None) -> None:
    assert reported(RunEnd("success", 0), reason, 3, 0).status is Status.SUCCEEDED
