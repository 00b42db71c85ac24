"""Commands of hosts as lines."""

import shlex
from typing import Any

import pytest

from backend.core.hosts.commands import MOST_LEVELS, HostCommand
from backend.core.policy.admit import Plan, admit
from backend.policies.loader import load_profile
from tests.core.hosts.lines import Lines


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"a": "b c", "d": "'\"$`\\;|&*?[x]{a,b}~#"},
        {"a": "", "b": "=", "c": ":=x", "d": "-x"},
        {"n": 1, "f": 1.5, "t": True, "none": None, "l": [1, "x"], "o": {"a": {"b": "c\nd\0"}}},
        {"lines": "a\nb\tc", "nul": "a\0b", "wide": "ä\u202e\ud800"},
    ],
)
def test_a_command_survives_as_a_line(params: dict[str, Any]) -> None:
    line = HostCommand("deploy", params).line
    assert HostCommand.of(shlex.split(line)) == HostCommand("deploy", params)
    target = Lines(load_profile("host").with_extra(["deploy"]))
    plan = admit(line, target, ".")
    assert isinstance(plan, Plan)
    assert HostCommand.of(plan.argvs[0]) == HostCommand("deploy", params)


@pytest.mark.parametrize(
    ("line", "params"),
    [
        ("echo", {}),
        ("echo two words", {"message": "two words"}),
        ("echo message=x", {"message": "x"}),
        ("echo a=b message=x", {"a": "b", "message": "x"}),
        ("echo a=b c", {"message": "a=b c"}),
        ("echo a=b", {"message": "a=b"}),
        ("git_pull /srv/app main", {"repository_path": "/srv/app", "branch": "main"}),
        ("git_pull /srv/app branch=main", {"repository_path": "/srv/app", "branch": "main"}),
        ("docker_restart grafana", {"container_name": "grafana"}),
    ],
)
def test_usual_parameters_need_no_names(line: str, params: dict[str, str]) -> None:
    assert HostCommand.of(shlex.split(line)).params == params


@pytest.mark.parametrize(
    "line", ["deploy x", "git_status /a /b", "deploy a=1 a=2", "deploy a:=", "deploy a:={", "deploy -x=1"]
)
def test_what_names_no_parameter_is_refused(line: str) -> None:
    with pytest.raises(ValueError):
        HostCommand.of(shlex.split(line))


@pytest.mark.parametrize("levels", [MOST_LEVELS + 1, 900, 5000])
def test_a_value_has_few_levels(levels: int) -> None:
    text = "[" * levels + "]" * levels
    with pytest.raises(ValueError, match=r"levels|not JSON"):
        HostCommand.of(["deploy", f"x:={text}"])
    value: list[Any] = []
    for _ in range(levels - 1):
        value = [value]
    with pytest.raises(ValueError, match="levels"):
        _ = HostCommand("deploy", {"x": value}).line


@pytest.mark.parametrize("name", ["", "-x", "a b", "a=b", "a:", "ä", "x" * 65])
def test_a_parameter_needs_a_plain_name(name: str) -> None:
    with pytest.raises(ValueError, match="name of a parameter"):
        _ = HostCommand("deploy", {name: "x"}).line
