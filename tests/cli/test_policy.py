"""`python -m backend policy check`, as a program."""

import json
import os
import subprocess
from pathlib import Path

from tests import preloaded

ROOT = Path(__file__).parents[2]


def check(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return preloaded.run(["policy", "check", *arguments], ROOT, {"PATH": os.environ["PATH"]}, stdin)


def test_each_line_gets_an_object() -> None:
    done = check("ls -la", 'echo "a;b"', "rm -rf /", "ls | wc", "x" * 1001)
    verdicts = [json.loads(line) for line in done.stdout.splitlines()]
    assert [verdict["rule"] for verdict in verdicts] == [
        "allow.ls",
        "allow.echo",
        "blocked.rm",
        "syntax.operator",
        "limits.characters",
    ]
    assert all(set(verdict) == {"command", "allowed", "rule", "reason", "risk", "argv"} for verdict in verdicts)
    assert verdicts[1]["argv"] == ["echo", "a;b"]
    assert done.returncode == 126


def test_lines_come_from_standard_input_when_none_are_given() -> None:
    done = check("--json", stdin="ls\npwd\n")
    assert [json.loads(line)["allowed"] for line in done.stdout.splitlines()] == [True, True]
    assert done.returncode == 0


def test_an_empty_line_is_no_command() -> None:
    done = check(stdin="\n")
    assert json.loads(done.stdout)["rule"] == "command.empty"
    assert done.returncode == 126


def test_a_profile_of_ones_own(tmp_path: Path) -> None:
    profile = tmp_path / "mine.toml"
    profile.write_text(
        "name = 'mine'\nsummary = ''\n[limits]\ncharacters = 9\narguments = 2\n[programs.date]\nsummary = 'The time'\n"
    )
    assert check("--profile", str(profile), "date").returncode == 0
    assert check("--profile", str(profile), "ls").returncode == 126


def test_an_unknown_profile_is_a_mistake_of_the_caller() -> None:
    done = check("--profile", "nothing", "ls")
    assert done.returncode == 2
    assert "no profile 'nothing'; choose from agent, django, host, terminal, workbench" in done.stderr
    assert done.stdout == ""
