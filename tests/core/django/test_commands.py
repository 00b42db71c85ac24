"""The commands of Django projects: their list, their help as fields, and a line as a command with arguments."""

import argparse
import hashlib
import json
import re
import shlex

from hypothesis import given
from hypothesis import strategies as st

from backend.core.django.commands import ManagementCommand, command_and_arguments, command_list
from backend.core.django.help import HelpField, fields_of, summary_of

HELP = """\
usage: manage.py dumpdata [-h] [--format FORMAT] [--indent INDENT]
                          [--database {default,other}] --out OUT [--flat]
                          [-v {0,1,2,3}] [--settings SETTINGS]
                          app_label [extra ...]

Output the contents of the database: as a fixture.

positional arguments:
  app_label             Restricts dumped data to the specified app_label or
                        app_label.ModelName.
  extra

options:
  -h, --help            show this help message and exit
  --format FORMAT       Specifies the output serialization format.
  --database {default,other}
                        Nominates a database.
  -o OUT, --out OUT     Where to.
  --flat                Without levels.
  -v {0,1,2,3}, --verbosity {0,1,2,3}
                        Verbosity level
  --settings SETTINGS   The Python path to a settings module
"""


def test_the_list_has_the_hash_that_runners_compute() -> None:
    commands = [ManagementCommand(name, "django.core", "usage: ü") for name in ("migrate", "check")]
    plain = [{"name": name, "app_label": "django.core", "help_text": "usage: ü"} for name in ("check", "migrate")]
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    assert command_list(commands).hash == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def test_a_search_finds_names_first() -> None:
    listed = command_list(
        ManagementCommand(name, "app", help)
        for name, help in (("check", "also for migrations"), ("migrate", "Applies"), ("flush", "Empties"))
    )
    assert [each.name for each in listed.matching("MIGRAT")] == ["migrate", "check"]
    assert [each.name for each in listed.matching("app empties")] == ["flush"]
    assert len(listed.matching("")) == 3


def test_help_becomes_fields() -> None:
    assert fields_of(HELP) == (
        HelpField(
            "app_label",
            "",
            True,
            True,
            (),
            "Restricts dumped data to the specified app_label or app_label.ModelName.",
        ),
        HelpField("extra", "", True, False, (), "", many=True),
        HelpField("format", "--format", True, False, (), "Specifies the output serialization format."),
        HelpField("database", "--database", True, False, ("default", "other"), "Nominates a database."),
        HelpField("out", "--out", True, True, (), "Where to."),
        HelpField("flat", "--flat", False, False, (), "Without levels."),
    )


def test_a_field_is_required_if_no_line_is_without_it() -> None:
    parser = argparse.ArgumentParser(prog="manage.py greet")
    parser.add_argument("-n", "--name", required=True)
    parser.add_argument("--wave", action=argparse.BooleanOptionalAction)
    parser.add_argument("--often", nargs="*")
    either = parser.add_mutually_exclusive_group(required=True)
    either.add_argument("--loud", action="store_true")
    either.add_argument("--volume")
    parser.add_argument("guests", nargs="+")
    later = re.sub(r"-n NAME, --name NAME", "-n, --name NAME", parser.format_help())  # as Python 3.13 writes it
    for text in (parser.format_help(), later):
        fields = {each.flag or each.name: (each.required, each.takes_value, each.many) for each in fields_of(text)}
        assert fields == {
            "guests": (True, True, True),
            "--name": (True, True, False),
            "--wave": (False, False, False),
            "--often": (False, True, True),
            "--loud": (False, False, False),
            "--volume": (False, True, False),
        }


def test_the_summary_is_what_the_command_is_for() -> None:
    assert summary_of(HELP) == "Output the contents of the database: as a fixture."
    assert summary_of("Greets\n  a customer.\n") == "Greets a customer."
    for text in ("", "usage: manage.py x [-h]\n\noptions:\n  -h, --help  show this\n"):
        assert summary_of(text) == ""


def test_what_is_no_help_has_no_fields() -> None:
    for text in (
        "",
        "Traceback (most recent call last):\n  File x",
        "options:",
        "x" * 100_000,
        f"usage: {'[' * 30_000}{']' * 30_000}",
    ):
        assert fields_of(text) == ()


@given(st.text())
def test_any_help_is_read_without_an_error(text: str) -> None:
    summary_of(text)
    fields_of(f"usage: x\n\noptions:\n  --{text}\n{text}")


@given(st.lists(st.text()))
def test_runners_take_arguments_apart_to_the_same_words(words: list[str]) -> None:
    name, arguments = command_and_arguments(["migrate", *words])
    assert (name, shlex.split(arguments)) == ("migrate", words)
