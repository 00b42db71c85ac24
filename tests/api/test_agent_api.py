"""The agent API as it is promised: fields, statuses, limits, history, figures, alerts."""

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from backend.core.audit.anomalies import MOST, AlertTracker, AttemptSummary, alerts
from backend.core.identity import Role
from tests.api.world import World, access_token, accounts, new_project, running_world
from tests.client import output, terminal
from tests.conftest import StartServer

EXECUTED = {"success", "command", "stdout", "stderr", "exit_code", "duration_ms", "risk_level", "dry_run", "command_id", "message"}  # fmt: skip
RECORD = {"id", "user_id", "project_id", "command", "working_dir", "success", "exit_code", "duration_ms", "risk_level", "dry_run", "created_at"}  # fmt: skip
STATS = {"total_commands", "successful_commands", "failed_commands", "high_risk_commands", "average_duration_ms", "period_days"}  # fmt: skip
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_health_needs_no_token_and_says_what_there_is(world: World) -> None:
    names = ("command_execution", "audit_logging", "rate_limiting", "command_validation")
    expected = {"status": "healthy", "service": "agent-api", "features": dict.fromkeys(names, True)}
    assert world.ask(None, "GET", "/api/agent/health").json() == expected


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ({"GATEPOST_DISK_MARGIN": str(10**18)}, "The disk of the server has less than"),
        ({"REDIS_URL": "redis://127.0.0.1:1"}, "The counters of the rates (Redis) do not answer."),
    ],
)
def test_health_says_when_no_command_can_run(start_server: StartServer, setting: dict[str, str], reason: str) -> None:
    server = start_server(setting)
    answer = server.get("/api/agent/health")
    assert (answer.status, answer.json["status"]) == (200, "unavailable")
    assert answer.json["reason"].startswith(reason)
    assert answer.json["features"] == {
        "command_execution": False,
        "audit_logging": True,
        "rate_limiting": "REDIS_URL" not in setting,
        "command_validation": True,
    }


