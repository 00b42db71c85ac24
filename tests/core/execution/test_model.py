"""A job is plain data: what comes out of JSON is what went in, and runs."""

import asyncio
import time
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from pydantic import TypeAdapter

from backend.core.audit.attempts import Record
from backend.core.decisions import Decision
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import NOTHING_USED, Actor, Job, Status
from backend.core.policy.admit import Plan, Scope, admit
from backend.core.recording.messages import Complete
from backend.core.recording.writer import Recorder
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.pipelines import LocalPipelines
from backend.executors.local.places import LocalPlaces
from backend.executors.local.run_as import find_owner
from backend.executors.local.workspace_users import WorkspaceUsers
from backend.policies.loader import load_profile
from backend.storage.tables import executions
from backend.transports.schemas import HistoryEntry
from tests.executors.local.test_pipelines import Log

JOB: TypeAdapter[Job] = TypeAdapter(Job)
ROOT = Path(__file__).parents[3]
ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"


class NoSteps:
    """A step log that stores nothing."""

    async def step(self, *_: Any) -> None: ...


def places(folder: Path) -> LocalPlaces:
    owner = find_owner("nobody")
    pipelines = LocalPipelines(CageLauncher(folder / "cage", owner), owner=owner)
    return LocalPlaces(WorkspaceUsers(folder, ("accounts",), owner), pipelines, NoSteps(), str, time.monotonic)


def job(folder: Path, line: str) -> tuple[Job, Scope]:
    scope = Scope(load_profile("agent"), places(folder).workspace("ws"), network=False)
    plan = admit(line, scope, ".")
    assert isinstance(plan, Plan), plan
    return Job(ID, "local", Actor("user:ann", "10.0.0.1"), line, plan, 10.0, 10_000), scope


@pytest.mark.parametrize(
    "line",
    [
        "echo a && echo b | wc -l",
        "mkdir -p x && cd x && TZ=UTC date +%Z > out; cat out",
        'ls *.txt [a-c]? \'quo ted\' "d\\"q" é🐍',
        "cat missing 2>&1 || echo no",
        'for x in a $(ls); do if [ -f $x ]; then echo "$(cat $x)"; else break; fi; done; until ls; do :; done',
    ],
)
def test_a_job_survives_json(tmp_path: Path, line: str) -> None:
    sent, _ = job(tmp_path, line)
    assert JOB.validate_json(JOB.dump_json(sent)) == sent


async def test_a_job_that_came_as_json_runs(tmp_path: Path) -> None:
    sent, scope = job(tmp_path, "touch b1 b2 && ls b* | wc -l; echo end")
    received = JOB.validate_json(JOB.dump_json(sent))
    log = Log()
    recorder = Recorder(ID, log, asyncio.get_running_loop().time)
    executor = places(tmp_path).executor(scope.profile, scope.files, network=False)
    outcome = await executor.run(received, recorder, Instructions(stdin=False))
    assert (outcome.status, outcome.exit_code) == (Status.SUCCEEDED, 0)
    assert log.text("stdout") == "2\nend\n"


def test_a_plan_knows_where_it_starts(tmp_path: Path) -> None:
    (tmp_path / "ws" / "sub").mkdir(parents=True)
    scope = Scope(load_profile("agent"), places(tmp_path).workspace("ws"), network=False)
    plan = admit("ls", scope, "sub")
    assert isinstance(plan, Plan)
    assert (plan.cwd, plan.program) == (PurePosixPath(tmp_path / "ws" / "sub"), "ls")
    refused = admit("ls", scope, "..")
    assert isinstance(refused, Decision)
    assert refused.rule == "path.outside"


def test_every_figure_of_an_execution_is_in_its_message_its_row_and_the_history() -> None:
    figures = set(NOTHING_USED.figures)
    assert figures <= set(Complete.model_fields)
    assert figures <= set(executions.c.keys())
    assert figures <= {each.name for each in fields(Record)}
    for document in ("docs/protocol.md", "README.md"):
        text = (ROOT / document).read_text()
        assert not [name for name in figures if name not in text], document
    assert figures <= set(HistoryEntry.model_fields)
