"""The commands that a line of bash names: the same that bash runs, whatever hides their names."""

import subprocess
from pathlib import Path
from time import thread_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.decisions import Decision
from backend.core.language.bash import PARSE_BOUND, parse_bash

UNKNOWN = "?"


def commands(line: str) -> list[list[str]]:
    found = parse_bash(line)
    assert not isinstance(found, Decision), found.reason
    return [[UNKNOWN if word.known is None else word.known for word in command] for command in found.commands]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("ls -la a", [["ls", "-la", "a"]]),
        ("ls \\\n -la", [["ls", "-la"]]),
        ("A=1 ls B=2 >o 2>&1", [["ls", "B=2"]]),
        ("a=$(ls x)", [["ls", "x"]]),
        ("export A=b; unset q", [["export", UNKNOWN], ["unset", "q"]]),
        ("[ -f a ] && [[ -f $(ls z) ]]", [["ls", "z"]]),
        ("cat <<EOF\n$(ls q)\nEOF\nls z", [["cat"], ["ls", "q"], ["ls", "z"]]),
        ("cat <<'EOF'\n$(ls q)\nEOF\nls z", [["cat"], ["ls", "z"]]),
        ("cat <<-\\EOF\n\tls q\n\tEOF\nls z", [["cat"], ["ls", "z"]]),
        ("cat <<<$(ls x)", [["cat"], ["ls", "x"]]),
        ("if ((1)); then ls; else pwd; fi", [["ls"], ["pwd"]]),
        ("for i in $(ls); do rm $i; done", [["ls"], ["rm", UNKNOWN]]),
        ("while read -r l; do ls; done < f", [["read", "-r", "l"], ["ls"]]),
        ("case a in (a) ls;; esac", [["ls"]]),
        ("f() { ls x; }; f", [["ls", "x"], ["f"]]),
        ("arr=( $(ls x) )", [["ls", "x"]]),
        (": ${x:=$(ls y)}", [[":", UNKNOWN], ["ls", "y"]]),
        ("echo $((`ls`))", [["echo", UNKNOWN], ["ls"]]),
        ("diff <(ls a) <(ls b)", [["diff", UNKNOWN, UNKNOWN], ["ls", "a"], ["ls", "b"]]),
        ('echo "$f $(ls x)" "$(ls y)  $(ls z)"', [["echo", UNKNOWN, UNKNOWN], ["ls", "x"], ["ls", "y"], ["ls", "z"]]),
        ('echo "$f `ls x`"', [["echo", UNKNOWN], ["ls", "x"]]),
        ("ls | wc |& cat & pwd", [["ls"], ["wc"], ["cat"], ["pwd"]]),
        ("echo a #rm x", [["echo", "a"]]),
        ("echo 'rm x' \"rm y\"", [["echo", "rm x", "rm y"]]),
        ("cat ~/a *.c {1..3}", [["cat", UNKNOWN, UNKNOWN, UNKNOWN]]),
        ("env >o rm x 2>p y", [["env", "rm", "x", "y"]]),
        ("ls | env 2>&1 rm x", [["ls"], ["env", "rm", "x"]]),
        ("env <<A rm x\nA", [["env", "rm", "x"]]),
        ("env <<A >o rm x\nA", [["env", "rm", "x"]]),
        ("env <<<a rm x", [["env", "rm", "x"]]),
        ("a=b", []),
        ("", []),
    ],
)
def test_every_command_is_found(line: str, found: list[list[str]]) -> None:
    assert commands(line) == found


HIDDEN = [
    r"$'\x72m' x",
    r"$'\162\u006d' x",
    r"r\m x",
    "\"r\"'m' x",
    '""rm x',
    "r''m x",
    '$"rm" x',
    '"r\\\nm" x',
    "$'rm\\0ls' x",
    "\\\nrm x",
    "rm\tx",
    ">o rm x",
    "A=1 rm x",
    "! rm x",
    "cat <<'A B'\nls\nA B\nrm x",
    "cat <<\\A\n$(ls)\nA\nrm x",
    'cat <<"A"\n\\\nA\nrm x',
    'echo "$(rm x)"',
    "echo `rm x`",
    'echo "`rm x`"',
    "echo ${y:-`rm x`}",
    "( ( (rm x)))",
    'echo "${y:-`rm x`}"',
    "y=a; echo ${y#`rm x`}",
    "y=a; echo ${y/a/`rm x`}",
    "[[ a =~ `rm x` ]]",
    "cat <<A\n`rm x`\nA",
    "cat <<A\n${y:-`rm x`}\nA",
    "echo `echo \\`rm x\\``",
    "echo `echo \\$(rm x)`",
    "echo $[`rm x`0]",
    "cat <<A\n$(cat <<B\n`rm x`\nB\n)\nA",
    "function f { rm x; }; f",
    "{ rm x; }",
    "if rm x; then :; fi",
    "until rm x; do :; done",
    "case $(rm x) in *) ;; esac",
    "cat <(rm x)",
    "rm x &\nwait",
    "cat < <(rm x)",
    "declare y=$(rm x); echo $y",
    "echo $(( $(rm x >&2) + 1 ))",
    "[[ -n $(rm x >&2) ]]",
    "cat <<A; rm x\nA",
    "time rm x",
    "cat a >o; cat <b >o rm x; rm x",
    "\ncat\n\\rm x",
    "echo a#[[ a == fi; rm x ]]",
    "echo ${x:-<(rm x)}",
    "echo ${x/a {1..3}; rm x/a}",
    'cat <(echo "${x:-\'"`rm x`"\'}")',
    "echo \"${x:-'$(rm x)'}\"",
    "if :; then cat a; fi >o\nrm x",
]


