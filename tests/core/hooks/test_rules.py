"""Hooks: which lines they may have, which values calls may send, which signatures are valid."""

import json
import re
import shlex
from dataclasses import replace
from typing import Any

import pytest

from backend.core.decisions import Decision
from backend.core.hooks.model import Choice, Hook, HookCall, Integer, Parameter, Text
from backend.core.hooks.patterns import Pattern, PatternError
from backend.core.hooks.rules import LARGEST, is_signed, line_of, line_refusal, sample, time_refusal, values_of

BRANCH = Text("[a-z0-9/_.-]+", 40, "main")
ANY = Text(".*", 256, "x")
NOW = 1_614_265_330


def hook(line: str, **parameters: Parameter) -> Hook:
    return Hook("H", "U", "a name", line, parameters, "local", ".", None, "whsec_", 0)


def rule(answer: object) -> str:
    return answer.rule if isinstance(answer, Decision) else ""


# The example of https://www.standardwebhooks.com
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
EXAMPLE = HookCall("msg_p5jXN8AQM9LWM0D4loKWxJek", str(NOW), SIGNATURE, b'{"test": 2432232314}')


def test_the_example_of_standard_webhooks_is_valid() -> None:
    assert time_refusal(EXAMPLE, NOW) is None
    assert is_signed([SECRET], EXAMPLE)
    assert is_signed([SECRET], replace(EXAMPLE, signatures=f"v1a,other v1,wrong {SIGNATURE}"))


@pytest.mark.parametrize(
    "changed",
    [
        {"body": b'{"test": 2432232315}'},
        {"body": b""},
        {"id": "msg_other"},
        {"timestamp": str(NOW + 1)},
        {"signatures": SIGNATURE.removeprefix("v1,")},
        {"signatures": SIGNATURE.replace("v1,", "v2,")},
        {"signatures": "v1,\u00e9"},
        {"signatures": SIGNATURE[:-1]},
    ],
)
def test_what_was_changed_is_not_signed(changed: dict[str, Any]) -> None:
    assert not is_signed([SECRET], replace(EXAMPLE, **changed))


@pytest.mark.parametrize(
    ("changed", "now", "expected"),
    [
        ({}, NOW + 300, ""),
        ({}, NOW - 300, ""),
        ({}, NOW + 301, "hook.time"),
        ({}, NOW - 301, "hook.time"),
        ({"timestamp": "9" * 12}, NOW, "hook.time"),
        ({"timestamp": "9" * 5000}, NOW, "hook.signature"),
        ({"timestamp": "-1"}, NOW, "hook.signature"),
        ({"timestamp": "\u0663"}, NOW, "hook.signature"),
        ({"id": ""}, NOW, "hook.signature"),
        ({"id": "a b"}, NOW, "hook.signature"),
        ({"id": "x" * 129}, NOW, "hook.signature"),
        ({"signatures": ""}, NOW, "hook.signature"),
        ({"signatures": "v1, " * 1000}, NOW, "hook.signature"),
    ],
)
def test_the_headers(changed: dict[str, Any], now: int, expected: str) -> None:
    assert rule(time_refusal(replace(EXAMPLE, **changed), now)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("echo {a}", ""),
        ("echo {a} {a} && cat 'it is' {a}", ""),
        ("echo '{b}' {a}", ""),
        ("echo", "hook.line"),
        ("echo x{a}", "hook.line"),
        ("echo {a}{a}", "hook.line"),
        ("echo --b={a} {a}", "hook.line"),
        ("echo '{a}'", "hook.line"),
        ('echo " {a} "', "hook.line"),
        ("echo ' {a} '", "hook.line"),
        ("echo ' {a} ' {a}", "hook.line"),
        ("echo '' {a} '", "hook.line"),
        ("echo ' {a}", "hook.line"),
        ("echo {a} \\", "hook.line"),
        ('echo "$(echo " {a} ")"', "hook.line"),
        ("echo ` {a} `", "hook.line"),
        ("echo # {a}", "hook.line"),
        ("cat << x\n{a}\nx", "hook.line"),
        ("{a}", "hook.line"),
        ("ls && {a}", "hook.line"),
        ("ls | {a}", "hook.line"),
        ("ls > {a}", "hook.line"),
        ("( {a} )", "hook.line"),
        ("echo {a} {b}", "hook.line"),
    ],
)
def test_a_placeholder_is_an_argument_of_its_own(line: str, expected: str) -> None:
    assert rule(line_refusal(line, {"a": ANY})) == expected


@pytest.mark.parametrize(
    ("parameter", "usable"),
    [
        (Choice(("a", "-b", "")), True),
        (Choice(()), False),
        (Choice(("a\n",)), False),
        (Choice(("x" * 257,)), False),
        (Choice(("x",) * 101), False),
        (Integer(-5, 5), True),
        (Integer(2, 1), False),
        (Integer(0, LARGEST + 1), False),
        (BRANCH, True),
        (replace(BRANCH, example="Main"), False),
        (replace(BRANCH, example="-m"), False),
        (replace(BRANCH, max_length=0), False),
        (replace(BRANCH, max_length=257), False),
        (replace(BRANCH, pattern="(a+)+"), False),
    ],
)
def test_the_parameters(parameter: Parameter, usable: bool) -> None:
    refusal = line_refusal("echo {a}", {"a": parameter})
    assert rule(refusal) == ("" if usable else "hook.parameter")
    if usable:
        assert values_of(hook("echo {a}", a=parameter), json.dumps({"a": sample(parameter)}).encode())