class TestExecute:
    """POST /api/agent/execute."""

    def test_a_command_that_succeeds(self, world: World) -> None:
        answer = world.execute("ann", "echo héllo 🎉")
        assert answer.status_code == 200
        body = answer.json()
        assert set(body) >= EXECUTED
        assert (body["success"], body["exit_code"], body["dry_run"]) == (True, 0, False)
        assert (body["stdout"], body["stderr"], body["command"]) == ("héllo 🎉\n", "", "echo héllo 🎉")
        assert (body["risk_level"], type(body["duration_ms"])) == ("safe", int)

    @pytest.mark.parametrize("code", [1, 3, 255])
    def test_one_that_fails_is_200_with_its_true_exit_code(self, world: World, code: int) -> None:
        answer = world.execute("ann", f"pyguard bash -c 'echo out; echo wrong >&2; exit {code}'")
        body = answer.json()
        assert (answer.status_code, body["success"], body["exit_code"]) == (200, False, code)
        assert (body["stdout"], body["stderr"]) == ("out\n", "wrong\n")
        record = world.ask("ann", "GET", f"/api/executions/{body['command_id']}").json()
        assert (record["success"], record["exit_code"], record["status"]) == (False, code, "failed")

    def test_one_that_is_killed_or_not_there(self, world: World) -> None:
        killed = world.execute("ann", "pyguard bash -c 'kill -9 $$'").json()
        assert (killed["success"], killed["exit_code"]) == (False, 128 + 9)
        missing = world.execute("ann", "pyguard no-such-program").json()
        assert (missing["success"], missing["exit_code"]) == (False, 127)

    def test_steps_and_pipes_are_judged_and_run(self, world: World) -> None:
        done = world.execute("ann", "echo one && echo two | wc -l ; ls nowhere || echo three").json()
        assert (done["stdout"], done["exit_code"]) == ("one\n1\nthree\n", 0)
        assert "nowhere" in done["stderr"]
        refused = world.execute("ann", "echo one && sudo ls")
        assert (refused.status_code, refused.json()["rule"]) == (400, "blocked.sudo")

    def test_a_step_that_is_refused_at_its_turn_names_the_rule_and_says_what_to_do(self, world: World) -> None:
        done = world.execute("ann", "N=$(echo 0); echo one; echo $((1 / N))").json()
        assert (done["exit_code"], done["rule"], done["stdout"]) == (126, "syntax.arithmetic", "one\n")
        assert done["message"].startswith("A $(( )) has no value: it divides by 0. For example:")

    def test_the_folder_is_that_of_the_project_or_one_in_it(self, world: World) -> None:
        project = new_project(world)
        assert world.execute("ann", "mkdir -p a/b", project_id=project).json()["success"]
        root = world.execute("ann", "pwd", project_id=project).json()["stdout"].strip()
        assert root.endswith(f"projects/{project}")
        assert world.execute("ann", "pwd", project_id=project, working_dir="a/b").json()["stdout"] == f"{root}/a/b\n"
        for outside in ("..", "/etc", "a/../../x", "/"):
            answer = world.execute("ann", "pwd", project_id=project, working_dir=outside)
            assert (answer.status_code, answer.json()["rule"]) == (400, "path.outside"), outside
        missing = world.execute("ann", "pwd", project_id=project, working_dir="nowhere")
        assert missing.status_code == 400

    def test_a_dry_run_judges_and_starts_nothing(self, world: World) -> None:
        project = new_project(world)
        body = world.execute("ann", "touch made", project_id=project, dry_run=True).json()
        assert (body["success"], body["dry_run"], body["exit_code"], body["stdout"]) == (True, True, None, "")
        assert world.execute("ann", "ls", project_id=project).json()["stdout"] == ""
        refused = world.execute("ann", "rm -rf /", project_id=project, dry_run=True)
        assert refused.status_code == 400

    def test_a_timeout_stops_it(self, world: World) -> None:
        began = time.monotonic()
        body = world.execute("ann", "pyguard sleep 60", timeout=1).json()
        assert (body["success"], body["exit_code"], body["timed_out"], body["status"]) == (
            False,
            124,
            True,
            "timed_out",
        )
        assert 1 <= time.monotonic() - began < 30

    def test_a_refusal_is_400_with_the_reason_and_the_rule(self, world: World) -> None:
        answer = world.execute("ann", "sudo rm -rf /")
        body = answer.json()
        assert (answer.status_code, body["rule"], body["risk"]) == (400, "blocked.sudo", "blocked")
        assert body["detail"].startswith("Command validation failed: ")
        assert body["rule"] in body["detail"]
        record = world.ask("ann", "GET", f"/api/executions/{body['command_id']}").json()
        assert (record["status"], record["rule"], record["success"]) == ("denied", "blocked.sudo", False)
        (event,) = world.events(kind="denied", execution=body["command_id"])
        assert (event["actor"], event["command"], event["project"]) == ("user:ann", "sudo rm -rf /", world.project)

    @pytest.mark.parametrize("quoted", ['echo "a && b | c; d > e"', "grep 'a|b' welcome", "echo '2>&1 $(x) `y`'"])
    def test_an_operator_in_quotes_is_a_character(self, world: World, quoted: str) -> None:
        assert world.execute("ann", quoted, dry_run=True).status_code == 200

    @pytest.mark.parametrize(
        ("field", "good", "bad"),
        [
            ("command", ["x", "echo " + "y" * 995], ["", None, 5, ["ls"]]),
            ("timeout", [1, 300], [0, 301, -1, 1.5, "x", None]),
            ("working_dir", [".", "a" * 1024], ["a" * 1025, None, 1]),
            ("dry_run", [True], [None, "maybe", 2]),
            ("project_id", [], ["", "x" * 65, None, 7]),
        ],
    )
    def test_the_limits_of_the_fields(self, world: World, field: str, good: list[Any], bad: list[Any]) -> None:
        body = {"project_id": world.project, "command": "pwd", "dry_run": True}
        for value in good:
            answer = world.ask("ann", "POST", "/api/agent/execute", {**body, field: value})
            assert answer.status_code in {200, 400}, (value, answer.text)
        for value in bad:
            answer = world.ask("ann", "POST", "/api/agent/execute", {**body, field: value})
            assert (answer.status_code, answer.json()["rule"]) == (422, "request.invalid"), value
            assert f"body.{field}" in answer.json()["detail"]

    @pytest.mark.parametrize("misspelt", ["dryrun", "dry-run", "DRY_RUN", "project", "cwd"])
    def test_a_field_that_is_not_known_runs_nothing(self, world: World, misspelt: str) -> None:
        project = new_project(world)
        answer = world.execute("ann", "touch made", project_id=project, **{misspelt: True})
        assert (answer.status_code, answer.json()["rule"]) == (422, "request.invalid")
        assert world.execute("ann", "ls", project_id=project).json()["stdout"] == ""

    @pytest.mark.parametrize("way", ["execute", "executions"])
    def test_a_project_that_is_not_there_is_recorded(self, world: World, way: str) -> None:
        never = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
        path = f"/api/{'agent/execute' if way == 'execute' else 'executions'}"
        answer = world.ask("bob", "POST", path, {"project_id": never, "command": "pwd"})
        assert (answer.status_code, answer.json()["rule"]) == (404, "project.unknown")
        id = answer.json()["command_id"]
        record = world.ask("bob", "GET", f"/api/executions/{id}").json()
        assert (record["status"], record["rule"], record["project_id"]) == ("denied", "project.unknown", None)
        (event,) = world.events(kind="denied", execution=id)
        assert never in event["reason"]

    def test_metadata_only_keeps_no_output(self, world: World) -> None:
        hidden = new_project(world, metadata_only=True)
        for fields in ({"metadata_only": True}, {"project_id": hidden}):
            body = world.execute("ann", "echo canary-output-77", **fields).json()
            assert (body["success"], body["stdout"], body["exit_code"]) == (True, "", 0)
            assert b"canary-output-77\\n" not in (world.server.recordings / f"{body['command_id']}.ndjson").read_bytes()
            part = world.ask("ann", "GET", f"/api/executions/{body['command_id']}/output").json()
            assert (part["data"], part["completed"], part["total_size"]) == ("", True, 0)


