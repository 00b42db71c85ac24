"""The parser: what it takes means what a shell means, what it refuses names its rule."""

import os
import re
import shlex
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.core.decisions import Decision
from backend.core.language.parser import Group, Script, Step, parse
from backend.core.language.trimming import changed, trimmed
from backend.core.language.words import Unset, expand_words
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
        ("ls # x; $y 'z", ["ls"]),
        ("ls a#b '#c' \\#d", ["ls", "a#b", "#c", "#d"]),
        ("# nothing", []),
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
        ("ls ~/x", "syntax.tilde"),
        ("ls ~root", "syntax.tilde"),
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
@settings(max_examples=600)
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
@settings(max_examples=300)
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
    taken = [pair for pair in taken if not re.search(r"\^|//", pair[0]) and not leads_out(pair[1])]
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
ALL = EVERYTHING | {"&>", "<<", "(", "$", "{,}"}


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
                    *([f"{each.name}={each.value.text}" for each in command.assignments],) * bool(command.assignments),
                    *(f"{each.descriptor}{each.operator}{each.target.text}" for each in command.redirects),
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
        ("a <<b", "syntax.operator"),
        ("a\n\n  b\n", [["", [["a"]]], [";", [["b"]]]]),
        ("a # b\n# c\n d #", [["", [["a"]]], [";", [["d"]]]]),
        ("a &&\n\n b |\n c", [["", [["a"]]], ["&&", [["b"]], [["c"]]]]),
        ("a \\\n  b \\\n| c", [["", [["a", "b"]], [["c"]]]]),
        ('a "x\\\ny"', [["", [["a", "xy"]]]]),
        ("a;\n b;", [["", [["a"]]], [";", [["b"]]]]),
        ("echo x >&2", [["", [["echo", "x"], "1>&2"]]]),
        ("echo x 1>&2", [["", [["echo", "x"], "1>&2"]]]),
        ("a\\\nb", "syntax.newline"),
        ("2\\\n>x a", "syntax.newline"),
        ("a &\\\n& b", "syntax.operator"),
        ("a\n&& b", "syntax.incomplete"),
        ("\n&& b", "syntax.incomplete"),
        ("; a", "syntax.incomplete"),
        ("a >\nb", "syntax.redirect"),
        ("a <(b)", "syntax.redirect"),
        ("a 2>&1x", "syntax.redirect"),
        ("a >| b", "syntax.redirect"),
        ("X=1 Y=2", [["", [[], ["X=1", "Y=2"]]]]),
        ("X=1 > y", "syntax.assignment"),
        ("X=1 | a", "syntax.cd"),
        ("X=~/y a", "syntax.tilde"),
        ("X=$Y a", "syntax.expansion"),
        ("cd a", [["", [["cd", "a"]]]]),
        ("cd a; ls", [["", [["cd", "a"]]], [";", [["ls"]]]]),
        ("cd a | ls && ls", "syntax.cd"),
        ("ls | cd a && ls", "syntax.cd"),
    ],
)
def test_operators(line: str, expected: str | list[object]) -> None:
    assert shape(line) == expected


@given(st.text("ab 12<>&|;='x\"\\\n$", max_size=14))
@settings(max_examples=800)
def test_any_operators_are_taken_or_refused(line: str) -> None:
    result = parse(line, EVERYTHING, assignments=True)
    assert isinstance(result, Script) or result.rule.startswith("syntax.")


@pytest.mark.parametrize("operator", sorted(EVERYTHING - {"cd"}))
def test_an_operator_that_is_not_permitted_is_refused(operator: str) -> None:
    refusal = parse(f"a {operator} b", EVERYTHING - {operator, operator[0] if operator == "2>&1" else operator})
    assert isinstance(refusal, Decision)
    assert refusal.rule in {"syntax.operator", "syntax.redirect"}


def steps(line: str) -> str | list[object]:
    """The steps of a line, groups as lists, or the rule of a refusal."""
    script = parse(line, ALL, assignments=True)
    return script.rule if isinstance(script, Decision) else [*map(nested, script.steps)]


