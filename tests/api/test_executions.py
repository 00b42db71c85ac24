"""Executions as resources: start, list, read in slices, follow, cancel, feed, signal, repeat."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from backend.transports.event_streams import MOST_STREAMS
from tests.api.world import World, new_project, running_world
from tests.client import assert_gapless, output
from tests.serving import wait_until

# Characters of one to four bytes, lines with and without an end, quotes, and both streams.
MANY_BYTES = r"""pyguard bash -c 'for i in $(seq 40); do printf "a\u00e9\u20ac\U0001F389 \"$i\" \\\\ "; echo; done; printf "\u00e9nd"; printf "wr\u00f6ng\n" >&2'"""


def _start(world: World, who: str, key: str | None, **fields: Any) -> httpx.Response:
    headers = {"Idempotency-Key": key} if key else {}
    body = {"project_id": world.project, **fields}
    return world.ask(who, "POST", "/api/executions", body, headers=headers)


def _get(world: World, execution: str, path: str = "", who: str = "ann") -> dict[str, Any]:
    answer = world.ask(who, "GET", f"/api/executions/{execution}{path}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _post(world: World, execution: str, what: str, body: Any = None, who: str = "ann") -> httpx.Response:
    return world.ask(who, "POST", f"/api/executions/{execution}/{what}", body)


def _wait_for_output(world: World, execution: str, text: str) -> None:
    wait_until(lambda: text in _get(world, execution, "/output")["data"], f"{text!r} in the output")


class TestStarting:
    """POST /api/executions, GET /api/executions."""

    def test_202_says_where_it_is(self, world: World) -> None:
        answer = _start(world, "ann", None, command="echo hello")
        body = answer.json()
        assert (answer.status_code, body["status"]) == (202, "running")
        assert answer.headers["location"] == body["url"] == f"/api/executions/{body['id']}"
        assert world.ended(body["id"]) == "succeeded"
        record = world.ask("ann", "GET", answer.headers["location"]).json()
        assert (record["id"], record["command"], record["exit_code"]) == (body["id"], "echo hello", 0)

    def test_without_a_project_it_runs_in_the_callers_own_place(self, world: World) -> None:
        answer = world.ask("ann", "POST", "/api/executions", {"command": "pwd"})
        id = answer.json()["id"]
        assert world.ended(id) == "succeeded"
        assert _get(world, id)["project_id"] is None
        place = world.server.data_dir / "accounts" / _get(world, id)["user_id"]
        assert _get(world, id, "/output")["data"] == f"{place}\n"

    def test_a_target_is_named_by_its_text(self, world: World) -> None:
        project = new_project(world)
        body = {"target": f"project:{project}", "command": "pwd"}
        id = world.ask("ann", "POST", "/api/executions", body).json()["id"]
        assert world.ended(id) == "succeeded"
        record = _get(world, id)
        assert (record["project_id"], record["target"]) == (project, f"project:{project}")
        page = world.ask("ann", "GET", f"/api/executions?target=project:{project}").json()["executions"]
        assert [entry["id"] for entry in page] == [id]
        assert world.ask("ann", "POST", "/api/policy/explain", body).json()["allowed"] is True
        unknown = world.ask("ann", "POST", "/api/executions", {"target": "machine:web-01", "command": "ls"})
        assert (unknown.status_code, unknown.json()["rule"]) == (404, "target.unknown")

    @pytest.mark.parametrize("target", ["", "a:b:c", "a:\n", "local"])
    def test_a_target_that_cannot_be_and_one_with_a_project_are_422(self, world: World, target: str) -> None:
        named = {"target": target, **({"project_id": world.project} if target == "local" else {})}
        for path in ("executions", "policy/explain"):
            answer = world.ask("ann", "POST", f"/api/{path}", {**named, "command": "ls"})
            assert (answer.status_code, answer.json()["rule"]) == (422, "request.invalid")
        query = "&".join(f"{name}={quote(value)}" for name, value in named.items())
        answer = world.ask("ann", "GET", f"/api/executions?{query}")
        assert (answer.status_code, answer.json()["rule"]) == (422, "request.invalid")

    @pytest.mark.parametrize("seconds", [0, -1, 86401, 1.5])
    def test_a_timeout_that_cannot_be_is_422_and_one_too_long_400(self, world: World, seconds: float) -> None:
        assert _start(world, "ann", None, command="pwd", timeout=seconds).status_code == 422
        long = _start(world, "ann", None, command="pwd", timeout=301)
        assert (long.status_code, long.json()["rule"]) == (400, "limits.timeout")

    def test_pages_follow_each_other_without_gap_or_repeat(self, world: World) -> None:
        project = new_project(world)
        made = [world.start("ann", f"echo {number}", project_id=project, dry_run=True) for number in range(7)]
        found, before = [], ""
        for size in (3, 3, 1):
            page = world.ask("ann", "GET", f"/api/executions?project_id={project}&limit=3{before}").json()
            assert len(page["executions"]) == size
            found += [entry["id"] for entry in page["executions"]]
            before = f"&before={page['next_before']}"
        assert (found, page["next_before"]) == (made[::-1], None)

    def test_the_filters_filter(self, world: World) -> None:
        project = new_project(world)
        good, bad = (world.execute("ann", line, project_id=project).json() for line in ("pwd", "pyguard false"))
        world.execute("ann", "sudo x", project_id=project)
        for status, expected in (("succeeded", [good["command_id"]]), ("failed", [bad["command_id"]]), ("lost", [])):
            page = world.ask("ann", "GET", f"/api/executions?project_id={project}&status={status}").json()
            assert [entry["id"] for entry in page["executions"]] == expected
        denied = world.ask("ann", "GET", f"/api/executions?project_id={project}&status=denied").json()["executions"]
        assert [entry["command"] for entry in denied] == ["sudo x"]
        assert world.ask("ann", "GET", "/api/executions?status=nonsense").status_code == 422
        everyone = world.ask("root", "GET", "/api/executions?everyone=true&limit=200").json()["executions"]
        assert good["command_id"] in {entry["id"] for entry in everyone}

    def test_explaining_runs_and_keeps_nothing(self, world: World) -> None:
        project = new_project(world)
        world.execute("ann", "touch a.txt b.txt", project_id=project)
        ask = {"project_id": project, "command": "cat *.txt && rm a.txt"}
        body = world.ask("ann", "POST", "/api/policy/explain", ask).json()
        assert (body["allowed"], body["risk"]) == (True, "moderate")
        assert body["commands"] == [["cat", "a.txt", "b.txt"], ["rm", "a.txt"]]
        refused = world.ask("ann", "POST", "/api/policy/explain", {**ask, "command": "sudo x"}).json()
        assert (refused["allowed"], refused["rule"], refused["commands"]) == (False, "blocked.sudo", [])
        assert refused["reason"]
        history = world.ask("ann", "GET", f"/api/agent/history/{project}").json()
        assert [entry["command"] for entry in history] == ["touch a.txt b.txt"]


@pytest.fixture(scope="module")
def written(world: World) -> str:
    """An execution that wrote MANY_BYTES."""
    execution = world.start("ann", MANY_BYTES)
    assert world.ended(execution) == "succeeded"
    return execution


class TestOutput:
    """GET /api/executions/{execution}/output."""

    @pytest.mark.parametrize("limit", [4, 5, 7, 64, 1 << 20])
    @pytest.mark.parametrize("stream", ["stdout", "stderr", "both"])
    def test_the_slices_together_are_the_whole(self, world: World, written: str, limit: int, stream: str) -> None:
        whole = _get(world, written, f"/output?stream={stream}&limit={1 << 20}")
        data, offset = "", 0
        while offset < whole["total_size"]:
            part = _get(world, written, f"/output?stream={stream}&offset={offset}&limit={limit}")
            assert "\ufffd" not in part["data"], "a character was cut"
            assert offset < part["next_offset"] <= offset + limit
            assert part["next_offset"] - offset == len(part["data"].encode())
            data, offset = data + part["data"], part["next_offset"]
        assert (data, part["completed"]) == (whole["data"], True)
        assert len(data.encode()) == whole["total_size"]
        if stream == "stdout":
            expected = "".join(f'aé€🎉 "{number}" \\ \n' for number in range(1, 41)) + "énd"
            assert data == expected
        if stream == "stderr":
            assert data == "wröng\n"

    @pytest.mark.parametrize("offset", [10**6, 1 << 40])
    def test_behind_the_end_there_is_nothing(self, world: World, written: str, offset: int) -> None:
        part = _get(world, written, f"/output?offset={offset}")
        assert (part["data"], part["completed"], part["next_offset"]) == ("", True, part["total_size"])

    @pytest.mark.parametrize(
        "query", ["offset=-1", "limit=3", "limit=1048577", "offset=x", "stream=all", f"offset={1 << 41}"]
    )
    def test_what_cannot_be_is_422(self, world: World, written: str, query: str) -> None:
        assert world.ask("ann", "GET", f"/api/executions/{written}/output?{query}").status_code == 422

    def test_it_grows_until_it_is_completed(self, world: World) -> None:
        execution = world.start("ann", "cat", stdin=True)
        assert _get(world, execution, "/output")["completed"] is False
        _post(world, execution, "stdin", {"data": "één\n"})
        _wait_for_output(world, execution, "één\n")
        part = _get(world, execution, "/output")
        assert (part["completed"], part["total_size"]) == (False, 6)
        _post(world, execution, "stdin", {"data": "two", "close": True})
        world.ended(execution)
        rest = wait_until(
            lambda: (now := _get(world, execution, f"/output?offset={part['next_offset']}"))["completed"] and now,
            "the end",
        )
        assert (rest["data"], rest["offset"], rest["next_offset"]) == ("two", 6, 9)

    def test_one_that_runs_is_not_completed_though_its_recording_is_not_here(self, world: World) -> None:
        execution = world.start("ann", "cat", stdin=True)
        (world.server.recordings / f"{execution}.ndjson").unlink()
        part = _get(world, execution, "/output")
        assert (part["data"], part["completed"]) == ("", False)
        _post(world, execution, "cancel")
        world.ended(execution)
        assert _get(world, execution, "/output")["completed"] is True

    def test_one_that_cannot_be_read_is_503(self, world: World) -> None:
        execution = world.start("ann", "echo kept")
        world.ended(execution)
        world.ended(world.start("ann", "echo later"))  # now the earlier one is looked for in its file
        file = world.server.recordings / f"{execution}.ndjson"
        file.unlink()
        file.mkdir()  # which not even root can read as a file
        for part in ("output", "events"):
            answer = world.ask("ann", "GET", f"/api/executions/{execution}/{part}")
            assert (answer.status_code, answer.json()["rule"]) == (503, "recording.unavailable")
        file.rmdir()

    def test_a_refused_one_has_none(self, world: World) -> None:
        id = world.execute("ann", "sudo x").json()["command_id"]
        assert _get(world, id, "/output") == {"data": "", "offset": 0, "next_offset": 0, "completed": True, "total_size": 0}  # fmt: skip
        assert world.ask("ann", "GET", f"/api/executions/{id}/events").status_code == 410


@contextmanager
def _events(
    world: World, execution: str, after: str | None = None, who: str = "ann"
) -> Iterator[Iterator[tuple[int, Any]]]:
    """The server-sent events as id and message."""
    headers = world.headers(who) | ({"Last-Event-ID": after} if after else {})
    url = f"{world.server.url}/api/executions/{execution}/events"
    with world.client.stream("GET", url, headers=headers) as answer:
        assert (answer.status_code, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        yield _parsed(answer.iter_lines())


def _parsed(lines: Iterator[str]) -> Iterator[tuple[int, Any]]:
    id = 0
    for line in lines:
        if line.startswith("id: "):
            id = int(line[4:])
        elif line.startswith("data: "):
            yield id, json.loads(line[6:])
        else:
            assert line == "" or line.startswith(":"), line


class TestEvents:
    """GET /api/executions/{execution}/events."""

    def test_they_are_the_recording(self, world: World) -> None:
        execution = world.start("ann", "pyguard bash -c 'seq 500; echo wrong >&2'")
        with _events(world, execution) as events:
            found = list(events)
        assert_gapless([message for _, message in found])
        assert [message for _, message in found] == world.server.recording(execution)
        assert found[-1][1]["type"] == "complete"
        assert output([message for _, message in found]) == "".join(f"{number}\n" for number in range(1, 501))

    @pytest.mark.parametrize("live", [True, False], ids=["live", "ended"])
    def test_they_resume_after_any_number_without_gap_or_repeat(self, world: World, live: bool) -> None:
        script = "for i in 1 2 3 4; do seq $i 5; sleep 0.05; done"
        execution = world.start("ann", f"pyguard bash -c '{script}'")
        if not live:
            world.ended(execution)
        seen: list[Any] = []
        after: str | None = None
        while not seen or seen[-1]["type"] != "complete":
            assert len(seen) < 20, seen
            with _events(world, execution, after) as events:
                id, message = next(events)  # one event, then the connection drops
            seen.append(message)
            after = str(id)
        assert_gapless(seen)
        assert output(seen) == "1\n2\n3\n4\n5\n2\n3\n4\n5\n3\n4\n5\n4\n5\n"

    @pytest.mark.parametrize("after", range(0, 12, 3))
    def test_they_resume_in_the_middle_of_a_batch(self, world: World, after: int) -> None:
        execution = world.start("ann", "pyguard seq 10")
        world.ended(execution)
        with _events(world, execution, str(after)) as events:
            found = [message for _, message in events]
        total = sum(len(message.get("lines", "1")) for message in world.server.recording(execution))
        assert_gapless(found, after)
        assert sum(len(message.get("lines", "1")) for message in found) == total - after

    @pytest.mark.parametrize("after", [12, 13, 10**14])
    def test_after_the_end_a_browser_is_told_not_to_come_again(self, world: World, after: int) -> None:
        execution = world.start("ann", "pyguard seq 10")
        world.ended(execution)
        answer = world.ask("ann", "GET", f"/api/executions/{execution}/events", headers={"Last-Event-ID": str(after)})
        assert (answer.status_code, answer.content) == (204, b"")

    @pytest.mark.parametrize("after", ["x", "-1", "1e3", "9" * 16, "1 1", "٣"])
    def test_an_odd_number_is_422(self, world: World, after: str) -> None:
        execution = world.start("ann", "pwd", dry_run=True)
        headers = {"Last-Event-ID": after.encode()}
        answer = world.ask("ann", "GET", f"/api/executions/{execution}/events", headers=headers)
        assert answer.status_code == 422

    def test_an_account_follows_so_many_at_once_and_no_more(self, world: World) -> None:
        execution = world.start("cleo", "cat", stdin=True)
        with ExitStack() as stack:
            streams = [stack.enter_context(_events(world, execution, who="cleo")) for _ in range(MOST_STREAMS)]
            assert all(next(events)[1]["type"] == "started" for events in streams)
            refused = world.ask("cleo", "GET", f"/api/executions/{execution}/events")
            assert (refused.status_code, refused.json()["rule"]) == (429, "limits.watching")
            assert int(refused.headers["retry-after"]) > 0
            with _events(world, execution, who="ann") as events:
                assert next(events)[1]["type"] == "started"
        wait_until(lambda: self._first_event(world, execution), "room for another stream")
        _post(world, execution, "cancel", who="cleo")

    def _first_event(self, world: World, execution: str) -> bool:
        url = f"{world.server.url}/api/executions/{execution}/events"
        with world.client.stream("GET", url, headers=world.headers("cleo")) as answer:
            return answer.status_code == 200

    def test_they_end_for_who_leaves_the_project(self, world: World) -> None:
        project = new_project(world, members=["cleo"])
        script = "while :; do echo tick; sleep 0.1; done"
        execution = world.start("ann", f"pyguard bash -c '{script}'", project_id=project)
        began = time.monotonic()
        with _events(world, execution, who="cleo") as events:
            assert next(events)[1]["type"] == "started"
            world.ask("ann", "PATCH", f"/api/projects/{project}", {"members": []})
            for _ in events:
                assert time.monotonic() - began < 12, "they go on"
        assert world.status(execution) == "running"
        _post(world, execution, "cancel")

    def test_a_viewer_who_leaves_stops_nothing(self, world: World) -> None:
        execution = world.start("ann", "cat", stdin=True)
        with _events(world, execution) as events:
            assert next(events)[1]["type"] == "started"
        assert world.status(execution) == "running"
        _post(world, execution, "stdin", {"data": "still\n", "close": True})
        assert world.ended(execution) == "succeeded"
        assert _get(world, execution, "/output")["data"] == "still\n"


class TestTouching:
    """Cancel, standard input, signals."""

    def test_cancel_stops_it_and_says_by_whom(self, world: World) -> None:
        execution = world.start("ann", "pyguard sleep 60")
        answer = _post(world, execution, "cancel", who="cleo")
        assert (answer.status_code, answer.json()) == (202, {"id": execution, "status": "cancelling"})
        assert world.ended(execution) == "cancelled"
        (event,) = world.events(kind="cancelled", execution=execution)
        assert (event["by"], event["actor"]) == ("user:cleo", "user:ann")
        again = _post(world, execution, "cancel")
        assert (again.status_code, again.json()) == (202, {"id": execution, "status": "cancelled"})

    def test_standard_input_arrives_whole_and_in_order(self, world: World) -> None:
        execution = world.start("ann", "pyguard wc -c", stdin=True)
        for _ in range(3):
            assert _post(world, execution, "stdin", {"data": "é" * 1000}).status_code == 202
        assert _post(world, execution, "stdin", {"close": True}).status_code == 202
        assert world.ended(execution) == "succeeded"
        assert _get(world, execution, "/output")["data"].strip() == "6000"

    def test_standard_input_that_is_closed_or_full_is_409(self, world: World) -> None:
        closed = world.start("ann", "pyguard sleep 60")
        answer = _post(world, closed, "stdin", {"data": "x"})
        assert (answer.status_code, answer.json()["rule"]) == (409, "stdin.closed")
        full = world.start("ann", "pyguard sleep 60", stdin=True)
        rules = Counter(_post(world, full, "stdin", {"data": "x" * 65536}).json().get("rule") for _ in range(20))
        assert rules["stdin.full"] >= 1
        assert rules[None] >= 15
        assert _post(world, full, "stdin", {"data": "x" * 65537}).status_code == 422
        for execution in (closed, full):
            _post(world, execution, "cancel")

    @pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2"])
    def test_a_signal_arrives(self, world: World, name: str) -> None:
        script = f'trap "echo got {name}; exit 7" {name}; echo up; while :; do read -t 5; done'
        execution = world.start("ann", f"pyguard bash -c '{script}'", stdin=True)
        _wait_for_output(world, execution, "up")
        assert _post(world, execution, "signal", {"signal": name}).json() == {"id": execution, "signal": name}
        assert world.ended(execution) == "failed"
        assert _get(world, execution, "/output")["data"] == f"up\ngot {name}\n"
        assert _get(world, execution)["exit_code"] == 7

    @pytest.mark.parametrize("name", ["STOP", "SIGTERM", "9", 9, "CHLD", "", None])
    def test_any_other_signal_is_422(self, world: World, name: Any) -> None:
        execution = world.start("ann", "pyguard sleep 60")
        assert _post(world, execution, "signal", {"signal": name}).status_code == 422
        assert world.status(execution) == "running"
        _post(world, execution, "cancel")


class TestIdempotency:
    """A key stands for one execution."""

    def test_twenty_at_once_start_one(self, world: World) -> None:
        with ThreadPoolExecutor(20) as threads:
            asked = [
                threads.submit(_start, world, "ann", "twenty", command="pyguard bash -c 'echo x >> twenty'")
                for _ in range(20)
            ]
            answers = [each.result() for each in asked]
        assert {answer.status_code for answer in answers} == {202}
        (id,) = {answer.json()["id"] for answer in answers}
        world.ended(id)
        assert world.execute("ann", "cat twenty").json()["stdout"] == "x\n"
        assert len(world.events(kind="submitted", execution=id)) == 1

    def test_execute_gives_everybody_the_result_of_the_first(self, world: World) -> None:
        def ask(_: int) -> dict[str, Any]:
            body = {"project_id": world.project, "command": "pyguard bash -c 'sleep 0.3; echo $$; exit 3'"}
            return dict(world.ask("ann", "POST", "/api/agent/execute", body, headers={"Idempotency-Key": "all"}).json())

        with ThreadPoolExecutor(8) as threads:
            bodies = list(threads.map(ask, range(8)))
        assert all(body == bodies[0] for body in bodies)
        assert (bodies[0]["exit_code"], bodies[0]["success"]) == (3, False)
        assert ask(0) == bodies[0]

    def test_a_repeat_tells_how_it_stands(self, world: World) -> None:
        id = _start(world, "ann", "standing", command="pwd").json()["id"]
        world.ended(id)
        again = _start(world, "ann", "standing", command="pwd")
        assert (again.status_code, again.json()["id"], again.json()["status"]) == (202, id, "succeeded")

    @pytest.mark.parametrize("change", [{"command": "ls"}, {"timeout": 9}, {"dry_run": True}, {"working_dir": "./"}])
    def test_another_body_is_422(self, world: World, change: dict[str, Any]) -> None:
        key = f"body-{next(iter(change))}"
        first = _start(world, "ann", key, command="pwd")
        other = _start(world, "ann", key, **{"command": "pwd", **change})
        assert (first.status_code, other.status_code, other.json()["rule"]) == (202, 422, "idempotency.mismatch")
        moved = world.ask("ann", "POST", "/api/executions", {"command": "pwd"}, headers={"Idempotency-Key": key})
        assert moved.status_code == 422

    def test_a_refused_request_may_come_again(self, world: World) -> None:
        for _ in range(2):
            answer = _start(world, "ann", "again", command="sudo ls")
            assert (answer.status_code, answer.json()["rule"]) == (400, "blocked.sudo")
        assert _start(world, "ann", "again", command="pwd").status_code == 202

    def test_of_many_refused_at_once_each_is_told_why(self, world: World) -> None:
        with ThreadPoolExecutor(12) as threads:
            asked = [threads.submit(_start, world, "ann", f"no-{n % 5}", command="sudo ls") for n in range(60)]
            answers = [each.result() for each in asked]
        assert Counter((each.status_code, each.json()["rule"]) for each in answers) == {(400, "blocked.sudo"): 60}

    def test_the_key_of_another_is_another(self, world: World) -> None:
        ids = {_start(world, who, "shared", command="pwd").json()["id"] for who in ("ann", "cleo", "root")}
        assert len(ids) == 3
        assert _start(world, "program", "shared", command="pwd").json()["id"] in ids, "the tokens of ann are ann"

    @pytest.mark.parametrize("key", ["", "a b", "x" * 256, "é"])
    def test_a_key_that_cannot_be_one_is_422(self, world: World, key: str) -> None:
        headers = {"Idempotency-Key": key.encode()}
        body = {"project_id": world.project, "command": "pwd"}
        assert world.ask("ann", "POST", "/api/executions", body, headers=headers).status_code == 422


def test_a_detached_command_goes_on_when_a_viewer_leaves(tmp_path: Path) -> None:
    with running_world(tmp_path, {"GATEPOST_DETACH_GRACE": "0"}) as world:
        execution = world.start("ann", "pyguard bash -c 'echo up; sleep 2; echo done'")
        with _events(world, execution) as events:
            assert next(events)[1]["type"] == "started"
        assert world.ended(execution) == "succeeded"


def test_the_url_of_an_execution_holds_nothing_but_its_id(world: World) -> None:
    assert re.fullmatch(r"/api/executions/[0-9A-Z]{26}", _start(world, "ann", None, command="pwd").headers["location"])