def test_a_workspace_that_cannot_be_made_is_503_until_it_can(tmp_path: Path) -> None:
    with running_world(tmp_path) as world:
        places = world.server.data_dir / "projects"
        places.touch()
        answer = world.execute("ann", "pwd")
        assert (answer.status_code, answer.json()["rule"]) == (503, "storage.unavailable")
        assert "workspace" in answer.json()["detail"]
        places.unlink()
        assert world.execute("ann", "pwd").json()["success"]
        assert "Traceback" not in world.server.logs


class TestHistory:
    """GET /api/agent/history, /stats."""

    def test_entries_have_the_promised_fields_newest_first(self, world: World) -> None:
        project = new_project(world)
        lines = ["echo 1", "sudo ls", "pyguard false", "echo 4"]
        for line in lines:
            world.execute("ann", line, project_id=project, working_dir=".")
        found = world.ask("ann", "GET", f"/api/agent/history/{project}").json()
        assert [entry["command"] for entry in found] == lines[::-1]
        assert all(set(entry) >= RECORD and TIME.fullmatch(entry["created_at"]) for entry in found)
        assert {entry["user_id"] for entry in found} == {world.users["ann"]}
        assert {entry["project_id"] for entry in found} == {project}
        outcomes = [(entry["success"], entry["exit_code"], entry["risk_level"]) for entry in found]
        assert outcomes == [(True, 0, "safe"), (False, 1, "moderate"), (False, None, "blocked"), (True, 0, "safe")]
        times = [entry["created_at"] for entry in found]
        assert times == sorted(times, reverse=True)
        now = time.strftime("%Y-%m-%dT%H", time.gmtime())
        assert times[0] >= f"{now[:-2]}"

    @pytest.mark.parametrize("limit", [1, 2, 200])
    def test_a_limit_counts(self, world: World, limit: int) -> None:
        for _ in range(3):
            world.execute("ann", "pwd", dry_run=True)
        assert len(world.ask("ann", "GET", f"/api/agent/history/{world.project}?limit={limit}").json()) >= min(limit, 3)
        assert len(world.ask("ann", "GET", f"/api/agent/history/{world.project}?limit={limit}").json()) <= limit

    @pytest.mark.parametrize(
        "query",
        ["history/{}?limit=0", "history/{}?limit=201", "history/{}?limit=x", "stats?days=0", "stats?days=31", "stats?days=-1"],
    )  # fmt: skip
    def test_out_of_range_is_422(self, world: World, query: str) -> None:
        assert world.ask("ann", "GET", f"/api/agent/{query.format(world.project)}").status_code == 422

    def test_figures_are_those_of_the_caller(self, tmp_path: Path) -> None:
        with running_world(tmp_path) as world:
            for line in ("echo 1", "echo 2", "pyguard false", "sudo ls", "pyguard sleep 0.2", "echo 'a"):
                world.execute("ann", line)
            world.execute("ann", "ls nowhere", dry_run=True)
            world.execute("ann", "pwd", project_id="nowhere")
            for days in (1, 30):
                found = world.ask("ann", "GET", f"/api/agent/stats?days={days}").json()
                assert set(found) == STATS
                counts = {name: found[name] for name in STATS - {"average_duration_ms"}}
                assert counts == {
                    "total_commands": 5, "successful_commands": 3, "failed_commands": 2, "high_risk_commands": 1,
                    "period_days": days,
                }  # fmt: skip
                assert 50 < found["average_duration_ms"] < 5000
            assert world.ask("bob", "GET", "/api/agent/stats").json()["total_commands"] == 0