def nested(step: Step) -> object:
    if isinstance(step.compound, Group):
        brackets = "()" if step.compound.subshell else "{}"
        return [step.join + "!" * step.negated + brackets, *map(nested, step.compound.steps)]
    if step.compound:
        return step.join + "|"
    return step.join + "!" * step.negated + " | ".join(" ".join(each.argv) for each in step.commands)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("(a; b)", [["()", "a", ";b"]]),
        ("a && (b || c); d", ["a", ["&&()", "b", "||c"], ";d"]),
        ("{ a; b; } || c", [["{}", "a", ";b"], "||c"]),
        ("{\na\nb\n}", [["{}", "a", ";b"]]),
        ("( (a))", [["()", ["()", "a"]]]),
        ("((a))", "syntax.group"),
        ("! a | b && c", ["!a | b", "&&c"]),
        ("! ! a", "syntax.incomplete"),
        ("!a", ["!a"]),
        ("! (a)", [["!()", "a"]]),
        ("a } ; b", ["a }", ";b"]),
        ("{ a; }", [["{}", "a"]]),
        ("{ a }", "syntax.group"),
        ("{a; }", "syntax.brace"),
        ("( )", "syntax.incomplete"),
        ("(a", "syntax.group"),
        ("{ a;", "syntax.group"),
        ("a)", "syntax.incomplete"),
        ("a; }", "syntax.incomplete"),
        ("a; )", "syntax.incomplete"),
        ("(a; })", "syntax.incomplete"),
        ("(a) b", "syntax.group"),
        ("(a) | b", ["|"]),
        ("(a) > b", [["()", "a"]]),
        ("(a) < b", [["()", "a"]]),
        ("(a) <<E\nE", [["()", "a"]]),
        ("(a) | (b)", ["|"]),
        ("a | (b) | c | d", ["|"]),
        ("a | ! b", "syntax.incomplete"),
        ("(cd b) | cd a", "syntax.cd"),
        ("(a) |", "syntax.incomplete"),
        ("(a) > b c", "syntax.group"),
        ("a | (b)", ["|"]),
        ("a (b)", "syntax.incomplete"),
        ("f() a", "syntax.function"),
        ("f() { a; } | b", "syntax.function"),
        ("a b() { c; }", "syntax.incomplete"),
        ("( " * 21 + "a" + ")" * 21, "syntax.group"),
        ("( " * 20_000 + "a" + ")" * 20_000, "syntax.group"),
        ("! " * 20_000 + "a", "syntax.incomplete"),
    ],
)
def test_groups(line: str, expected: str | list[object]) -> None:
    assert steps(line) == expected


def document(line: str) -> str:
    """The text of the first here-document of a line, or the rule of a refusal."""
    script = parse(line, ALL, assignments=True)
    return script.rule if isinstance(script, Decision) else next(script.commands).redirects[0].target.text


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("cat <<E\na\n b\nE", "a\n b\n"),
        ("cat <<E\nE", ""),
        ("cat <<E\na\nE\nls", "a\n"),
        ("cat << E && ls\na\nE\n", "a\n"),
        ("cat <<-E\n\ta\n\t\tE", "a\n"),
        ('cat <<E\n\\$a \\` \\\\ \\" "\'\nE', '$a ` \\ \\" "\'\n'),
        ("cat <<'E'\n$(id) `id` \\\nE", "$(id) `id` \\\n"),
        ('cat <<"E"\n$x\nE', "$x\n"),
        ("cat <<\\E\n$x\nE", "$x\n"),
        ("cat <<E <<F\na\nE\nb\nF", "a\n"),
        ("cat <<E\n E\nE ", "syntax.document"),
        ("cat <<E", "syntax.document"),
        ("cat <<E\na", "syntax.document"),
        ("cat <<", "syntax.document"),
        ("cat <<\nE", "syntax.document"),
        ("cat <<''\n\n", "syntax.document"),
        ("cat <<'a b'\na b\n", "syntax.document"),
        ("cat <<$x\n$x\n", "syntax.document"),
        ("cat <<E\\\n\na\nE", "syntax.document"),
        ("cat <<E\na\\\nE\nE", "syntax.document"),  # a shell joins these lines before it looks for the end
        ("cat <<E\n$(id)\nE", "syntax.expansion"),
        ("cat <<E\n`id`\nE", "syntax.substitution"),
        ("cat <<E\n${x:?y}\nE", "syntax.expansion"),
        ("cat 2<<E\na\nE", "syntax.redirect"),
        ("cat <<E " * 2000 + "\n" + "E\n" * 2000, ""),
    ],
)
def test_here_documents(line: str, expected: str) -> None:
    assert document(line) == expected


