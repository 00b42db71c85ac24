"""sed and awk scripts: what only edits text passes, and nothing else does."""

import shutil
import subprocess
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.policy.sed_awk import ScriptError, check_awk, check_sed

SED_HARMLESS = [
    "p", "$p", "1,5d", "/a/d", "/a/,/b/p", "/a/!d", "1~2d", "0,/x/d", "/x/,+3p", "/x/,~4p", r"\,x,d", "/a/I p", "/a/,$d",
    "s/a/b/", "s/a/b/gpI", "s/a/b/3", "s#a#b#", "s,a,b,", r"s/\//x/", "s/a/b\\\nc/", r"s/[^\/]*$//", "s/[[:alpha:]]/x/", "s/a/e/", "s/w/r/;s/e/w/", "y/abc/xyz/", "{p;d}", "/x/{s/a/b/;p}", "p;p;", "p\np",
    "# e id\np", "p # w x", ":a;s/x/y/;ta", "b", "b end;:end", "q", "q3", "Q 1", "l 20", "=", "n;N;g;G;h;H;x;D;P;z;F",
    "a text", "a\\\ntext", "i\\  text", "c text; e id", "$a end", "1i w file", "/x/{a y\n}", "", ";;", " 1 , 2 p ",
]  # fmt: skip
SED_HARMFUL = [
    "e", "1e", "e id", "1!e", "$e id", "/x/e id", "{e}", "p;e", "p\ne", "s/a/b/e", "s/a/b/pe", "s/a/b/w f", "s/a/b/gw f",
    "w f", "1w f", "W f", "r f", "R f", "v", "s/a/b", "s/a", "s", "y/a/b", "y/a/b/g", "}", "{", "{p", "p}p}", "pp", "p d",
    "1,e", "1,", "/a", r"\xax e", "s/[/]/x/", "s/[/x/;e;s/]/y/", "s/[]/]/x/", "sxaxbx", "s a b e", "sébéae", "a", "a\\",
    "a\\\\\ne id", "a x\\\ne id", "b\\", "q e", "l e", "k", "1 2 p", "é", "!p;e", "\x00", "M", "f", "u", "s/\n/x/", "p;;e",
    "s/a/b/;;w f", "#n\ne", "\\\nx\ne", "/a/Me", "/a/,/b/e", "+1e", "~1e", "\\",
]  # fmt: skip
AWK_HARMLESS = [
    "{print}", "1", "NR>1", "$1>5{print $2}", "{print ($1>5)}", "{x=$1>5; print x}", "/a|b/", "/a>b/{print}", '{print "a>b|c"}',
    '{print "\\"; system("}', "$1/2>3", "{print $1/2}", "{print $1 / $2 / 3}", "($1)/2 > 3", "a[1]/2", '{print "x" # > "f"\n}',
    "BEGIN{FS=\",\"} {print $2} END{print NR}", "{for(i=1;i<=NF;i++) print $i}", "{if ($1 ~ /x\\/y/) print; else next}",
    "{a[$1]=a[$1] $2} END{for(k in a) print k,a[k]}", "!/x/&&/y/||/z/", "{print length($0)}", "{printf \"%d\\n\",$1}",
    "function f(a,b){return a+b} {print f(1,2)}", "{print f(1)} function f(x) {return x}", "/[^\\/]/", "/[[:digit:]]+/", "$0~/[0-9]/",
    "{sub(/a/,\"b\");print}", "{x=1e3;y=.5;z=2.}", "{$1=$1}1", "{print $NF, $(NF-1)}", "{print -1 % 2 ^ 2}", "/=/", "{x/=2}",
    "{print; x = $1 > 2}", "{exit 1}", "{delete a[1]}", "{print a ? b : c}", "",
]  # fmt: skip
AWK_HARMFUL = [
    "{system(\"id\")}", "{system (\"id\")}", "{x=system(y)}", "{\"id\"|getline}", "{print|\"sh\"}", "{print $1|\"sh\"}", "{print>\"f\"}",
    "{print>>\"f\"}", "{print $1>\"f\"}", "{print($1)>\"f\"}", "{printf(\"x\")>\"f\"}", "{printf \"x\">\"f\"}", "{print\n>\"f\"}",
    "{print a,\nb>\"f\"}", "{if(1)print>\"f\"}", "{print a[1]>\"f\"}", "{print (a) (b) > \"f\"}", "{x>>1}", "{getline}", "{getline<\"f\"}",
    "{getline x<\"f\"}", "{print ENVIRON[1]}", "{ARGV[1]=1}", "{ARGC=2}", "{PROCINFO[1]}", "{SYMTAB[1]}", "{FUNCTAB[1]}", "{@f()}",
    "@load \"x\"", "@include \"x\"", "{close(x)}", "{fflush()}", "{chdir(\"/\")}", "{chdir (\"/\")}", "{print|&\"x\"}", "{a&b}", "{`id`}",
    "{x++/1;system(1)/2}", "{x--/1/1}", "{length/2}", "{if(x)/y/{print}}", "/[/]/", "/[]/]/", "/[\\]/]/", "/a", "\"a", "\"a\nb\"", "/a\nb/",
    "{", "}", "(", ")", "{(})", "{[}", "a\\\nb", "'", "\\", "{$/x/}", "/a/ /b/", "{print \"a\" > $1}", "{x = \"a\" | \"b\"}", "é", "{}}",
]  # fmt: skip


@pytest.mark.parametrize(
    ("check", "script"), [*((check_sed, x) for x in SED_HARMLESS), *((check_awk, x) for x in AWK_HARMLESS)]
)
def test_what_edits_text_passes(check: Callable[[str], None], script: str) -> None:
    check(script)


@pytest.mark.parametrize(
    ("check", "script"), [*((check_sed, x) for x in SED_HARMFUL), *((check_awk, x) for x in AWK_HARMFUL)]
)
def test_what_does_more_is_refused(check: Callable[[str], None], script: str) -> None:
    with pytest.raises(ScriptError, match=r"\(position \d+\)"):
        check(script)


@given(st.text(max_size=40))
def test_any_script_gets_an_answer(script: str) -> None:
    for check in (check_sed, check_awk):
        try:
            check(script)
        except ScriptError:
            continue


def accepts(check: Callable[[str], None], script: str) -> bool:
    try:
        check(script)
    except ScriptError:
        return False
    return True


HAS_GNU_SED = (
    bool(shutil.which("sed"))
    and b"GNU" in subprocess.run(["sed", "--version"], capture_output=True, check=False).stdout
)
PIECES = st.sampled_from([
    "s", "y", "/", ",", "|", "a", "b", "x", "e", "w", "r", "R", "W", "p", "d", "q", "i", "c", "{", "}", ";", "\n", "\\", "[", "]", "^", "$",
    "1", "2", "~", "+", "!", "#", " ", ":", "t", "T", "&", "g", "I", "M", "f", "n", "N", "=", "\\\n", "s/a/b/", "s/[", "a\\\n", "e id", "w f",
])  # fmt: skip


@pytest.mark.skipif(not HAS_GNU_SED, reason="GNU sed judges scripts by --sandbox")
@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=14).map("".join))
def test_sed_in_its_sandbox_agrees(script: str) -> None:
    if accepts(check_sed, script):
        done = subprocess.run(
            ["sed", "--sandbox", "-n", "--", script], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        assert b"sandbox" not in done.stderr