class TestLimits:
    """30 commands a minute for each account, by whatever way; 429 with Retry-After, on record."""

    def test_the_rate_of_an_account_is_shared_and_recorded(self, tmp_path: Path) -> None:
        with running_world(tmp_path, {"GATEPOST_USER_RATE": "5/minute"}) as world:
            calls = [world.execute("ann", "pwd"), world.execute("program", "sudo x"), world.execute("ann", "ls")]
            calls.append(world.ask("ann", "POST", "/api/executions", {"command": "pwd"}))
            calls.append(world.execute("ann", "pwd", project_id="01ARZ3NDEKTSV4RRFFQ69G5FAV"))
            assert [call.status_code for call in calls] == [200, 400, 200, 202, 404]
            for call in (world.execute("ann", "pwd"), world.execute("ann", "pwd", project_id="nowhere")):
                assert (call.status_code, call.json()["rule"]) == (429, "limits.rate")
                assert 0 < int(call.headers["retry-after"]) <= 61
                assert world.events(kind="rate_limited", execution=call.json()["command_id"])
            assert world.execute("cleo", "pwd").status_code == 200
            statuses = [entry["rule"] for entry in world.ask("ann", "GET", "/api/executions").json()["executions"]]
            assert statuses[:3] == ["limits.rate", "limits.rate", "project.unknown"]

    def test_checks_have_a_rate_of_their_own_and_what_is_left_is_reported(self, tmp_path: Path) -> None:
        with running_world(tmp_path, {"GATEPOST_USER_RATE": "2/minute", "GATEPOST_CHECK_RATE": "3/minute"}) as world:
            left = world.ask("ann", "GET", "/api/limits").json()
            assert left["commands"] == {"limit": 2, "seconds": 60, "remaining": 2, "reset": 0}
            assert world.execute("ann", "pwd", dry_run=True).status_code == 200
            ask = {"command": "pwd"}
            calls = [world.ask("program", "POST", "/api/policy/explain", ask) for _ in range(3)]
            assert [call.status_code for call in calls] == [200, 200, 429]
            assert 0 < int(calls[-1].headers["retry-after"]) <= 61
            assert world.execute("ann", "pwd", dry_run=True).status_code == 429
            assert world.execute("ann", "pwd").status_code == 200
            left = world.ask("ann", "GET", "/api/limits").json()
            assert (left["commands"]["remaining"], left["checks"]["remaining"]) == (1, 0)
            assert 0 < left["checks"]["reset"] <= 60
            assert world.ask("cleo", "GET", "/api/limits").json()["checks"]["remaining"] == 3

    def test_requests_are_limited_too(self, tmp_path: Path) -> None:
        with running_world(tmp_path, {"GATEPOST_API_RATE": "20/minute"}) as world:
            answers = [world.ask("bob", "GET", "/api/auth/me") for _ in range(21)]
            assert [answer.status_code for answer in answers] == [200] * 20 + [429]
            assert (answers[-1].json()["rule"], "retry-after" in answers[-1].headers) == ("limits.requests", True)
            assert world.events(kind="rejected", status=429, actor="user:bob")

    def test_too_many_at_once_are_429(self, tmp_path: Path) -> None:
        with running_world(tmp_path, {"GATEPOST_CONCURRENT_PER_PRINCIPAL": "2"}) as world:
            running = [world.start("ann", "pyguard sleep 60") for _ in range(2)]
            third = world.execute("ann", "pwd")
            assert (third.status_code, third.json()["rule"]) == (429, "limits.concurrency")
            assert int(third.headers["retry-after"]) >= 1
            assert world.execute("cleo", "pwd").status_code == 200
            world.ask("ann", "POST", f"/api/executions/{running[0]}/cancel")
            world.ended(running[0])
            assert world.execute("ann", "pwd").status_code == 200

    def test_a_place_that_cannot_be_had_is_503_and_recorded(self, tmp_path: Path) -> None:
        with running_world(tmp_path, {"GATEPOST_PROTECTION_MINIMUM": "L2"}) as world:
            (world.server.data_dir / "recordings").rename(world.server.data_dir / "gone")
            answer = world.execute("ann", "pwd")
            assert (answer.status_code, answer.json()["rule"]) == (503, "recording.unavailable")
            assert int(answer.headers["retry-after"]) >= 1
            assert world.events(kind="denied", execution=answer.json()["command_id"])