def words_of(line: str) -> str | list[str]:
    """The words of a line with its braces expanded, or the rule of a refusal."""
    script = parse(line, ALL)
    return script.rule if isinstance(script, Decision) else list(script.argv)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x {a,b}", ["x", "a", "b"]),
        ("x a{b,c}d{e,f}", ["x", "abde", "abdf", "acde", "acdf"]),
        ("x {a,{b,c}d}", ["x", "a", "bd", "cd"]),
        ("x f{,.bak} {,}", ["x", "f", "f.bak"]),
        ("x {1..3} {3..1} {-1..1} {a..c}", ["x", *"123", *"321", "-1", "0", "1", *"abc"]),
        ("x {'a,b',c}", ["x", "a,b", "c"]),
        ("x '{a,b}' \\{a,b} \"{a,b}\"", ["x", "{a,b}", "{a,b}", "{a,b}"]),
        ("x {a,b}} a},b", ["x", "a}", "b}", "a},b"]),
        ("x {${A},b}${B}", ["x", "${A}${B}", "b${B}"]),
        ("x {$A,b}", "syntax.brace"),  # bash: with c after it, $Ac
        ("x $A{b,c}", "syntax.brace"),  # bash: $Ab $Ac
        ("x $A$", "syntax.expansion"),
        ("x {a}", "syntax.brace"),
        ("x {a,b", "syntax.brace"),
        ("x {{a,b}", "syntax.brace"),
        ("x {a, b}", "syntax.brace"),
        ("x { a", "syntax.brace"),
        ("x {1..3..2}", "syntax.brace"),
        ("x {01..03}", "syntax.brace"),
        ("x {a,b}{}", "syntax.brace"),
        ("x {'',a}", "syntax.brace"),
        ("x > {a,b}", "syntax.brace"),
        ("x {1..1001}", "limits.expansion"),
        ("x {1..999999}", "limits.expansion"),
        ("x " + "{a,b}" * 10, "limits.expansion"),
        ("x " + "{a,b}" * 5000, "limits.expansion"),
        ("x " + "{a," * 5000 + "b" + "}" * 5000, "limits.expansion"),
        ("x {" + "," * 20000 + "}", "limits.expansion"),
        ("x {a,b}" + "y" * 60000, "limits.expansion"),
        ("x " + "{" * 20000, "limits.expansion"),
    ],
)
def test_braces(line: str, expected: str | list[str]) -> None:
    assert words_of(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "x $(id)",
        "x ${x",
        "x ${x#[a]}",
        "x ${x#*a*}",
        "x ${x#'a'}",
        "x ${x%$y}",
        "x ${#}",
        "x ${#x%y}",
        "x ${#?}",
        "x ${x/a*/b}",
        "x ${x/#a/b}",
        "x ${x/$y/b}",
        "x ${x/a/&}",
        "x ${x//}",
        "x ${x^^a}",
        "x ${x@U}",
        "x ${x:y}",
        "x ${x:1:2:3}",
        "x ${x:12345678}",
        "x ${}",
        "x $*",
        "x $0",
        "x $$",
        "x $!",
        "x ${!x}",
        "x $[1]",
        "x ${x:-$y}",
        "x $\\\nA",
        "x $A\\\nB",
        'x "$\\\nA"',
        'x "$A\\\nB"',
        "x ${x:-a b}",
        "x ${x:=y}",
    ],
)
def test_other_expansions_are_refused(line: str) -> None:
    assert words_of(line) == "syntax.expansion"


