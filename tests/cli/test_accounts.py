"""`python -m backend user …` and `token …`."""

import asyncio
import io
import json
import os
import pty
import pwd
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from backend.accounts.credentials import secret_hash, verify_password
from backend.cli.main import main
from backend.storage.database import Database, database_url
from backend.storage.identities import SqlIdentities
from tests.ids import numbered_id

ROOT = Path(__file__).parents[2]
PASSWORD = "correct horse"

Ask = Callable[[Callable[[SqlIdentities], Awaitable[Any]]], Any]


pytestmark = pytest.mark.usefixtures("own_folder")


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    """Asks the database that the verbs used: `ask(lambda identities: identities.users())`."""

    async def answer(question: Callable[[SqlIdentities], Awaitable[Any]]) -> Any:
        database = Database(database_url(None, tmp_path / "data"))
        try:
            return await question(SqlIdentities(database, lambda: 0, lambda: numbered_id(0, 0)))
        finally:
            await database.close()

    return lambda question: asyncio.run(answer(question))


def add(name: str = "ann", *options: str) -> None:
    assert main(["user", "add", name, "--no-password", *options]) == 0


def last_object(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_an_account_with_a_password_from_standard_input(
    monkeypatch: pytest.MonkeyPatch, ask: Ask, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{PASSWORD}\nmore\n"))
    assert main(["user", "add", "ann", "--role", "viewer", "--profile", "build", "--password-stdin"]) == 0
    assert capsys.readouterr().out == "Added ann, viewer.\n"
    user, hashed = ask(lambda identities: identities.password_hash_of("ann"))
    assert (user.role, user.profile) == ("viewer", "build")
    assert verify_password(PASSWORD, hashed)


def test_a_name_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    add()
    assert main(["user", "add", "ann", "--no-password"]) == 1
    assert capsys.readouterr().err == "gatepost: the name ann is taken\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("user add Ann --no-password", "a user name must have"),
        ("user add ann --no-password --role king", "'king'"),
        ("user add ann", "--password-stdin"),
        ("user add ann --password-stdin", "10 to 256"),
        ("user add ann --password-stdin --no-password", "not allowed"),
        ("user add ann --password secret-secret", "unrecognized"),
        ("user passwd bob", "--password-stdin"),
        ("user", "required"),
        ("token create --user bob", "--name"),
        ("token create --user bob --name ci --scopes fly", "admin execute read"),
        ("token create --user bob --name ci --days 0", "36500"),
        ("token create --user bob --name ci --days soon", "36500"),
        ("token create --user bob --name ", "expected one argument"),
        ("token create --user bob --name \n", "printable"),
    ],
)
def test_wrong_usage_is_2(
    words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add("bob")
    monkeypatch.setattr(sys, "stdin", io.StringIO("short\n"))
    try:
        code = main([word for word in words.split(" ") if word])
    except SystemExit as end:
        code = end.code  # type: ignore[assignment]
    assert code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "user disable nobody",
        "user enable nobody",
        "user link nobody",
        "token create --user nobody --name ci",
        "token list --user nobody",
        "token revoke nothing",
        "token revoke ../../etc",
    ],
)
def test_what_is_not_there_is_1(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 1
    assert "there is no " in capsys.readouterr().err


def test_accounts_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    add("bob", "--role", "admin")
    add("ann")
    assert main(["user", "disable", "ann"]) == 0
    capsys.readouterr()
    assert main(["user", "list"]) == 0
    lines = [line.split()[:4] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["NAME", "ROLE", "PROFILE", "STATE"],
        ["ann", "operator", "agent", "disabled"],
        ["bob", "admin", "agent", "enabled"],
    ]
    assert main(["user", "list", "--json"]) == 0
    assert last_object(capsys)["name"] == "bob"


def test_an_account_is_closed_and_opened(ask: Ask) -> None:
    add()
    before = ask(lambda identities: identities.user_named("ann"))
    for verb, disabled in (("disable", True), ("disable", True), ("enable", False)):
        assert main(["user", verb, "ann"]) == 0
        user = ask(lambda identities: identities.user_named("ann"))
        assert user.disabled is disabled
        assert user.valid_from_ms > before.valid_from_ms


def test_a_link_is_for_one_login(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    add()
    capsys.readouterr()
    assert main(["user", "link", "ann"]) == 0
    page, _, secret = capsys.readouterr().out.strip().partition("#login=")
    assert page == "http://127.0.0.1:8000/"
    assert secret.startswith("gl_")
    user = ask(lambda identities: identities.take_link(secret_hash(secret)))
    assert user.name == "ann"
    assert ask(lambda identities: identities.take_link(secret_hash(secret))) is None
    assert main(["user", "link", "ann", "--url", "https://gate.test/"]) == 0
    assert capsys.readouterr().out.startswith("https://gate.test/#login=gl_")


def test_a_closed_account_gets_no_link(capsys: pytest.CaptureFixture[str]) -> None:
    add()
    main(["user", "disable", "ann"])
    assert main(["user", "link", "ann"]) == 1
    assert "ann is disabled" in capsys.readouterr().err


def test_a_token_is_shown_once_listed_and_revoked(ask: Ask, capsys: pytest.CaptureFixture[str]) -> None:
    add()
    capsys.readouterr()
    assert main(["token", "create", "--user", "ann", "--name", "ci", "--scopes", "read", "--days", "2"]) == 0
    secret = capsys.readouterr().out.strip()
    token, user = ask(lambda identities: identities.token_by_secret(secret_hash(secret)))
    assert (user.name, token.expires_ms - token.created_ms) == ("ann", pytest.approx(2 * 86400_000, abs=5000))
    assert main(["token", "list", "--user", "ann", "--json"]) == 0
    listed = last_object(capsys)
    assert (listed["id"], listed["user"], listed["scopes"], listed["revoked_ms"]) == (token.id, "ann", "read", None)
    assert secret not in str(listed)
    assert main(["token", "revoke", token.id]) == 0
    assert main(["token", "revoke", token.id]) == 1
    assert ask(lambda identities: identities.token_by_secret(secret_hash(secret))) is None
    capsys.readouterr()
    assert main(["token", "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [token.id, "ann", "ci", "read", "revoked"]


def test_the_data_folder_shows_nothing_to_others_who_pass_through(tmp_path: Path) -> None:
    add("ann", "--data-dir", "other/folder")
    assert (tmp_path / "other/folder/gatepost.db").exists()
    assert (tmp_path / "other/folder").stat().st_mode & 0o777 == 0o711


def test_a_database_that_is_down_is_1_and_its_url_stays_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgres://ann:canary@127.0.0.1:1/none")
    assert main(["user", "list"]) == 1
    error = capsys.readouterr().err
    assert "The database cannot be reached" in error
    assert "canary" not in error


def test_a_data_folder_that_cannot_be_made_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert main(["user", "list", "--data-dir", "file/data"]) == 1
    assert "GATEPOST_DATA_DIR" in capsys.readouterr().err


def on_a_terminal(tmp_path: Path, *typed: str) -> tuple[int, str]:
    """`user passwd ann` with these lines typed at its questions: the exit code and all that the terminal showed."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "backend", "user", "passwd", "ann", "--data-dir", str(tmp_path / "data")],
        cwd=ROOT,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    shown = b""
    for question, line in zip((b"Password: ", b"Once more: "), typed, strict=False):
        while question not in shown:
            shown += os.read(ours, 1000)
        os.write(ours, line.encode())
    code = process.wait(30)
    os.close(theirs)
    while data := _read(ours):
        shown += data
    os.close(ours)
    return code, shown.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 1000)
    except OSError:  # Linux tells the end of a terminal so
        return b""


def test_a_terminal_is_asked_twice_and_shows_nothing(tmp_path: Path, ask: Ask) -> None:
    add()
    code, shown = on_a_terminal(tmp_path, f"{PASSWORD}\n", f"{PASSWORD}\n")
    assert code == 0, shown
    assert PASSWORD not in shown
    assert verify_password(PASSWORD, ask(lambda identities: identities.password_hash_of("ann"))[1])


@pytest.mark.parametrize(
    ("typed", "message"),
    [((f"{PASSWORD}\n", "another horse\n"), "differ"), (("\x04",), "no password")],
)
def test_a_slip_at_the_terminal_changes_nothing(tmp_path: Path, ask: Ask, typed: tuple[str, ...], message: str) -> None:
    add()
    code, shown = on_a_terminal(tmp_path, *typed)
    assert code == 1
    assert message in shown
    assert ask(lambda identities: identities.password_hash_of("ann"))[1] is None


def test_what_the_verbs_change_is_in_the_audit(capsys: pytest.CaptureFixture[str]) -> None:
    add()
    assert main(["user", "disable", "ann"]) == 0
    assert main(["user", "disable", "ann"]) == 0
    assert main(["user", "enable", "ann"]) == 0
    assert main(["user", "link", "ann"]) == 0
    link = capsys.readouterr().out.strip().splitlines()[-1].partition("=")[2]
    assert main(["token", "create", "--user", "ann", "--name", "ci"]) == 0
    said = capsys.readouterr()
    id, secret = said.err.split()[2], said.out.strip()
    assert main(["token", "revoke", id]) == 0
    assert main(["token", "revoke", id]) == 1
    assert main(["audit", "verify"]) == 0
    capsys.readouterr()
    assert main(["audit", "export"]) == 0
    text = capsys.readouterr().out
    events = [json.loads(json.loads(line)["body"]) for line in text.splitlines()[1:-1]]
    assert [event["kind"] for event in events] == [
        "user_created",
        "user_changed",
        "user_changed",
        "link_created",
        "token_created",
        "token_revoked",
    ]
    assert {event["actor"] for event in events} == {f"cli:{pwd.getpwuid(os.getuid()).pw_name}"}
    assert [event.get("change") for event in events[:3]] == [None, "disabled", "enabled"]
    assert (events[4]["token"], events[4]["user"], events[4]["scopes"]) == (id, "ann", "execute read")
    assert secret not in text
    assert link not in text


def test_with_the_key_of_another_server_nothing_is_changed(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    add()
    (tmp_path / "data/audit.key").unlink()
    assert main(["user", "disable", "ann"]) == 1
    assert "not signed with this server's key" in capsys.readouterr().err
    assert main(["user", "list", "--json"]) == 0
    assert not last_object(capsys)["disabled"]


def test_a_key_of_the_audit_that_is_none_is_1_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    (tmp_path / "data/audit.key").touch(mode=0o600)
    (tmp_path / "data/audit.key").write_text("no key")
    assert main(["user", "list"]) == 1
    assert "audit.key cannot be used" in capsys.readouterr().err
