"""Every line of the corpora of the policy gets the same verdict by every way in, and stands in the history each time."""

import asyncio
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection

import pytest

from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from tests.api.world import Json, World, new_project, running_world
from tests.client import terminal
from tests.core.policy.test_agent_profile import HARMLESS, HOSTILE, ROOT

PART = 30  # every thirtieth line of the corpus, all of which tests/core/policy judges
WAYS = ("execute", "executions", "explain", "terminal")
Verdict = tuple[bool, str]
Case = tuple[str, str]  # line and project
Verdicts = dict[str, list[Verdict]]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory, reachable: None) -> Iterator[tuple[World, list[Case], Verdicts]]:
    """All lines, and the verdicts on them: those of the corpus and of each way in."""
    with running_world(tmp_path_factory.mktemp("verdicts")) as world:
        places = {online: new_project(world, allowed_extra=[], network=online) for online in (True, False)}
        cases = [(_here(world, line, places[True]), places[True]) for line, _ in HOSTILE]
        cases += [(line, places[place.network]) for line, _, place in HARMLESS]
        cases = cases[::PART]
        verdicts = _ask_all(world, cases)
        wanted = [(False, rule) for _, rule in HOSTILE] + [(True, f"allow.{name}") for _, name, _ in HARMLESS]
        verdicts["corpus"] = wanted[::PART]
        yield world, cases, verdicts


def _here(world: World, line: str, project: str) -> str:
    """The corpus has a workspace of its own; its folder, and the one above it, are ours here."""
    folder = world.server.data_dir / "projects" / project
    return line.replace(str(ROOT), str(folder)).replace(f"{ROOT.parent}", str(folder.parent))


def _ask_all(world: World, cases: list[Case]) -> Verdicts:
    """All ways in at once, on one connection each."""
    paths = ("/api/agent/execute", "/api/executions", "/api/policy/explain")
    with ThreadPoolExecutor(4) as threads:
        by_rest = [threads.submit(_post_all, world, cases, path) for path in paths]
        by_terminal = threads.submit(asyncio.run, _by_terminal(world, cases)).result()
        executed, started, explained = (each.result() for each in by_rest)
    records = {each["id"]: each for project in {project for _, project in cases} for each in _history(world, project)}
    return {
        "execute": [(status == 200, body["rule"]) for status, body in executed],
        "executions": [_kept(*answer, records) for answer in started],
        "explain": [(body["allowed"], body["rule"]) for _, body in explained],
        "terminal": by_terminal,
    }


def _post_all(world: World, cases: list[Case], path: str) -> list[tuple[int, Json]]:
    connection = HTTPConnection("127.0.0.1", world.server.port, timeout=60)
    headers = world.headers("ann") | {"Content-Type": "application/json"}
    dry = {} if path.endswith("explain") else {"dry_run": True}
    answers = []
    with closing(connection):
        for line, project in cases:
            body = json.dumps({"project_id": project, "command": line, **dry})
            connection.request("POST", path, body, headers)
            answer = connection.getresponse()
            answers.append((answer.status, json.loads(answer.read())))
    assert {status for status, _ in answers} <= {200, 202, 400}
    return answers


def _kept(status: int, answer: Json, records: dict[str, Json]) -> Verdict:
    """The verdict as the history has it; that of a refusal stands in the answer too."""
    record = records[answer["id" if status == 202 else "command_id"]]
    assert (status == 202) == (record["status"] == "succeeded")
    return record["status"] == "succeeded", record["rule"]


async def _by_terminal(world: World, cases: list[Case]) -> list[Verdict]:
    async with terminal(world.server, additional_headers=world.headers("ann")) as client:
        first = [(await client.run(line, project=project, dry_run=True))[0] for line, project in cases]
    return [(message["type"] == "started", message["rule"]) for message in first]


def _history(world: World, project: str) -> list[Json]:
    """The whole history of a project, page by page."""
    found, before = [], ""
    while True:
        page = world.ask("ann", "GET", f"/api/executions?project_id={project}&limit=200{before}").json()
        found += page["executions"]
        if page["next_before"] is None:
            return found
        before = f"&before={page['next_before']}"


def test_every_way_in_says_the_same(judged: tuple[World, list[Case], Verdicts]) -> None:
    _, cases, verdicts = judged
    by_way = zip(*(verdicts[way] for way in WAYS), strict=True)
    assert not [(line, said) for (line, _), said in zip(cases, by_way, strict=True) if len(set(said)) > 1]
    assert len(cases) > 800 // PART


@pytest.mark.parametrize("way", WAYS)
def test_it_is_the_verdict_of_the_corpus(judged: tuple[World, list[Case], Verdicts], way: str) -> None:
    _, cases, verdicts = judged
    each = zip(cases, verdicts[way], verdicts["corpus"], strict=True)
    assert not [(line, said, wanted) for (line, _), said, wanted in each if said != wanted]


def test_the_history_has_every_attempt(judged: tuple[World, list[Case], Verdicts]) -> None:
    """Explained lines are no attempts; each of the others stands there once for each way in, newest first."""
    world, cases, verdicts = judged
    masked = Masks.of((), DEFAULT_PATTERNS).text
    for project in {project for _, project in cases}:
        wanted = [
            (masked(line.strip()), *verdict)
            for way in ("execute", "executions", "terminal")
            for (line, where), verdict in zip(cases, verdicts[way], strict=True)
            if where == project
        ]
        found = _history(world, project)
        assert sorted(wanted) == sorted(
            (each["command"], each["status"] == "succeeded", each["rule"]) for each in found
        )
        ids = [each["id"] for each in found]
        assert ids == sorted(ids, reverse=True)
        assert all(each["dry_run"] and each["exit_code"] is None for each in found)