@given(st.text("ab 12<>&|;='x\"\\\n$(){},!#-E", max_size=20))
@settings(max_examples=800)
def test_any_line_is_taken_or_refused(line: str) -> None:
    result = parse(line, ALL, assignments=True)
    assert isinstance(result, Script) or result.rule.startswith(("syntax.", "limits."))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("x ~ ~/a/b", ["x", "/home/a b", "/home/a b/a/b"]),
        ("x '~' \\~ a~ \"~\" /~ x/~", ["x", "~", "~", "a~", "~", "/~", "x/~"]),
        ("x ~root", "syntax.tilde"),
        ("x ~'/a'", "syntax.tilde"),
        ("x ~$X", "syntax.tilde"),
        ("x ~+ ", "syntax.tilde"),
        ("x ~:", "syntax.tilde"),
        ("x {~,a}", "syntax.tilde"),
        ("x A=~", "syntax.tilde"),  # only some shells expand it there
        ("x $((1", "syntax.arithmetic"),
        ("x $((1)", "syntax.arithmetic"),
        ("x $(())", "syntax.arithmetic"),
        ("x $((i++))", "syntax.arithmetic"),
        ("x $((++i))", "syntax.arithmetic"),
        ("x $((i=1))", "syntax.arithmetic"),
        ("x $((i+=1))", "syntax.arithmetic"),
        ("x $((2**3)) $((2 ** 3 ** 2)) $((-2 ** 2)) $((2 * 3 ** 2))", ["x", "8", "512", "4", "18"]),
        ("x $((2 ** -1))", "syntax.arithmetic"),
        ("x $((0 ** -1))", "syntax.arithmetic"),
        ("x $((3 ** 999999999999))", "syntax.arithmetic"),
        ("x $((-1 ** 999999999999))", ["x", "-1"]),
        ("x $((2 *** 3))", "syntax.arithmetic"),
        ("x ${X:1} ${X:0:2} ${X/x/zz} ${X^^}", ["x", "x", "y", "/x", "/zz", "y", "/X", "Y"]),
        ("x ${X:3:-3}", "syntax.expansion"),
        ("x ${nope:1}", "syntax.variable"),
        ("x ${1:-a} ${2:+b}", ["x", "a"]),
        ("x ${nope^^}", "syntax.variable"),
        ("x $((2#1))", "syntax.arithmetic"),
        ("x $((a[0]))", "syntax.arithmetic"),
        ("x $((1,2))", "syntax.arithmetic"),
        ("x $(('1'))", "syntax.arithmetic"),
        ("x $(($(id)))", "syntax.arithmetic"),
        ("x $((`id`))", "syntax.arithmetic"),
        ("x $((1 2))", "syntax.arithmetic"),
        ("x $((1?2))", "syntax.arithmetic"),
        ("x $((a); b)", "syntax.arithmetic"),
        ("x $((" + "(" * 50 + "1" + ")" * 50 + "))", "syntax.arithmetic"),
        ("x $((" + "- " * 50 + "1))", "syntax.arithmetic"),
        ("x $((" + "1+" * 300 + "1))", "syntax.arithmetic"),
        ("x $((1/0))", "syntax.arithmetic"),
        ("x $((1%0))", "syntax.arithmetic"),
        ("x $((X))", "syntax.arithmetic"),
        ("x $((08))", "syntax.arithmetic"),
        ("x $((9223372036854775808))", "syntax.arithmetic"),
        ("x $((9223372036854775807 + 1))", "syntax.arithmetic"),
        ("x $((1 << 64)) ", "syntax.arithmetic"),
        ("x $((1 << -1)) ", "syntax.arithmetic"),
        ("x $((nope))", "syntax.variable"),
        ("x ${#nope}", "syntax.variable"),
        ("x ${nope%a}", "syntax.variable"),
        ("[[ -f a ]]", ["[", "-f", "a", "]"]),
        ("[[ ! -f $X ]]", ["[", "!", "-f", "/x y", "]"]),
        ("[[ $X == 'a b' ]]", ["[", "/x y", "=", "a b", "]"]),
        ("[[ $X ]]", ["[", "/x y", "]"]),
        ("[[ * = '*' ]]", ["[", "*", "=", "*", "]"]),
        ("[[ a == [[:alpha:]] ]]", "syntax.bracket"),
        ("[[ a == +(b) ]]", "syntax.test"),
        ("[[ a == $X ]]", "syntax.test"),
        ("[[ a =~ b+ ]]", "syntax.test"),
        ("[[ a =~ (b) ]]", "syntax.test"),
        ("[[ a =~ $X ]]", "syntax.test"),
        ("[[ a < b ]]", "syntax.test"),
        ("[[ a > b ]]", "syntax.test"),
        ("[[ ( a ) ]]", "syntax.test"),
        ("[[ a; b ]]", "syntax.test"),
        ("[[ a ]] && [[ x", "syntax.test"),
        ("[[ 1 -lt 2 ]]", ["[", "1", "-lt", "2", "]"]),
        ("[[ a -eq b ]]", "syntax.test"),
        ("[[ -v a ]]", "syntax.test"),
        ("[[ a && ]]", "syntax.test"),
        ("[[ || a ]]", "syntax.test"),
        ("[[ a && b ] ]", "syntax.test"),
        ("[[ -f a", "syntax.test"),
        ("[[ ]]", "syntax.test"),
        ("[[ -o a ]]", "syntax.test"),
        ("X=1 [[ a ]]", "syntax.test"),
    ],
)
def test_what_words_become(line: str, expected: str | list[str]) -> None:
    script = parse(line, ALL, assignments=True)
    if isinstance(script, Decision):
        assert script.rule == expected
        return
    values = {"HOME": "/home/a b", "X": "/x y"}
    if isinstance(expected, list):
        assert [each.text for each in expand_words(script.words, values)] == expected
        return
    with pytest.raises(Unset) as unset:
        expand_words(script.words, values)
    assert unset.value.decision.rule == expected


