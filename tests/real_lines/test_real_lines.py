"""Lines as people and agents send them: how many of them run in a project. As a program it prints the share and the others."""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from backend.core.decisions import Decision
from backend.core.policy.admit import admit
from backend.core.policy.files import FileView, Unseen
from backend.core.policy.profile import OFFLINE, Offline, Profile
from backend.policies.loader import load_profile

LINES = Path(__file__).parent / "lines.txt"
PROFILES = ("agent", "workbench")
ENOUGH = 0.95  # of all lines; what is refused is not offered on purpose, or not yet


def files() -> Unseen:
    """A workspace that cannot be looked into, and a home beside it."""
    view = Unseen(PurePosixPath("/srv/ws"))
    view.home = PurePosixPath("/srv/homes/ws")
    view.variables = {"HOME": str(view.home)}
    return view


@dataclass(frozen=True, slots=True)
class Somewhere:
    """A project with the network on, in a room, whose files are not here."""

    profile: Profile
    files: FileView = field(default_factory=files)
    network: bool = True
    offline: Offline = OFFLINE


def lines() -> list[str]:
    written = [line for line in LINES.read_text().splitlines() if line and not line.startswith("#")]
    return [line.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\") for line in written]


def refused(name: str) -> dict[str, Decision]:
    """The lines that a profile refuses."""
    target = Somewhere(load_profile(name).in_rooms())
    verdicts = ((line, admit(line, target, ".")) for line in lines())
    return {line: verdict for line, verdict in verdicts if isinstance(verdict, Decision)}


@pytest.mark.parametrize("name", PROFILES)
def test_most_lines_are_accepted(name: str) -> None:
    found, every = refused(name), lines()
    assert len(set(every)) >= 150
    assert len(found) <= (1 - ENOUGH) * len(every)
    assert all(verdict.reason and verdict.hint for verdict in found.values())


if __name__ == "__main__":
    for each in PROFILES:
        others = refused(each)
        print(f"{each}: {1 - len(others) / len(lines()):.1%} of {len(lines())} lines run")
        for written, verdict in others.items():
            print(f"  {written!r:60.60} {verdict.rule}")
