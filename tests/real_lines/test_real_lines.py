"""Lines as people and agents send them: how many of them the profile of accounts accepts."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest

from backend.core.decisions import Decision
from backend.core.policy.admit import admit
from backend.core.policy.files import FileView, Unseen
from backend.core.policy.profile import OFFLINE, Offline, Profile
from backend.policies.loader import load_profile

LINES = Path(__file__).parent / "lines.txt"
ENOUGH = 0.95  # of all lines; what is refused is not offered on purpose, or not yet


def files() -> Unseen:
    """A workspace that cannot be looked into, and a home beside it."""
    view = Unseen(PurePosixPath("/srv/ws"))
    view.variables = {"HOME": "/srv/homes/ws"}
    return view


@dataclass(frozen=True, slots=True)
class Somewhere:
    """A project with the network on, whose files are not here."""

    profile: Profile = field(default_factory=lambda: load_profile("agent"))
    files: FileView = field(default_factory=files)
    network: bool = True
    offline: Offline = OFFLINE


def lines() -> list[str]:
    written = [line for line in LINES.read_text().splitlines() if line and not line.startswith("#")]
    return [line.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\") for line in written]


def test_most_lines_are_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    target = Somewhere()
    verdicts = {line: admit(line, target, ".") for line in lines()}
    refused = {line: verdict for line, verdict in verdicts.items() if isinstance(verdict, Decision)}
    with capsys.disabled():
        print(f"\n{len(verdicts) - len(refused)} of {len(verdicts)} lines are accepted")
        for rule, count in Counter(verdict.rule for verdict in refused.values()).most_common():
            print(f"  {count:3} {rule}")
    assert len(verdicts) >= 150
    assert len(refused) <= (1 - ENOUGH) * len(verdicts)
    assert all(verdict.reason and verdict.hint for verdict in refused.values())


if __name__ == "__main__":
    somewhere = Somewhere()
    for each in lines():
        verdict = admit(each, somewhere, ".")
        said = f"{verdict.rule}: {verdict.reason}" if isinstance(verdict, Decision) else "accepted"
        print(f"{each!r:70} {said}")
