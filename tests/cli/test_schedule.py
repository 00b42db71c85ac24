"""`python -m backend schedule …`."""

import json
from pathlib import Path

import pytest

from backend.cli.main import main
from tests.api.world import audit

pytestmark = pytest.mark.usefixtures("ann")


def schedule(*words: str) -> int:
    return main(["schedule", *words])


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    capsys.readouterr()
    assert schedule("list", "--json") == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_schedule_from_its_begin_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    when = ["--cron", "30 2 * * *", "--zone", "Europe/Berlin", "--missed", "skip", "--jitter", "30", "--retries", "2"]
    assert schedule("add", "nightly", "echo token=gp_canary0123456789", "--user", "ann", *when) == 0
    (found,) = listed(capsys)
    assert (found["owner"], found["zone"], found["missed"], found["retries"]) == ("ann", "Europe/Berlin", "skip", 2)
    assert len(found["next"]) == 5  # type: ignore[arg-type]
    id = str(found["id"])
    for verb, paused in (("pause", True), ("pause", True), ("resume", False), ("run", False)):
        assert schedule(verb, id) == 0
        assert listed(capsys)[0]["paused"] is paused
    assert schedule("list") == 0
    assert "\techo" not in capsys.readouterr().out  # the line is quoted
    assert schedule("rm", id) == 0
    assert listed(capsys) == []
    events = [event for event in audit(tmp_path / "data") if event["kind"].startswith("schedule_")]
    assert [event["kind"].removeprefix("schedule_") for event in events] == [
        "created",
        "changed",
        "changed",
        "changed",
        "run",
        "deleted",
    ]
    assert all(event["actor"].startswith("cli:") for event in events)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--user", "bob", "--cron", "0 * * * *"], "there is no user bob"),
        (["--user", "ann", "--cron", "* * * * * *"], "[schedule.cron]"),
        (["--user", "ann", "--cron", "0 0 30 2 *"], "[schedule.cron]"),
        (["--user", "ann", "--cron", "0 * * * *", "--zone", "Mars/Base"], "[schedule.cron]"),
        (["--user", "ann", "--cron", "0 * * * *", "--missed", "queue"], "[schedule.policy]"),
        (["--user", "ann", "--cron", "0 * * * *", "--project", "01J5"], "[project.unknown]"),
    ],
)
def test_what_cannot_be_added(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert schedule("add", "x", "pwd", *words) == 1
    assert message in capsys.readouterr().err
    assert listed(capsys) == []


def test_a_line_is_judged_when_it_is_added(capsys: pytest.CaptureFixture[str]) -> None:
    hourly = ["--user", "ann", "--cron", "0 * * * *"]
    assert schedule("add", "x", "rm -rf /", *hourly) == 1
    assert "[" in capsys.readouterr().err
    assert schedule("add", "x", "git_status /srv", *hourly, "--target", "host:web-01") == 0  # the host judges it
    assert schedule("pause", "01ARZ3NDEKTSV4RRFFQ69G5FAV") == 1
    assert "[schedule.unknown]" in capsys.readouterr().err


OWN = """
name = "own"
extends = "agent"
summary = "One program more."

[programs.deploy]
summary = "Deploy"
usage = "deploy"
operands = "text"
"""


def test_a_profile_of_an_administrator_judges_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    monkeypatch.setenv("GATEPOST_PROFILES", str(tmp_path))
    assert main(["user", "add", "bob", "--no-password", "--profile", "own"]) == 0
    hourly = ["--cron", "0 * * * *"]
    assert schedule("add", "x", "deploy now", "--user", "bob", *hourly) == 0
    assert schedule("add", "x", "deploy now", "--user", "ann", *hourly) == 1


@pytest.mark.parametrize("option", [["--timeout", "0"], ["--jitter", "-1"], ["--retries", "99"], ["--target", "A B"]])
def test_wrong_usage(option: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        schedule("add", "x", "pwd", "--user", "ann", "--cron", "0 * * * *", *option)
    assert ended.value.code == 2