class TestAlerts:
    """GET /api/agent/alerts: each of the four rules opens at its number and not before."""

    @pytest.mark.parametrize(
        ("type", "severity", "below", "line"),
        [
            ("rapid_execution", "high", 50, "pwd"),
            ("excessive_deletions", "high", 10, "rm -f x"),
            ("high_risk_activity", "high", 5, "no-such-program"),
        ],
    )
    def test_a_number_opens_it(self, world: World, type: str, severity: str, below: int, line: str) -> None:
        who = self._somebody(world, type)
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda _: world.execute(who, line, dry_run=True), range(below)))
            list(threads.map(lambda _: world.execute(who, line), range(below)))
        assert type not in {alert["type"] for alert in self._alerts(world, who)["alerts"]}
        world.execute(who, line)
        found = self._alerts(world, who)
        (alert,) = [alert for alert in found["alerts"] if alert["type"] == type]
        assert (alert["severity"], alert["count"], found["is_suspicious"]) == (severity, below + 1, True)
        assert (found["total_commands"], found["time_window_minutes"]) == (below + 1, 5)
        assert alert["message"]

    def test_more_failures_than_half_of_ten_open_it(self, world: World) -> None:
        who = self._somebody(world, "failing")
        for line in ["sudo x"] * 3 + ["ls nowhere"] * 2 + ["pwd"] * 5:
            world.execute(who, line)
        assert not self._alerts(world, who)["is_suspicious"]
        world.execute(who, "ls nowhere")
        (alert,) = self._alerts(world, who)["alerts"]
        assert (alert["type"], alert["severity"], alert["count"]) == ("high_failure_rate", "medium", 6)

    def test_the_letters_rm_do_not_delete(self, world: World) -> None:
        who = self._somebody(world, "farmer")
        for _ in range(11):
            world.execute(who, "echo farm rm arm")
        assert self._alerts(world, who)["alerts"] == []

    def _somebody(self, world: World, name: str) -> str:
        """A new account that may run in ann's project, with its token under its name."""
        login_name = name.replace("_", "-")
        user = accounts(world.server.data_dir, lambda identities: identities.add_user(login_name, Role.OPERATOR))
        world.users[name], world.tokens[name] = user.id, access_token(user.id)
        members = world.ask("ann", "GET", f"/api/projects/{world.project}").json()["members"]
        answer = world.ask("ann", "PATCH", f"/api/projects/{world.project}", {"members": [*members, user.name]})
        assert answer.status_code == 200
        return name

    def _alerts(self, world: World, who: str) -> dict[str, Any]:
        mine = world.ask(who, "GET", "/api/agent/alerts").json()
        seen = world.ask("root", "GET", f"/api/agent/alerts?user_id={world.users[who]}").json()
        assert (mine, mine["user_id"]) == (seen, world.users[who])
        return dict(mine)


