"""`python -m backend runner …`."""

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from backend.accounts.credentials import secret_hash
from backend.cli.main import main

pytestmark = pytest.mark.usefixtures("own_folder")


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    """What a verb of `runner` prints, both streams."""
    assert main(["runner", *words]) == code
    printed = capsys.readouterr()
    return [*printed.out.splitlines(), *printed.err.splitlines()]


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(capsys, "key", "list", "--json")]


def test_a_key_is_created_rotated_suspended_and_revoked(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["user", "add", "ann", "--no-password"]) == 0
    capsys.readouterr()
    missing = said(capsys, "key", "create", "shop", code=1)
    assert missing == ["gatepost: there is no project shop; with --owner NAME it is created for that account"]
    secret = said(capsys, "key", "create", "shop", "--owner", "ann", "--name", "production")[0]
    [key] = listed(capsys)
    assert (key["name"], key["project_name"], key["expires_ms"]) == ("production", "shop", None)

    new = said(capsys, "key", "rotate", key["id"], "--overlap", "2")[0]
    old, rotated = listed(capsys)
    assert old["expires_ms"] - rotated["created_ms"] == pytest.approx(2 * 3600_000, abs=60_000)
    said(capsys, "suspend", rotated["id"], "--reason", "maintenance")
    assert listed(capsys)[1]["suspended"] == "maintenance"
    said(capsys, "resume", rotated["id"])
    said(capsys, "key", "revoke", old["id"])
    assert [line.split("\t")[3] for line in said(capsys, "key", "list", "shop")] == ["revoked", "offline"]

    assert said(capsys, "key", "revoke", "nothing", code=1)[0].startswith("gatepost: there is no key nothing")
    assert said(capsys, "key", "list", "nothing", code=1) == ["gatepost: there is no project nothing"]
    assert said(capsys, "key", "create", "shop", "--name", " ", code=1)[0].startswith("gatepost: a name must")

    database = sqlite3.connect(tmp_path / "data" / "gatepost.db")
    stored = [bytes(row[0]) for row in database.execute("select secret_hash from runner_keys order by id")]
    kinds = [json.loads(row[0])["kind"] for row in database.execute("select body from audit_events order by seq")]
    database.close()
    assert stored == [secret_hash(secret), secret_hash(new)]
    assert secret.encode() not in (tmp_path / "data" / "gatepost.db").read_bytes()
    assert [kind for kind in kinds if kind.startswith("runner_")] == [
        "runner_key_created",
        "runner_key_rotated",
        "runner_suspended",
        "runner_resumed",
        "runner_key_revoked",
    ]
