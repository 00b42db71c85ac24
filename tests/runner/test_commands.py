"""What a runner lets run in its project."""

import ast
from pathlib import Path

import pytest

from gatepost_django import DEFAULT_ALLOWED_COMMANDS, DEFAULT_DISALLOWED_COMMANDS
from gatepost_django.commands import Commands, Rejected, judged, refused_argument


def test_the_defaults_are_those_of_the_protocol() -> None:
    assert (len(DEFAULT_ALLOWED_COMMANDS), len(DEFAULT_DISALLOWED_COMMANDS)) == (33, 18)
    assert not set(DEFAULT_ALLOWED_COMMANDS) & set(DEFAULT_DISALLOWED_COMMANDS)


def test_an_empty_allowlist_allows_nothing() -> None:
    allowed, why = Commands(allowed=()).is_command_allowed("migrate")
    assert not allowed
    assert "GATEPOST_ALLOWED_COMMANDS" in why


@pytest.mark.parametrize(("name", "allowed"), [("migrate", True), ("own", True), ("flush", False)])
def test_a_blocklist_allows_what_is_not_in_it(name: str, allowed: bool) -> None:
    assert Commands(blocklist=True).is_command_allowed(name)[0] is allowed


@pytest.mark.parametrize(
    "word",
    [
        "--settings",
        "--settings=x",
        "--set",
        "--s",
        "--pythonpath=.",
        "--py",
        "--output=/etc/x",
        "--outp=../x",
        "-o/etc/x",
        "-ao/etc/x",
        "-ao../x",
        "-ao~/x",
        "-aolink/x",
        f"-{'a' * 200}o/etc/x",
        "-0/etc/x",
        "..",
        "~/x",
        "link/x",
    ],
)
def test_arguments_that_import_or_lead_out_are_refused(word: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc")
    assert refused_argument(["--plan", word], tmp_path)


@pytest.mark.parametrize(
    "word", ["--plan", "--skip-checks", "--output=out/x.json", "-oout.json", "app.Model", "--", "-v2"]
)
def test_other_arguments_are_not(word: str, tmp_path: Path) -> None:
    assert refused_argument([word], tmp_path) is None


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("migrate", "--plan 'an app'", ["migrate", "--plan", "an app"]),
        ("migrate", "", ["migrate"]),
        ("migrate", "'", "Close the quotes"),
        ("migrate", "--settings x", "import any module"),
        ("flush", "", "GATEPOST_ALLOWED_COMMANDS"),
        ("check", "", "has no command"),
        ("gatepost", "stop", "the runner itself"),
    ],
)
def test_a_command_is_judged_with_its_arguments(name: str, arguments: str, words: object, tmp_path: Path) -> None:
    found = judged(Commands(allowed=("migrate", "check", "gatepost")), {"migrate", "flush"}, name, arguments, tmp_path)
    if isinstance(found, Rejected):
        assert str(words) in found.reason
    else:
        assert found == words


@pytest.mark.parametrize("name", ["gatepost", "--settings=x", "frobnicate", "flush"])
def test_a_blocklist_lets_nothing_pass_that_is_no_command(name: str, tmp_path: Path) -> None:
    assert isinstance(judged(Commands(blocklist=True), {"migrate", "flush", "gatepost"}, name, "", tmp_path), Rejected)


def test_the_sources_can_be_read_by_python_3_10() -> None:
    for path in (Path(__file__).parents[2] / "runner").rglob("*.py"):
        ast.parse(path.read_text(), feature_version=(3, 10))