def test_the_watch_and_the_rules_agree_as_attempts_come_and_go() -> None:
    """What is counted as it comes is what counting all of them anew gives."""
    watch = AlertTracker()
    attempts: list[Any] = []
    told: set[Any] = set()
    for number in range(400):
        now = number * 3.0
        trace = AttemptSummary(failed=number % 3 == 0, deletes=number % 40 < 12, dangerous=number % 90 < 7)
        attempts.append((now, trace))
        opened = {alert.type for alert in watch.observe("user:ann", trace, now)}
        expected = {alert.type for alert in alerts([each for at, each in attempts if at >= now - 300])}
        assert opened == expected - told
        told = expected


def test_a_flood_of_attempts_costs_the_same_each() -> None:
    watch, trace = AlertTracker(), AttemptSummary(failed=True, deletes=False, dangerous=True)
    began = time.process_time()
    for _ in range(5 * MOST):
        watch.observe("user:ann", trace, 0.0)
    assert time.process_time() - began < 5


class TestSession:
    """What lasts from one line to the next, and the standard input of a line."""

    def test_a_session_keeps_the_folder_and_the_exported_variables(self, world: World) -> None:
        first = world.execute("ann", "mkdir -p kept/in && cd kept && export CI=7 && X=1", session="s.1")
        assert (first.status_code, first.json()["session_dir"]) == (200, "kept")
        second = world.execute("ann", "pwd -L && printenv CI && touch here", session="s.1").json()
        assert second["stdout"].endswith("/kept\n7\n")
        elsewhere = world.execute("ann", "pwd && cd .. && unset CI", session="s.1", working_dir="kept/in").json()
        assert (elsewhere["stdout"][-8:], elsewhere["session_dir"]) == ("kept/in\n", "kept"), "it stays where it is"
        assert world.execute("ann", "printenv CI", session="s.1").json()["exit_code"] == 1
        assert world.execute("ann", "ls kept").json()["session_dir"] is None

    def test_a_session_goes_back_to_the_folder_before(self, world: World) -> None:
        world.execute("ann", "mkdir -p kept/in && cd kept && cd in", session="s.6")
        placed = world.execute("ann", "cd .. && cd -", session="s.6", working_dir="kept").json()
        assert placed["stdout"].endswith("/kept\n")
        back = world.execute("ann", "cd - && pwd -L", session="s.6").json()
        assert [line.rsplit("/", 1)[-1] for line in back["stdout"].splitlines()] == ["kept", "kept"]
        assert world.execute("ann", "cd - && echo $OLDPWD", session="s.6").json()["session_dir"] == "kept/in"
        assert world.execute("ann", "cd -", session="s.7").json()["rule"] == "syntax.cd"

    def test_a_session_is_of_one_account_and_one_project(self, world: World) -> None:
        world.execute("ann", "mkdir -p kept/in && cd kept/in", session="s.2")
        assert world.execute("cleo", "ls", session="s.2").json()["session_dir"] == "."
        assert world.execute("ann", "ls", session="s.2", project_id=world.private).json()["session_dir"] == "."
        assert world.execute("ann", "ls", session="s.2").json()["session_dir"] == "kept/in"

    def test_a_session_whose_folder_is_gone_says_so_once_and_starts_again(self, world: World) -> None:
        world.execute("ann", "mkdir -p kept/gone && cd kept/gone", session="s.3")
        world.execute("ann", "rm -r kept/gone")
        assert world.execute("ann", "cat /etc/passwd", session="s.3").json()["rule"] == "path.session"
        assert world.execute("ann", "ls", session="s.3").json()["session_dir"] == "."

    def test_a_refused_line_leaves_the_session_as_it_is(self, world: World) -> None:
        world.execute("ann", "mkdir -p kept/in && cd kept", session="s.4")
        assert world.execute("ann", "cd in && cat /etc/passwd", session="s.4").json()["rule"] == "path.outside"
        assert world.execute("ann", "ls", session="s.4", working_dir="nope").json()["rule"] == "path.missing"
        assert world.execute("ann", "cd in", session="s.4", dry_run=True).json()["session_dir"] == "kept"
        assert world.execute("ann", "cd ../../..", session="s.4").json()["rule"] == "path.outside"

    @pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65, "a\n"])
    def test_other_names_are_refused(self, world: World, name: str) -> None:
        assert world.execute("ann", "ls", session=name).json()["rule"] == "request.invalid"

    def test_an_execution_has_a_session_and_an_input_too(self, world: World) -> None:
        world.execute("ann", "mkdir -p src")
        id = world.start("ann", "cd src && cat", session="s.5", stdin="one\ntwo")
        assert world.ended(id) == "succeeded"
        assert world.ask("ann", "GET", f"/api/executions/{id}/output").json()["data"] == "one\ntwo"
        assert world.execute("ann", "ls", session="s.5").json()["session_dir"] == "src"

    @pytest.mark.parametrize("text", ["", "é\n" * 2, "x" * 65536])
    def test_the_input_is_written_and_closed(self, world: World, text: str) -> None:
        done = world.execute("ann", "cat", stdin=text, timeout=20).json()
        assert (done["stdout"], done["exit_code"]) == (text, 0)

    def test_an_input_that_is_too_long_is_refused(self, world: World) -> None:
        assert world.execute("ann", "cat", stdin="x" * 65537).json()["rule"] == "request.invalid"

    async def test_a_connection_of_the_terminal_is_a_session(self, world: World) -> None:
        async with terminal(world.server, additional_headers=world.headers("ann")) as client:
            await client.run("mkdir -p kept && cd kept && export CI=8", project=world.project)
            assert output(await client.run("pwd -L; printenv CI", project=world.project)).endswith("/kept\n8\n")
            await client.send(command="mkdir -p own && cd own")
            await client.reply()
            await client.send(command="pwd -L")
            assert output(await client.reply()).endswith("/own\n")
        async with terminal(world.server, additional_headers=world.headers("ann")) as client:
            await client.send(command="pwd -L")
            assert not output(await client.reply()).endswith("/own\n")
