"""The parser: what it takes means what a shell means, what it refuses names its rule."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.core.decisions import Decision
from backend.core.language.parser import Script, parse
from backend.executors.local.workspace import FolderView

FILES = ["a", "b.txt", "ab", "a b", ".hidden", "c]d", "x*y", "sub/one.txt", "sub/two.md", "sub/deep/three", "[z]", "!n"]


@pytest.mark.parametrize(
    ("line", "argv"),
    [
        ("ls -la", ["ls", "-la"]),
        ("  ls\t-la  ", ["ls", "-la"]),
        ('echo "a;b"', ["echo", "a;b"]),
        ("echo farm x", ["echo", "farm", "x"]),
        ("cat 'my-rm notes.txt'", ["cat", "my-rm notes.txt"]),
        ("echo 'a''b'\"c\"d", ["echo", "abcd"]),
        (r"echo a\ b \$HOME \'", ["echo", "a b", "$HOME", "'"]),
        (r'echo "a\"b\\c\d"', ["echo", 'a"b\\c\\d']),
        ('echo ""', ["echo", ""]),
        ("echo '$(id)' '`id`'", ["echo", "$(id)", "`id`"]),
        ('echo "cost $ 5" 5$', ["echo", "cost $ 5", "5$"]),
        ("echo a~b a#b a=b {}", ["echo", "a~b", "a#b", "a=b", "{}"]),
        ("echo A=x~ 1A=~ a-b=~ \"A\"=~ 'A=~' x:~ =~", ["echo", "A=x~", "1A=~", "a-b=~", "A=~", "A=~", "x:~", "=~"]),
        ("echo x{},{} a},b {} , }", ["echo", "x{},{}", "a},b", "{}", ",", "}"]),
        ("echo 'two\nlines'", ["echo", "two\nlines"]),
        ("echo привет 世界 👩‍💻", ["echo", "привет", "世界", "👩‍💻"]),
        ("", []),
        (" \t ", []),
    ],
)
def test_what_is_taken(line: str, argv: list[str]) -> None:
    script = parse(line)
    assert isinstance(script, Script)
    assert list(script.argv) == argv


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        *((f"ls {operator} x", "syntax.operator") for operator in (";", "&", "|", "<", ">", "&&", "||", "(", ")")),
        ("echo $HOME", "syntax.expansion"),
        ('echo "$HOME"', "syntax.expansion"),
        ("echo $(id)", "syntax.expansion"),
        ("echo ${x}", "syntax.expansion"),
        ("echo $'x'", "syntax.expansion"),
        ("echo `id`", "syntax.substitution"),
        ('echo "`id`"', "syntax.substitution"),
        ("ls ~", "syntax.tilde"),
        ("ls ~root", "syntax.tilde"),
        ("ls # x", "syntax.comment"),
        ("echo {a,b}", "syntax.brace"),
        ("echo $[1+1]", "syntax.expansion"),  # bash: 2
        ('echo "$[1+1]"', "syntax.expansion"),
        ("echo A=~", "syntax.tilde"),  # bash: A=/root
        ("echo A+=~/x", "syntax.tilde"),
        ("echo A[0]=~", "syntax.tilde"),
        ("echo A=x:~root", "syntax.tilde"),
        ("A=~", "syntax.tilde"),
        ("echo x{},}", "syntax.brace"),  # bash: x} x
        (r"echo a{},a\{}", "syntax.brace"),
        ("ls [^a]*", "syntax.bracket"),
        ("ls [[:digit:]]*", "syntax.bracket"),
        ("ls [![:digit:]]", "syntax.bracket"),
        ("echo 'a", "syntax.quote"),
        ('echo "a', "syntax.quote"),
        ("echo a\\", "syntax.escape"),
        ("ls\nid", "syntax.newline"),
        ("ls \\\nid", "syntax.newline"),
        ('ls "\\\n"', "syntax.newline"),
        ("ls\0", "syntax.character"),
        ("ls\x1b[2J", "syntax.character"),
        ("ls \u202egnp.exe", "syntax.character"),
        ("l\u200bs", "syntax.character"),
        ("l\u200ds", "syntax.character"),
        ("ls\u00a0\x85", "syntax.character"),
        ("ls \ud800", "syntax.character"),
    ],
)
def test_what_is_refused(line: str, rule: str) -> None:
    refusal = parse(line)
    assert isinstance(refusal, Decision)
    assert (refusal.allowed, refusal.rule) == (False, rule)
    assert refusal.reason
    assert refusal.hint


@given(st.text())
@settings(max_examples=2000)
def test_any_text_is_taken_or_refused(line: str) -> None:
    result = parse(line)
    assert isinstance(result, Script) or (not result.allowed and result.rule.startswith("syntax."))


@given(
    st.lists(
        st.text(
            st.characters(
                codec="utf-8", max_codepoint=0xDFFFF, exclude_categories=["Cc", "Cf", "Cn", "Cs", "Zl", "Zp"]
            ),
            max_size=12,
        )
    )
)
@settings(max_examples=1000)
def test_a_quoted_argv_comes_back(argv: list[str]) -> None:
    script = parse(shlex.join(argv))
    assert isinstance(script, Script)
    assert list(script.argv) == argv
    assert not any(word.is_glob for word in script.words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shell")
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


PIECES = st.sampled_from(
    [
        "a",
        "b",
        "c",
        " ",
        "  ",
        "'",
        '"',
        "\\",
        "*",
        "?",
        "[",
        "]",
        "!",
        "-",
        "/",
        ".",
        "sub",
        "txt",
        "=",
        "%",
        "x",
        "\\*",
        "$ ",
        "$[",
        "~",
        "a=",
        "'a b'",
        '"c d"',
        "[a-c]",
        "[!a]",
        "*.txt",
        "sub/*",
        "{}",
        "é",
        "}",
        ",",
        "@",
        ":",
        "+",
        "\t",
        "d]",
        "^",
    ]
)


@pytest.mark.parametrize("shell", ["sh", "bash"])
@given(lines=st.lists(st.lists(PIECES, max_size=9).map("".join), min_size=60, max_size=60))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_shell_reads_the_same_words(shell: str, folder: Path, lines: list[str]) -> None:
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"{shell} is not here")
    workspace = FolderView(folder)
    taken = [(line, script) for line in lines if isinstance(script := parse(line), Script)]
    # A caret in a bracket means different things in different shells, and outside the workspace nothing is expanded.
    taken = [pair for pair in taken if "^" not in pair[0] and not leads_out(pair[1])]
    text = "".join(f"printf '%s\\0' x {line}\nprintf '\\1'\n" for line, _ in taken)
    done = subprocess.run(
        [program], input=text.encode(), cwd=folder, capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True
    )
    for (line, script), said in zip(taken, done.stdout.decode().split("\1"), strict=False):
        words = workspace.expand(script.words, workspace.root)
        assert not isinstance(words, Decision)
        assert ["x", *words] == said.split("\0")[:-1], line


def leads_out(script: Script) -> bool:
    """Whether a glob reaches outside, or could match `.` and `..`, which ours never does and some shells do."""
    globs = [word.text for word in script.words if word.is_glob]
    return any(text.startswith("/") or any(part.startswith(".") for part in text.split("/")) for text in globs)


def test_positions_are_told() -> None:
    refusal = parse("echo a; ls")
    assert isinstance(refusal, Decision)
    assert "position 7" in refusal.reason
    assert os.linesep not in refusal.reason


EVERYTHING = frozenset({"|", "&&", "||", ";", ">", ">>", "<", "2>&1", "cd"})


def shape(line: str) -> str | list[object]:
    """A script as plain lists: [join, [argv, assignments, redirects] ...] a step, or the rule of a refusal."""
    script = parse(line, EVERYTHING, assignments=True)
    if isinstance(script, Decision):
        return script.rule
    return [
        [
            step.join,
            *(
                [
                    list(command.argv),
                    *([f"{each.name}={each.value}" for each in command.assignments],) * bool(command.assignments),
                    *(f"{each.descriptor}{each.operator}{each.target}" for each in command.redirects),
                ]
                for command in step.commands
            ),
        ]
        for step in script.steps
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ls|wc -l", [["", [["ls"]], [["wc", "-l"]]]]),
        ("a && b || c; d", [["", [["a"]]], ["&&", [["b"]]], ["||", [["c"]]], [";", [["d"]]]]),
        ("a;", [["", [["a"]]]]),
        ("a>x", [["", [["a"], "1>x"]]]),
        ("a 2>x b", [["", [["a", "b"], "2>x"]]]),
        ("a b2>x", [["", [["a", "b2"], "1>x"]]]),
        ("a '2'>x", [["", [["a", "2"], "1>x"]]]),
        ("> x a 1>>y < z 2>&1", [["", [["a"], "1>x", "1>>y", "0<z", "22>&1"]]]),
        ("a 2>&1|b", [["", [["a"], "22>&1"], [["b"]]]]),
        ("CI=1 X='a b' npm t", [["", [["npm", "t"], ["CI=1", "X=a b"]]]]),
        ("npm X=1", [["", [["npm", "X=1"]]]]),
        ("a && X=1 b", [["", [["a"]]], ["&&", [["b"], ["X=1"]]]]),
        ("'X=1' a", [["", [["X=1", "a"]]]]),
        ("> X=1 a", [["", [["a"], "1>X=1"]]]),
        ("cd src && ls", [["", [["cd", "src"]]], ["&&", [["ls"]]]]),
        ("echo 'a && b' \\; \\|", [["", [["echo", "a && b", ";", "|"]]]]),
        ("echo cd", [["", [["echo", "cd"]]]]),
        ("&& a", "syntax.incomplete"),
        ("a &&", "syntax.incomplete"),
        ("a |", "syntax.incomplete"),
        ("a | | b", "syntax.incomplete"),
        ("a ;; b", "syntax.incomplete"),
        ("a & b", "syntax.operator"),
        ("a |& b", "syntax.operator"),
        ("(a)", "syntax.operator"),
        ("a >", "syntax.redirect"),
        ("a > | b", "syntax.redirect"),
        ("a > *", "syntax.redirect"),
        ("a > ''", "syntax.redirect"),
        ("a >& b", "syntax.redirect"),
        ("a &> b", "syntax.operator"),
        ("a 3> b", "syntax.redirect"),
        ("a <<b", "syntax.redirect"),
        ("a <(b)", "syntax.redirect"),
        ("a 2>&1x", "syntax.redirect"),
        ("a >| b", "syntax.redirect"),
        ("X=1", "syntax.assignment"),
        ("X=~/y a", "syntax.tilde"),
        ("X=$Y a", "syntax.expansion"),
        ("cd a", "syntax.cd"),
        ("cd a; ls", "syntax.cd"),
        ("cd a || ls", "syntax.cd"),
        ("cd && ls", "syntax.cd"),
        ("cd - && ls", "syntax.cd"),
        ("cd a | ls && ls", "syntax.cd"),
        ("ls | cd a && ls", "syntax.cd"),
    ],
)
def test_operators(line: str, expected: str | list[object]) -> None:
    assert shape(line) == expected


@given(st.text("ab 12<>&|;='x\"\\\n$", max_size=14))
@settings(max_examples=3000)
def test_any_operators_are_taken_or_refused(line: str) -> None:
    result = parse(line, EVERYTHING, assignments=True)
    assert isinstance(result, Script) or result.rule.startswith("syntax.")


@pytest.mark.parametrize("operator", sorted(EVERYTHING - {"cd"}))
def test_an_operator_that_is_not_permitted_is_refused(operator: str) -> None:
    refusal = parse(f"a {operator} b", EVERYTHING - {operator, operator[0] if operator == "2>&1" else operator})
    assert isinstance(refusal, Decision)
    assert refusal.rule in {"syntax.operator", "syntax.redirect"}