BINARY = [*"+-*/%<>&|^", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||"]


def some_expression(random: Random, depth: int = 0) -> str:
    if depth > 3 or random.random() < 0.3:
        return random.choice(["0", "1", "2", "3", "10", "010", "0x1F", "A", "B", "$A", "$B", "${C}", "C"])
    first, second = some_expression(random, depth + 1), some_expression(random, depth + 1)
    match random.randrange(8):
        case 0:
            return f"({first})"
        case 1:
            return random.choice("-+!~") + " " + first
        case 2:
            return f"{first} ? {second} : {some_expression(random, depth + 1)}"
        case _:
            space = random.choice(["", " "])
            return f"{first}{space}{random.choice(BINARY)}{space}{second}"


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_shell_computes_the_same(shell: str, folder: Path) -> None:
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"{shell} is not here")
    random, values = Random(shell), {"A": "7", "B": "-3", "C": "0"}
    lines = {some_expression(random) for _ in range(1500)}
    expected = {}
    for line in sorted(lines):
        script = parse(f"x $(({line}))", ALL)
        if isinstance(script, Script):
            with suppress(Unset):
                expected[line] = expand_words(script.words, values)[1].text
    assert len(expected) > 500
    known = "".join(f"{name}={value}\n" for name, value in values.items())
    text = known + "".join(f"echo $(({line}))\n" for line in expected)
    done = subprocess.run([program], input=text, cwd=folder, capture_output=True, text=True, check=True)
    assert dict(zip(expected, done.stdout.split("\n"), strict=False)) == expected


@pytest.mark.parametrize("shell", ["dash", "bash"])
def test_a_shell_trims_to_the_same(shell: str, folder: Path) -> None:
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"{shell} is not here")
    random, pieces = Random(shell), []
    for _ in range(1500):
        value = "".join(random.choices("ab./", k=random.randrange(7)))
        pattern = "".join(random.choices("ab./?", k=random.randrange(4)))
        pattern += random.choice(["", "*", "*a", "*.", "*b?"])
        pieces.append((value, random.choice(["%", "%%", "#", "##"]), pattern))
    text = "".join(f"x='{value}'; echo \"<${{x{sign}{pattern}}}>\"\n" for value, sign, pattern in pieces)
    done = subprocess.run([program], input=text, cwd=folder, capture_output=True, text=True, check=True)
    for piece, said in zip(pieces, done.stdout.splitlines(), strict=True):
        assert f"<{trimmed(*piece)}>" == said, piece


