"""The recipe of docs/design.md for a new figure, followed once: what needs no edit."""

from dataclasses import replace
from typing import Any

from backend.core.audit.attempts import Completion, Record
from backend.core.audit.execution_events import closed
from backend.core.dataclasses import dataclass
from backend.core.execution.model import NOTHING_USED, Status, Usage
from backend.executors.host.streamed import usage_of
from backend.host_agent.jobs import ENDED
from backend.runtime.recovery import recorded_end
from backend.transports.schemas import entry
from tests.storage.writing import attempt


@dataclass(frozen=True, slots=True)
class Faulting(Usage):
    """Usage with one more figure."""

    page_faults: int = 0


FIGURES: dict[str, Any] = {name: number for number, name in enumerate(NOTHING_USED.figures, 1)} | {"protection": "L2"}
USED = Faulting(**FIGURES, layers=("landlock",), page_faults=5)


class Recorded:
    """A recording that ended with the figures."""

    def last_message(self, execution: str) -> dict[str, object]:
        return {"status": "succeeded", **FIGURES}

    def cut_off(self, execution: str) -> None:
        return None

    def seal(self, execution: str) -> None:
        return None


def test_it_is_added_up_written_and_read_again() -> None:
    assert USED.figures == {**FIGURES, "page_faults": 5}
    assert Faulting.of(USED.figures) == replace(USED, layers=())
    weaker = Faulting(cpu_ms=10, peak_memory_bytes=1, protection="L1", page_faults=10)
    both: dict[str, Any] = {**FIGURES, "cpu_ms": USED.cpu_ms + 10, "protection": "L1"}
    assert USED.plus(weaker) == Faulting(**both, page_faults=15)
    assert Faulting().plus(USED) == USED


def test_it_is_in_the_last_event() -> None:
    [end] = closed("01", Completion(Status.SUCCEEDED, 0, 1, usage=USED), "")
    assert USED.figures.items() <= end.fields.items()


def test_every_figure_comes_from_a_host() -> None:
    assert set(FIGURES) < set(ENDED)
    assert usage_of(FIGURES).figures == FIGURES


def test_every_figure_survives_a_crash() -> None:
    assert recorded_end(Recorded(), "01").usage.figures == FIGURES


def test_every_figure_is_in_the_history() -> None:
    columns = attempt().columns(Status.SUCCEEDED, 0, "", None)
    shown = entry(Record(**columns | FIGURES))
    assert {name: getattr(shown, name) for name in FIGURES} == FIGURES
