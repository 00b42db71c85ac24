"""`python -m backend hook …`."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from tests.api.world import audit
from tests.cli.printed import printed

STAGE = json.dumps({"stage": {"type": "choice", "values": ["test", "live"]}})


pytestmark = pytest.mark.usefixtures("ann")


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    """What a verb of `hook` prints, both streams."""
    return printed(capsys, "hook", *words, code=code)


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(capsys, "list", "--json")]


def stored_secret(folder: Path) -> str:
    database = sqlite3.connect(folder / "data" / "gatepost.db")
    ((secret,),) = database.execute("select secret from hooks")
    database.close()
    return str(secret)


def test_a_hook_is_added_rotated_and_deleted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    added = said(capsys, "add", "deploy", "echo to {stage}", "--user", "ann", "--parameters", STAGE)
    (found,) = listed(capsys)
    assert (found["owner"], found["parameters"], found["url"]) == ("ann", ["stage"], f"/hooks/{found['id']}")
    assert found["url"] in added[1]
    assert added[0] == stored_secret(tmp_path)
    assert "whsec_" not in json.dumps(found)
    new, *rest = said(capsys, "rotate", found["id"], "--overlap", "2")
    assert rest[-1] == "gatepost: the old secret is valid for 2 hours more"
    assert new.startswith("whsec_")
    assert new == stored_secret(tmp_path) != added[0]
    assert said(capsys, "rm", found["id"]) == ["Deleted deploy."]
    assert listed(capsys) == []
    events = [each for each in audit(tmp_path / "data") if each["kind"].startswith("hook_")]
    assert [each["kind"] for each in events] == ["hook_created", "hook_rotated", "hook_deleted"]
    assert events[1]["overlap_seconds"] == 2 * 3600
    assert "whsec_" not in json.dumps(events)


REFUSED: list[tuple[list[str], str]] = [
    (["echo", "--user", "bob"], "there is no user bob"),
    (["rm -rf /", "--user", "ann"], "["),
    (["echo {stage}", "--user", "ann"], "[hook.line]"),
    (["echo", "--user", "ann", "--parameters", STAGE], "[hook.line]"),
    (["echo {a}", "--user", "ann", "--parameters", '{"a":{"type":"choice"}}'], "a.choice.values: Field required"),
    (["echo", "--user", "ann", "--parameters", "{"], "--parameters cannot be understood: Invalid JSON"),
    (["echo", "--user", "ann", "--project", "01J"], "[project.unknown]"),
]


def test_what_cannot_be_added_and_what_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in REFUSED:
        assert message in said(capsys, "add", "x", *words, code=1)[0]
    assert listed(capsys) == []
    for verb in ("rotate", "rm"):
        assert "[hook.unknown]" in said(capsys, verb, "1", code=1)[0]