def test_bash_changes_to_the_same(folder: Path) -> None:
    program = shutil.which("bash")
    if not program:
        pytest.skip("bash is not here")
    random, pieces = Random(3), []
    for _ in range(1500):
        value = "".join(random.choices("abAB./é", k=random.randrange(7)))
        start, length = random.choice(["0", "1", "3", "9", " -1", " -4"]), random.choice(["", ":0", ":2", ":9", ":-1"])
        old, new = random.choice(["a", "b", "ab", "A.", "."]), random.choice(["", "x", "a", "a/b"])
        change = random.choice([(":", start + length), ("/", f"{old}/{new}"), ("//", f"{old}/{new}")])
        pieces.append((value, *random.choice([change, change, (random.choice(["^", "^^", ",", ",,"]), "")])))
    text = "".join(f"x='{value}'; (echo \"<${{x{sign}{operand}}}>\") || echo none\n" for value, sign, operand in pieces)
    done = subprocess.run(
        [program], input=text, cwd=folder, capture_output=True, text=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    for piece, said in zip(pieces, done.stdout.splitlines(), strict=True):
        try:
            assert f"<{changed(*piece)}>" == said, piece
        except ValueError:
            assert said == "none", piece


VALUES = {"X": "a b", "Y": "*.txt", "Z": "", "W": "  s\tt ", "V": "-[a-c]"}
EXPANDED = [
    "${X#a}",
    '"${Y%.*}"',
    "${Y##*.}",
    "${X%%*b}",
    "${#X}",
    '"${#Z}"',
    "${Z:+c}",
    '"${X:+c/d}"',
    "$((1+2))",
    '"$(( 7 % 4 ))"',
    "$X",
    '"$X"',
    "${X}",
    "$Y",
    '"$Y"',
    "$Z",
    '"$Z"',
    "${Z:-d/e}",
    "$W",
    '"$W"',
    "$V",
    "''",
    '""',
    " \\\n ",
    '"\\\n"',
]
BRACED = ["{a,b}", "{1..3}", "{", "}", ",", "{,", "{c,${X}}", "{'d e',f}"]
PLAIN = [
    *"abc'\"\\*?[]!-/.=%x~,@:+\t",
    " ",
    "  ",
    "\\*",
    "$ ",
    "a=",
    "'a b'",
    '"c d"',
    "[a-c]",
    "[!a]",
    "*.txt",
    "sub/*",
    "{}",
    "d]",
]


@pytest.mark.parametrize(("shell", "pieces"), [("dash", EXPANDED), ("bash", EXPANDED), ("bash", EXPANDED + BRACED)])
def test_a_shell_expands_to_the_same_words(shell: str, pieces: list[str], folder: Path) -> None:
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"{shell} is not here")
    workspace, random = FolderView(folder), Random(shell)
    permitted = ALL if pieces != EXPANDED else ALL - {"{,}"}
    lines = ["".join(random.choices(pieces * 2 + PLAIN, k=random.randrange(1, 7))) for _ in range(4000)]
    read = [(line, parse(f"x {line}", permitted)) for line in lines]
    taken = [(line, script) for line, script in read if isinstance(script, Script) and len(script.steps) == 1]
    assert len(taken) > 1000
    known = "".join(f"{name}='{value}'\n" for name, value in VALUES.items())
    text = known + "".join(f"printf '%s\\0' x {line}\nprintf '\\1'\n" for line, _ in taken)
    done = subprocess.run(
        [program], input=text.encode(), cwd=folder, capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True
    )
    for (line, script), said in zip(taken, done.stdout.decode().split("\1"), strict=False):
        try:
            expanded = expand_words(script.words, VALUES)
        except Unset:
            continue
        if any(word.is_glob and is_elsewhere(word.text) for word in expanded):
            continue
        found = workspace.expand(expanded, workspace.root)
        assert not isinstance(found, Decision)
        assert [*found] == said.split("\0")[:-1], line


def is_elsewhere(text: str) -> bool:
    """Whether a glob reaches outside, or could match names that are different in shells, as `.` and `-x`."""
    return text.startswith("/") or any(part.startswith((".", "-")) for part in text.split("/"))