@pytest.mark.parametrize("name", ["", "A", "1a", "a-b", "a" * 33, "a\n"])
def test_the_names_of_parameters(name: str) -> None:
    assert rule(line_refusal(f"echo {{{name}}}", {name: ANY})) == "hook.parameter"


def test_too_many_parameters() -> None:
    names = [f"a{number}" for number in range(11)]
    line = " ".join(["echo", *(f"{{{name}}}" for name in names)])
    assert rule(line_refusal(line, dict.fromkeys(names, ANY))) == "hook.parameter"


@pytest.mark.parametrize(
    "value",
    [
        "main",
        "",
        "it's",
        "'; ls; '",
        '"',
        "a b",
        "; ls",
        "$(ls)",
        "`ls`",
        "\\",
        "{a}",
        "{b}",
        "*",
        "~",
        "> x",
        "&",
        "#",
    ],
)
def test_a_value_is_one_word_whatever_it_contains(value: str) -> None:
    made = hook("echo 'x {a}' {a} {b} && ls", a=ANY, b=ANY)
    values = values_of(made, json.dumps({"a": value, "b": "!"}).encode())
    assert not isinstance(values, Decision)
    assert shlex.split(line_of(made, values)) == ["echo", "x {a}", value, "!", "&&", "ls"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"branch": "main"}',
        b'{"branch": "main", "count": 1, "stage": "test", "more": 1}',
        b'{"branch": "-f", "count": 1, "stage": "test"}',
        b'{"branch": "a\\nb", "count": 1, "stage": "test"}',
        b'{"branch": "a\\u0000", "count": 1, "stage": "test"}',
        b'{"branch": "a;b", "count": 1, "stage": "test"}',
        b'{"branch": "\\ud800", "count": 1, "stage": "test"}',
        b'{"branch": ["main"], "count": 1, "stage": "test"}',
        b'{"branch": null, "count": 1, "stage": "test"}',
        b'{"branch": "main", "count": 6, "stage": "test"}',
        b'{"branch": "main", "count": true, "stage": "test"}',
        b'{"branch": "main", "count": 1.0, "stage": "test"}',
        b'{"branch": "main", "count": "1", "stage": "test"}',
        b'{"branch": "main", "count": 1, "stage": "prod"}',
        b'{"branch": "main", "count": 1, "stage": {}}',
        b'{"branch": "%s", "count": 1, "stage": "test"}' % (b"x" * 41),
        b'{"count": %s}' % (b"1" * 5000),
        b"",
        b"[]",
        b"{",
        b"\xff",
        b"[" * 60_000,
    ],
)
def test_other_values_are_refused(body: bytes) -> None:
    made = hook("echo {branch} {count} {stage}", branch=BRANCH, count=Integer(1, 5), stage=Choice(("test",)))
    assert rule(values_of(made, body)) == "hook.value"
    assert values_of(made, b'{"branch": "main", "count": 1, "stage": "test"}') == {
        "branch": "main",
        "count": 1,
        "stage": "test",
    }


@pytest.mark.parametrize("body", [b"", b"{}"])
def test_a_line_without_parameters_needs_no_body(body: bytes) -> None:
    assert line_refusal("echo $HOME # why", {}) is None
    assert values_of(hook("ls"), body) == {}


@pytest.mark.parametrize(
    "pattern", ["", "a", "a*", "a+b?", "[a-c]{2}", "[^a]{1,2}b", r"\d+\.\d*", "a{2,}b*", ".b.", r"[\w.-]+", "a?a?a?aa"]
)
def test_a_pattern_means_what_it_means_elsewhere(pattern: str) -> None:
    texts = ["", "a", "aa", "aaaa", "ab", "aab", "abb", "bb", "cab", "1.5", "12.", "x-1", "\u0663"]
    found = [text for text in texts if Pattern.parse(pattern).matches(text)]
    assert found == [text for text in texts if re.fullmatch(pattern, text, re.ASCII)]


@pytest.mark.parametrize("pattern", ["a*" * 50, "[a-z]*" * 16, "a?" * 40 + "a" * 20, ".{0,999}" * 12])
def test_no_pattern_takes_long(pattern: str) -> None:
    assert not Pattern.parse(pattern).matches("a" * 255 + "\n")


@pytest.mark.parametrize(
    "pattern",
    ["(a)", "a|b", "^a", "a$", "a**", "a+?", "*", "[", "[]", "[z-a]", "[a--b]", "[a&&b]", r"\b", "x" * 101, "{2}"],
)
def test_other_patterns_are_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        Pattern.parse(pattern)
