"""`python -m backend audit verify` and `audit export`."""

import asyncio
import json
import os
import pty
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from backend.accounts.signatures import Signer, new_signing_key
from backend.cli.audit import Refusal, _selected
from backend.cli.main import main
from backend.core.audit.events import Kind
from backend.core.errors import StorageError
from backend.storage.audit_chain import Chain
from backend.storage.database import Database, database_url
from tests import preloaded
from tests.serving import ROOT
from tests.storage.writing import attempt, store

KEY = new_signing_key()
HEAD = "select seq || ':' || lower(hex(hash)) from audit_head"


async def _write(folder: Path, count: int) -> None:
    folder.mkdir(exist_ok=True)
    database = Database(database_url(None, folder))
    await database.migrate()
    signer = Signer(KEY)
    (folder / "audit.pub").write_bytes(signer.public_pem)
    ledger = store(database, signer, checkpoint=folder / "audit.anchor")
    try:
        await ledger.audit.prepare()
        for number in range(count):
            await ledger.executions.open(attempt(f"echo {number}"))
        await ledger.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {"name": "=1+1\nx"})
        await ledger.finish()
    finally:
        await database.close()


@pytest.fixture(autouse=True)
def data(own_folder: None, tmp_path: Path) -> Path:
    """A data folder whose audit has 21 events."""
    asyncio.run(_write(tmp_path / "data", 10))
    return tmp_path / "data"


def sql(data: Path, *statements: str) -> Any:
    """What somebody with the file in hand can do; the first value that the last one gives."""
    connection = sqlite3.connect(data / "gatepost.db")
    with connection:
        rows = [connection.execute(statement).fetchone() for statement in statements]
    connection.close()
    return rows[-1][0] if rows[-1] else None


