"""Plans that are known: only those for which no file was looked at."""

from dataclasses import replace
from pathlib import Path

import pytest

from backend.application.submission import CommandSpec, Existing
from backend.core.decisions import Decision
from backend.core.execution.registry import Execution
from backend.core.execution.requests import Refused, Waiting
from backend.core.execution.targets import OWN, ExecutionLimits, Target, project_ref
from backend.core.policy.admit import Plan
from backend.core.policy.line_state import BEGINNING, LineState
from backend.core.policy.verdicts import LONGEST, MOST
from backend.executors.local.workspace import FolderView
from backend.policies.loader import load_profile
from tests.recipes.house import ANN, Speaker, build, shared

LIMITS = ExecutionLimits(timeout=10, longest=20, output_limit=100_000, detach_grace=10)


class Counted(FolderView):
    """A workspace that counts the lines for which it was opened."""

    lines = 0

    def for_line(self) -> FolderView:
        self.lines += 1
        return super().for_line()


@pytest.fixture
def target(tmp_path: Path) -> Target:
    (tmp_path / "notes").write_text("hi")
    (tmp_path / "src").mkdir()
    return Target(OWN, load_profile("agent"), Counted(tmp_path), Speaker(), LIMITS)


def judged(target: Target, line: str, cwd: str = ".", state: LineState = BEGINNING) -> Plan | Decision:
    return target.verdicts.judge(line, target, cwd, state)


def found(target: Target, line: str, cwd: str = ".", state: LineState = BEGINNING) -> Plan | None:
    return target.verdicts.find(line, target, cwd, state)


@pytest.mark.parametrize("line", ["echo hi", "echo $HOME | wc -c", "git status && node --version"])
def test_a_line_that_names_no_file_is_known(target: Target, line: str) -> None:
    assert found(target, line) is None
    plan = judged(target, line)
    assert isinstance(plan, Plan)
    assert found(target, line) is plan


def test_the_folder_is_opened_again_for_a_known_line(target: Target) -> None:
    judged(target, "echo hi")
    assert isinstance(target.files, Counted)
    before = target.files.lines
    Path(target.files.root).chmod(0o500)
    assert found(target, "echo hi")
    assert target.files.lines == before + 1
    assert Path(target.files.root).stat().st_mode & 0o700 == 0o700


@pytest.mark.parametrize(
    "line", ["cat notes", "echo *", "ls src", "cd src && ls", "echo hi > out", "for f in *; do echo $f; done"]
)
def test_a_line_that_names_a_file_is_judged_each_time(target: Target, line: str) -> None:
    assert isinstance(judged(target, line), Plan)
    assert found(target, line) is None


def test_a_link_that_is_put_there_later_is_seen(target: Target) -> None:
    assert isinstance(judged(target, "cat notes"), Plan)
    notes = Path(target.files.root) / "notes"
    notes.unlink()
    notes.symlink_to("/etc/passwd")
    assert found(target, "cat notes") is None
    refused = judged(target, "cat notes")
    assert isinstance(refused, Decision)
    assert refused.rule == "path.link"


def test_another_folder_or_state_is_judged_each_time(target: Target) -> None:
    exported = replace(BEGINNING, exported={"NODE_ENV": "test"})
    assert isinstance(judged(target, "echo hi", "src"), Plan)
    assert isinstance(judged(target, "echo hi", ".", exported), Plan)
    assert found(target, "echo hi", "src") is None
    assert found(target, "echo hi") is None
    judged(target, "echo hi")
    assert found(target, "echo hi", ".", exported) is None


def test_a_refusal_is_not_known(target: Target) -> None:
    assert isinstance(judged(target, "sudo ls"), Decision)
    assert found(target, "sudo ls") is None


def test_another_profile_knows_nothing(target: Target) -> None:
    judged(target, "node --version")
    other = replace(target, profile=load_profile("terminal"), verdicts=target.verdicts)
    assert found(other, "node --version") is None
    assert isinstance(judged(other, "node --version"), Decision)


def test_without_its_network_a_target_knows_nothing(target: Target) -> None:
    online = replace(target, network=True)
    assert isinstance(judged(online, "npm install"), Plan)
    offline = replace(online, network=False, verdicts=online.verdicts)
    assert found(online, "npm install")
    assert found(offline, "npm install") is None


def test_the_newest_short_lines_are_known(target: Target) -> None:
    long = f"echo {'x' * LONGEST}"
    for line in (long, "echo first", *(f"echo {number}" for number in range(MOST))):
        judged(target, line)
    assert [found(target, line) is not None for line in (long, "echo first", "echo 0", f"echo {MOST - 1}")] == [
        False,
        False,
        True,
        True,
    ]


async def test_what_a_project_may_no_longer_do_is_refused_although_it_is_known() -> None:
    common = shared()
    house = build(common)
    assert ANN.user
    project = await common.projects.add("shop", ANN.user.id, allowed_extra=("cowsay",))

    async def submitted() -> Execution | Waiting | Existing | Refused:
        return await house.service.submit(ANN, CommandSpec("cowsay hi", project_ref(project.id)))

    assert isinstance(await submitted(), Execution)
    target = await house.resolver.resolve(ANN, project_ref(project.id))
    assert isinstance(target, Target)
    assert found(target, "cowsay hi")
    await common.projects.change(project.id, allowed_extra=())
    refused = await submitted()
    assert isinstance(refused, Refused)
    assert refused.decision.rule == "program.unlisted"