@pytest.fixture(scope="module")
def only_rm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a harmless program `rm`, and nothing but `cat` of what the machine has."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "rm").write_text("#!/bin/sh\necho removed >&2\n")
    (folder / "rm").chmod(0o755)
    (folder / "cat").symlink_to("/bin/cat")
    return folder


@pytest.mark.parametrize("line", HIDDEN)
def test_what_bash_runs_is_named_or_refused(line: str, only_rm: Path) -> None:
    ran = subprocess.run(
        ["/bin/bash", "--norc", "--noprofile", "-c", line],
        cwd=only_rm,
        env={"PATH": str(only_rm)},
        capture_output=True,
        stdin=subprocess.DEVNULL,
    )
    assert b"removed" in ran.stderr
    found = parse_bash(line)
    assert isinstance(found, Decision) or "rm" in [word.known for command in found.commands for word in command]


@pytest.mark.parametrize(
    "line",
    ["$x a", "${IFS}rm a", "rm$IFS-rf", "/bin/r? a", "~/rm a", "r${y}m a", "$(echo rm) a", "`echo rm` a", "{a,b}c d"],
)
def test_a_name_that_is_made_when_the_line_runs_is_not_known(line: str) -> None:
    found = parse_bash(line)
    assert isinstance(found, Decision) or found.commands[0][0].known is None


@pytest.mark.parametrize(
    "line", ["(((", "if true", "echo 'a", "cat <<EOF\na", "a && ", ")", "for do", "{rm,-rf,x}", "rm#x"]
)
def test_what_does_not_parse_is_refused(line: str) -> None:
    found = parse_bash(line)
    assert isinstance(found, Decision)
    assert (found.rule, found.hint != "") == ("syntax.bash", True)


@pytest.mark.parametrize("character", ["\0", "\x1b", "\r", "\u202e", "\ud800"])
def test_hidden_characters_are_refused(character: str) -> None:
    found = parse_bash(f"ls {character}x")
    assert isinstance(found, Decision)
    assert found.rule == "syntax.character"


@pytest.mark.parametrize(
    "line",
    [
        "f()" * 10_000,
        "a=(" * 10_000,
        "[[ a =~ (" * 3500,
        "<<<" * 10_000,
        "${" * 16_000,
        "<<A " * 8000,
        "$(" * 5000 + "ls" + ")" * 5000,
        '"$(' * 5000,
        "{ " * 8000,
        "a&" * 16_000,
        "ls a b c;" * 3500,
        "((" * 16_000,
        "`" * 32_000,
        "if " * 10_000,
        "a=b " * 8000,
    ],
    ids=lambda line: line[:9],
)
def test_a_bomb_is_refused_in_time(line: str) -> None:
    begun = thread_time()
    found = parse_bash(line)
    assert isinstance(found, Decision)
    assert found.rule in {"syntax.bash", "limits.expansion"}
    assert thread_time() - begun < 3 * PARSE_BOUND


PIECES = st.sampled_from(
    [
        "a",
        "rm",
        "'",
        '"',
        "`",
        "$(",
        "${",
        "$((",
        ")",
        "}",
        "))",
        ";",
        "&",
        "|",
        "&&",
        "||",
        "<",
        ">",
        "<<",
        "<<-",
        "<<<",
        "<(",
        "\n",
        "\\",
        "\\\n",
        "[[",
        "]]",
        "[",
        "]",
        "(",
        "{",
        "!",
        "*",
        "?",
        "~",
        "#",
        "$x",
        "=",
        "a=",
        "+=",
        "$'",
        " ",
        '$"',
        "EOF",
        "if",
        "then",
        "fi",
        "case",
        "in",
        "esac",
        "do",
        "done",
        "for",
        "f()",
        "\\x72",
        "é",
        "@(",
        "{a,b}",
    ]
)


@given(st.lists(PIECES, max_size=40).map("".join))
def test_any_text_gets_an_answer(line: str) -> None:
    found = parse_bash(line)
    assert isinstance(found, Decision) or all(
        command and all(isinstance(w.shown, str) for w in command) for command in found.commands
    )