def exported(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    capsys.readouterr()
    assert main(["audit", "export", *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_whole_audit_is_0_and_says_what_it_found(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    assert main(["audit", "verify"]) == 0
    said = capsys.readouterr().out
    assert "as it was written" in said
    assert "21 events in " in said
    head = sql(data, HEAD)
    assert f"head {head}" in said
    assert main(["audit", "verify", "--json", "--anchor", head]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found.pop("seconds") > 0
    assert found.pop("events_per_second") > 0
    assert found == {
        "verified": True,
        "problem": "",
        "events": 21,
        "first_seq": 1,
        "head": head,
        "unsigned": 0,
        "breaks": [],
        "rotations": [],
        "unseen": [],
        "recordings": None,
    }


def test_a_changed_one_is_1_and_says_where(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    sql(data, "update audit_events set body = replace(body, 'echo 3', 'echo 4') where seq = 7")
    assert main(["audit", "verify"]) == 1
    assert capsys.readouterr().out.startswith("TAMPERED: event 7 was changed")
    assert main(["audit", "verify", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["verified"], found["events"]) == (False, 6)


def test_a_tail_cut_off_with_an_older_head_is_told_by_the_anchor(
    capsys: pytest.CaptureFixture[str], data: Path, tmp_path: Path
) -> None:
    older = tmp_path / "older"
    shutil.copytree(data, older)
    noted = sql(data, HEAD)
    asyncio.run(_write(data, 5))
    newer = sql(data, HEAD)
    shutil.copy(older / "gatepost.db", data / "gatepost.db")
    assert main(["audit", "verify"]) == 1
    assert "but event 32 was anchored: the tail was cut off" in capsys.readouterr().out
    (data / "audit.anchor").unlink()
    assert main(["audit", "verify", "--anchor", noted]) == 0
    assert main(["audit", "verify", "--anchor", noted, "--anchor", newer]) == 1
    assert main(["audit", "verify", "--anchor", f"5:{'0' * 64}"]) == 1
    assert "event 5 is not the one that was anchored" in capsys.readouterr().out


def test_a_start_without_the_noted_end_is_told_from_then_on(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    (data / "gatepost.db").unlink()
    asyncio.run(_write(data, 1))
    assert main(["audit", "verify"]) == 0
    assert "NOTE: event 1 reports that a checkpoint was missing" in capsys.readouterr().out


def test_a_noted_place_that_cannot_be_read_is_not_left_out(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    (data / "audit.anchor").write_text("21:")
    assert main(["audit", "verify"]) == 2
    assert "recorded position of the audit cannot be read from data/audit.anchor" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("audit", "required"),
        ("audit verify --anchor 7", "SEQ:HASH"),
        ("audit verify --data-dir nowhere", "nowhere/audit.pub: No such file"),
        ("audit verify --public-key none.pub", "none.pub: No such file"),
        ("audit verify --public-key data/gatepost.db", "data/gatepost.db"),
        ("audit verify --file data/audit.pub", "--public-key"),
        ("audit verify --file none.jsonl --public-key data/audit.pub", "none.jsonl: No such file"),
        ("audit export --format xml", "xml"),
        ("audit export --since yesterday", "2026-01-31"),
        ("audit export --since 0001-01-01T00:00+10:00", "2026-01-31"),
        ("audit export --after -1", "the number of an event"),
        ("audit export --after 999", "ends at event 21"),
        ("audit export --data-dir nowhere", "no database in nowhere"),
    ],
)
def test_wrong_usage_is_2(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(words.split())
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    assert code == 2
    assert message in capsys.readouterr().err
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    "words", [(), ("--after", "5"), ("--since", "2026-01-02"), ("--after", "21"), ("--since", "2999-01-01")]
)
def test_an_export_is_verified_without_the_database(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], tmp_path: Path, data: Path
) -> None:
    lines = exported(capsys, *words)
    (tmp_path / "elsewhere").mkdir()
    for name, text in {"e.jsonl": "\n".join(lines) + "\n", "audit.pub": (data / "audit.pub").read_text()}.items():
        (tmp_path / "elsewhere" / name).write_text(text)
    head = sql(data, HEAD)
    shutil.rmtree(data)
    call = ["audit", "verify", "--file", "elsewhere/e.jsonl", "--public-key", "elsewhere/audit.pub"]
    assert main([*call, "--anchor", head]) == 0
    assert f"{len(lines) - 2} events in" in capsys.readouterr().out
    assert len(lines) == {(): 23, ("--after", "5"): 18, ("--since", "2026-01-02"): 23}.get(words, 2)
    for number in range(len(lines)):
        rest = lines[:number] + lines[number + 1 :]
        (tmp_path / "elsewhere" / "e.jsonl").write_text("\n".join(rest) + "\n")
        assert main(call) == 1, number
    for number in range(1, len(lines) - 1):
        changed = [*lines[:number], lines[number].replace("user:ann", "user:bob"), *lines[number + 1 :]]
        (tmp_path / "elsewhere" / "e.jsonl").write_text("\n".join(changed) + "\n")
        assert main(call) == 1, number
    (tmp_path / "elsewhere" / "e.jsonl").write_text("")
    assert main(call) == 1


def test_what_was_not_looked_at_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text("\n".join(exported(capsys, "--after", "5")))
    call = ["audit", "verify", "--file", "e.jsonl", "--public-key", "data/audit.pub"]
    noted = f"4:{'0' * 64}"
    assert main([*call, "--anchor", noted]) == 0
    said = capsys.readouterr().out
    assert "NOTE: event 6 is the first one here" in said
    assert "NOTE: event 4, a checkpoint, is no longer here, so it was not compared" in said
    assert main([*call, "--anchor", noted, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["first_seq"], found["events"], found["unseen"]) == (6, 16, [noted])


def test_a_line_without_end_is_told_and_takes_no_memory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = exported(capsys)
    monkeypatch.setattr("backend.core.audit.export.LONGEST_LINE", 2000)
    for place, said in (
        (4, "line 5 is not as it was written: it is too long"),
        (len(lines), "is not as it was written"),
    ):
        (tmp_path / "e.jsonl").write_text("\n".join([*lines[:place], "x" * 100_000, *lines[place:]]))
        assert main(["audit", "verify", "--file", "e.jsonl", "--public-key", "data/audit.pub"]) == 1
        assert said in capsys.readouterr().out


def test_an_export_that_does_not_fit_on_the_disk_is_told() -> None:
    with open("/dev/full", "wb") as full, open("said", "wb") as said, open("/dev/null", "rb") as none:
        done = preloaded.start(["audit", "export"], Path.cwd(), os.environ, (none, full, said)).wait(60)
    assert (done, Path("said").read_text()) == (2, "gatepost: the export is incomplete: No space left on device\n")


async def test_an_export_of_what_is_cut_off_meanwhile_is_not_handed_out(data: Path) -> None:
    database = Database(database_url(None, data))
    chain = Chain(database)
    found = await chain.head()
    assert found
    ledger = store(database, Signer(KEY))
    try:
        assert [link.seq async for _, link in _selected(chain, found.head, 0, "")] == list(range(1, 22))
        await ledger.audit.prune("2027")
        for after in (0, 5):
            with pytest.raises(Refusal, match="pruned meanwhile"):
                [link async for _, link in _selected(chain, found.head, after, "")]
    finally:
        await ledger.finish()
        await database.close()


@pytest.mark.parametrize(
    ("table", "change", "said"),
    [
        ("audit_head", "first_previous = null", "the head of the audit cannot be read"),
        ("audit_head", "hash = null", "the head of the audit cannot be read"),
        ("audit_head", "signature = null", "the head of the audit cannot be read"),
        ("audit_events", "seq = 'a' where seq = 7", "event 7 is missing"),
        ("audit_events", "seq = 6.5 where seq = 7", "found event -1 where event 7 was expected"),
        ("audit_events", "body = null where seq = 7", "event 7 was changed"),
        ("audit_events", "hash = null where seq = 7", "event 7 was changed"),
    ],
)
def test_a_table_that_was_made_anew_is_told_whatever_it_holds(
    table: str, change: str, said: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sql(
        data,
        f"create table other as select * from {table}",
        f"drop table {table}",
        f"alter table other rename to {table}",
        f"update {table} set {change}",
    )
    assert main(["audit", "verify"]) == 1
    assert capsys.readouterr().out.startswith(f"TAMPERED: {said}")
    assert main(["audit", "export"]) in {0, 2}


def test_an_export_with_another_key_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "e.jsonl").write_text("\n".join(exported(capsys)))
    (tmp_path / "other.pub").write_bytes(Signer(new_signing_key()).public_pem)
    assert main(["audit", "verify", "--file", "e.jsonl", "--public-key", "other.pub"]) == 1
    assert "signature of the head is wrong" in capsys.readouterr().out


@pytest.mark.parametrize(("since", "count"), [("2026-01-02T03:04:05.678Z", 21), ("2026-01-02T04:04:05+00:30", 0),
                                              ("2026-01-02T04:04:05+01:00", 21)])  # fmt: skip
def test_since_is_a_time_in_any_zone(since: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(exported(capsys, "--format", "syslog", "--since", since)) == count


def test_the_forms_to_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(exported(capsys, "--format", "syslog", "--after", "20")) == 1
    names, row = exported(capsys, "--format", "csv", "--after", "20")
    assert names.startswith('"seq","time","kind"')
    assert row.startswith('"21","2026-01-02T03:04:05.678Z","login","user:ann","10.0.0.1"')


def test_a_reader_who_has_seen_enough_is_no_failure() -> None:
    words = f"{sys.executable} -m backend audit export | true"
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {words}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 1000).decode()
    except OSError:  # the other side has closed it
        return ""


def test_progress_is_shown_on_a_terminal(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setattr("backend.cli.audit.PATIENCE", -1.0)
    monkeypatch.setattr("backend.storage.audit_chain.PAGE", 5)
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert main(["audit", "verify"]) == 0
    shown = "".join(iter(lambda: _read(ours), ""))  # the kernel hands it over bit by bit
    os.close(ours)
    assert "\r5 events ..." in shown
    assert shown.endswith("\r\033[K")


def test_a_second_server_with_a_key_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    monkeypatch.setattr("tests.cli.test_audit.KEY", new_signing_key())
    with pytest.raises(StorageError, match="not signed with this server's key"):
        asyncio.run(_write(data, 1))


def rotate(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(["audit", "rotate-key", *words]) == 0
    return capsys.readouterr().out


@pytest.fixture
def keyed(data: Path) -> Path:
    """The data folder with the key in it."""
    (data / "audit.key").touch(mode=0o600)
    (data / "audit.key").write_bytes(KEY)
    return data


def test_another_key_follows_the_one_that_was_handed_out(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, keyed: Path
) -> None:
    before, old = exported(capsys), (keyed / "audit.pub").read_bytes()
    assert "Hand out its public key" in rotate(capsys)
    after, new = exported(capsys), (keyed / "audit.pub").read_bytes()
    assert old != new
    (tmp_path / "old.pub").write_bytes(old)
    (tmp_path / "new.pub").write_bytes(new)
    assert (keyed / "audit.anchor").read_text() == f"{sql(keyed, HEAD)}\n"
    assert json.loads(json.loads(after[-2])["body"])["actor"].startswith("cli:")

    def verified(lines: list[str], key: str) -> int:
        (tmp_path / "e.jsonl").write_text("\n".join(lines))
        return main(["audit", "verify", "--file", "e.jsonl", "--public-key", key])

    assert main(["audit", "verify"]) == 0
    assert "NOTE: event 22 replaced the key" in capsys.readouterr().out
    assert main(["audit", "verify", "--public-key", "old.pub"]) == 0
    assert [verified(after, key) for key in ("old.pub", "new.pub")] == [0, 0]
    assert [verified(before, key) for key in ("old.pub", "new.pub")] == [0, 1]
    for field in ("old_key", "new_key", "signature"):
        number = len(after) - 2
        body = json.loads(json.loads(after[number])["body"])
        changed = after[number].replace(body[field], body[field].translate(str.maketrans("01", "10")))
        assert verified([*after[:number], changed, after[-1]], "old.pub") == 1
    part = [after[0], *after[-2:]]
    assert verified(part, "old.pub") == 1


def test_a_key_may_be_made_before_and_is_taken_then(capsys: pytest.CaptureFixture[str], keyed: Path) -> None:
    assert "audit.key.next" in rotate(capsys, "--stage")
    made = (keyed / "audit.key.next").read_bytes()
    assert sql(keyed, "select max(seq) from audit_events") == 21
    rotate(capsys)
    assert (keyed / "audit.key").read_bytes() == made
    assert not (keyed / "audit.key.next").exists()


def test_a_key_that_did_not_sign_the_audit_hands_nothing_over(capsys: pytest.CaptureFixture[str], data: Path) -> None:
    assert main(["audit", "rotate-key"]) == 2
    assert "not signed with this server's key" in capsys.readouterr().err
    assert not (data / "audit.key.next").exists()
    assert main(["audit", "rotate-key", "--data-dir", "nowhere"]) == 2
