"""Lines run to their end: the same output and exit code as in a shell, and nothing for those that harm."""

import asyncio
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from backend.core.decisions import Decision
from backend.core.execution.instructions import Instructions
from backend.core.execution.model import Actor, Job, Outcome
from backend.core.execution.sequence import Sequence
from backend.core.policy.admit import Plan, Scope, admit
from backend.core.policy.profile import Profile
from backend.core.recording.writer import Recorder
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.pipelines import LocalPipelines
from backend.executors.local.rooms import Rooms
from backend.executors.local.run_as import find_owner, give_folder
from backend.executors.local.workspace import FolderView
from backend.policies.loader import load_profile
from tests.core.execution.test_model import ID, NoSteps
from tests.executors.local.test_pipelines import Log

AGENT = load_profile("agent")
OWNER = find_owner("nobody")
ACTOR = Actor("user:ann", "10.0.0.1")


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a line."""

    outcome: Outcome
    log: Log

    @property
    def said(self) -> tuple[str, int | None]:
        return self.log.text("stdout"), self.outcome.exit_code


@dataclass(frozen=True, slots=True)
class Bench:
    """A workspace in which lines are judged and run."""

    folder: Path
    profile: Profile = AGENT
    rooms: Rooms = field(default_factory=Rooms)

    @property
    def scope(self) -> Scope:
        return Scope(self.profile, FolderView(self.folder), network=False)

    def judge(self, line: str) -> Plan | Decision:
        return admit(line, self.scope, ".")

    def clean(self) -> None:
        """Remove what random lines leave behind."""
        for each in [*self.folder.rglob("[fgh]")]:
            each.unlink()

    async def run(self, line: str, given: bytes = b"") -> Ran:
        plan = self.judge(line)
        assert isinstance(plan, Plan), (line, plan)
        log = Log()
        pipelines = LocalPipelines(CageLauncher(self.folder.parent / "cage", OWNER), owner=OWNER, rooms=self.rooms)
        sequence = Sequence(self.scope, pipelines, NoSteps(), str, time.monotonic)
        job = Job(ID, "local", ACTOR, line, plan, 120.0, 1 << 22, stdin=bool(given))
        recorder = Recorder(ID, log, asyncio.get_running_loop().time)
        instructions = Instructions(stdin=bool(given))
        instructions.stdin.write(given, last=True)
        return Ran(await sequence.run(job, recorder, instructions), log)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    folder = tmp_path / "ws"
    (folder / "src" / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("one\ntwo\n")
    (folder / "src" / "b.txt").write_text("three\n")
    (folder / "here").symlink_to("src/deep")
    for each in (folder, *folder.rglob("*")):
        if not each.is_symlink():
            give_folder(each, OWNER)
    return Bench(folder)


@pytest.mark.parametrize(
    ("line", "stdout", "code"),
    [
        ("echo a # b\n# c\necho d", "a\nd\n", 0),
        ("echo a \\\n  b", "a b\n", 0),
        ("cat nope &> out; wc -l < out", "1\n", 0),
        ("echo x >&2; echo y 1>&2", "", 0),
        ("cat nope &> /dev/null || echo no", "no\n", 0),
        ("grep one a.txt /dev/null", "a.txt:one\n", 0),
        ("cd src && cat ../a.txt", "one\ntwo\n", 0),
        ("cd /tmp && echo x > f && cd /tmp && cat f ../.tmp/f; ls ../a.txt; cd ~; ls /tmp", "x\nx\n../a.txt\nf\n", 0),
        ("ln -s ../a.txt src/l && cat src/l; ln -s ../../a.txt src/deep/; cat here/a.txt", "one\ntwo\none\ntwo\n", 0),
        (
            "[ -n \"$NONE\" ] || echo none; [[ $NONE == a* ]]; echo $?; case $NONE in '') echo empty;; esac",
            "none\n1\nempty\n",
            0,
        ),
        (
            "case $OSTYPE in linux*) echo $SHELL;; esac; echo $USER | wc -w; SHELL=x; echo $SHELL",
            "/bin/bash\n1\nx\n",
            0,
        ),
        ("cat src/../a.txt > src/deep/../c && cat src/c", "one\ntwo\n", 0),
        ("mkdir -p build/x && cd build/x && cat ../../a.txt", "one\ntwo\n", 0),
        ("cd src; cat b.txt; cd ..; cat a.txt", "three\none\ntwo\n", 0),
        ("cd here && cd .. && cat a.txt", "one\ntwo\n", 0),  # as a shell: back to where the link is
        ("cd nope; echo $?; cat a.txt", "1\none\ntwo\n", 0),
        ("cd nope 2>/dev/null || echo no", "no\n", 0),
        (
            "mkdir -p v/bin; printf '#!/bin/sh\\necho mine\\n' > v/bin/hostname; chmod +x v/bin/hostname; source v/bin/activate"
            " && hostname; cd v && printenv VIRTUAL_ENV | grep -c /v$; deactivate; printenv VIRTUAL_ENV; . no/bin/activate; echo $?",
            "mine\n1\n1\n",
            0,
        ),
        ("(cd src; cat b.txt); cat a.txt", "three\none\ntwo\n", 0),
        ("{ cd src; }; cat b.txt", "three\n", 0),
        ("(exit 3); echo $?; exit 4; echo no", "3\n", 4),
        ("! true; echo $?; ! false && echo yes", "1\nyes\n", 0),
        ("X=1; echo $X \"$X\" '$X' ${X}2; (X=5; echo $X); echo $X", "1 1 $X 12\n5\n1\n", 0),
        ("F='a.txt src/b.txt'; cat $F; cat \"$F\" 2>/dev/null; echo $?", "one\ntwo\nthree\n1\n", 0),
        ("F='*.txt'; echo $F \"$F\" src/$F", "a.txt *.txt src/b.txt\n", 0),
        ("E=; printf '[%s]' x$E \"$E\" $E ''; X=${E:-d}; echo $X ${NONE:-e}", "[x][][]d e\n", 0),
        ("export CI=7; printenv CI; unset CI; printenv CI; echo $?", "7\n1\n", 0),
        ("CI=3; printenv CI; CI=4 printenv CI; export CI; printenv CI", "4\n3\n", 0),
        ("cat <<E\na $HOME_IS ${X:-y} \\$x\nE", "", None),
        ("X=1; cat <<E | tr a b\na $X ${Y:-y} \\$x\nE\necho end", "b 1 y $x\nend\n", 0),
        ("cat <<'E' > src/new && wc -l src/new\n$(x) `y`\nz\nE", "2 src/new\n", 0),
        ("cat <<A - <<B\n1\nA\n2\nB", "2\n", 0),
        ("wc -c <<E\n" + "x" * 30_000 + "\nE", "30001\n", 0),
        ("mkdir -p {p,q}/{1..2} && echo p/* q/*", "p/1 p/2 q/1 q/2\n", 0),
        ("cp a.txt{,.bak} && cat a.txt.bak", "one\ntwo\n", 0),
        ("[ -f a.txt ] && echo yes; [ -d a.txt ] || echo no; test 1 -lt 2 && echo less", "yes\nno\nless\n", 0),
        ("printf '%s-' a b; seq 1 2; sleep 0; true; false", "a-b-1\n2\n", 1),
        ("echo x > /tmp/f; cat /tmp/f && ls /tmp/* | wc -l; wc -l < /tmp/f; cat .tmp/f", "x\n1\n1\nx\n", 0),
        ("echo /tmp/x; grep -c /tmp/ a.txt", "/tmp/x\n0\n", 1),
        ("set -e; false; echo no", "", 1),
        ("set -e; false || true; ! true; echo on; (false); echo no", "on\n", 1),
        ("set -o pipefail; false | true; echo $?; seq 100000 | head -1; echo $?", "1\n1\n0\n", 0),
        ("false | true; echo $?", "0\n", 0),
        ("timeout 5 env CI=2 nice printenv CI", "2\n", 0),
        ("timeout 0.1 sleep 5; echo $?", "124\n", 0),
        ("printf 'a.txt\\nsrc/b.txt\\n' | xargs cat", "one\ntwo\nthree\n", 0),
        ("touch ./-n; ls | grep -e -n | xargs cat; echo $?", "0\n", 0),  # -n is a file, not an option
        ("echo a.txt | xargs -I{} cp {} {}.2 && cat a.txt.2", "one\ntwo\n", 0),
        ("find . -name '*.txt' -exec cat {} + | sort", "one\nthree\ntwo\n", 0),
        ("find src -name b.txt -exec grep -c three {} \\;", "1\n", 0),
        ("touch y.log; find . -name '*.log' -delete; ls *.log", "", 2),
        ("echo $(echo a b) \"$(echo 'c  d'; echo)\"$(echo e)f", "a b c  def\n", 0),
        ('X=$(printf \'a\\nb\\n\\n\'); echo "$X"; echo $X; Y=$(false); echo $? "[$Y]"', "a\nb\na b\n1 []\n", 0),
        ("echo $(cat $(ls a.txt)) | tr a-z A-Z", "ONE TWO\n", 0),
        ("cat <<E\n[$(cat src/b.txt)] \\$(x)\nE", "[three] $(x)\n", 0),
        ("echo \"$(cat <<'E'\nit's ) $(x)\nE\n)\"; echo end", "it's ) $(x)\nend\n", 0),
        ("echo $(X=5; cd src; exit 3) ${X:-unset}; cat a.txt > $(echo copy); cat copy", "unset\none\ntwo\n", 0),
        ("cd $(echo src) && cat $(echo b).txt; head -n $(wc -l < ../a.txt) ../a.txt", "three\none\ntwo\n", 0),
        ("echo $(cat nope 2>&1 | wc -l) $(echo $(echo $(echo deep)))", "1 deep\n", 0),
        (
            "G='*.txt'; echo $(echo $G) \"$(echo '*')\"; CI=$(echo 7) printenv CI; export CI=$(echo 8); printenv CI",
            "a.txt *\n7\n8\n",
            0,
        ),
        (
            'for f in *.txt src/*.txt; do echo "== $f"; cat "$f"; done; echo $f',
            "== a.txt\none\ntwo\n== src/b.txt\nthree\nsrc/b.txt\n",
            0,
        ),
        ("for i in 1 2 3; do if [ $i = 2 ]; then continue; fi; echo $i; done", "1\n3\n", 0),
        ("for i in {1..3}; do for j in a b; do [ $j = b ] && break; echo $i$j; done; done", "1a\n2a\n3a\n", 0),
        ('for i in; do echo no; done; echo $?; for i in $(cat a.txt); do echo "<$i>"; done', "0\n<one>\n<two>\n", 0),
        ("for d in src nope; do (cd $d 2>/dev/null && ls) || echo no $d; done", "b.txt\ndeep\nno nope\n", 0),
        ("if [ -f nope ]; then echo a; elif [ -f a.txt ]; then echo b; else echo c; fi", "b\n", 0),
        ("if false; then echo a; fi; echo $?; if false; then :; else false; fi || echo else", "0\nelse\n", 0),
        ("if ! [ -d x ]\nthen\n  mkdir x\n  cd x\nfi\npwd -L | grep -c /x$", "1\n", 0),
        ('I=; while [ "$I" != xxx ]; do I=${I}x; echo $I; done; echo $?', "x\nxx\nxxx\n0\n", 0),
        ("until [ -f stop ]; do touch stop; echo once; done; while false; do :; done; echo $?", "once\n0\n", 0),
        ("while true; do echo a; break; echo b; done && echo c", "a\nc\n", 0),
        ("set -e; if false; then :; fi; for i in 1; do false || true; done; X=$(false); echo no", "", 1),
        ("for i in 1 2; do exit 4; done; echo no", "", 4),
        ("for i in 1 2; do false; done && echo no; (for i in 1; do exit 3; done); echo $?", "3\n", 0),
        ("(cd src && ls) | wc -l; { echo b; echo a; } | sort | head -n 1; ls a.txt", "2\na\na.txt\n", 0),
        (
            "(exit 3) | cat; echo $?; set -o pipefail; (exit 3) | cat; echo $?; ! (false) | true; echo $?",
            "0\n3\n0\n",
            0,
        ),
        ("X='a b'; [[ $X == 'a b' ]] && echo same; [[ -z $X ]]; echo $?; [[ ! -d src ]]; echo $?", "same\n1\n1\n", 0),
        ("X=1; { X=2; echo $X; } | cat; echo $X; for i in b a; do echo $i; done | sort > s; cat s", "2\n1\na\nb\n", 0),
        ("gzip -c < a.txt > r; (cat r) | cmp - r && echo same", "same\n", 0),
        (
            "(seq 100000) | head -n 1; (echo a; echo b >&2) 2>&1 | wc -l; (echo a | cat; cat nope) 2> e | cat; wc -l < e",
            "1\n2\na\n1\n",
            0,
        ),
        (
            "{ echo a; cd src; cat b.txt; } > out; cat ../out; (echo c; echo d | cat) >> ../out; wc -l < ../out",
            "a\nthree\n4\n",
            0,
        ),
        (
            "F=o; for F in x y; do echo $F; done > $F; cat o; { cat nope; echo a; } &> $(echo e); wc -l < e; ls x",
            "x\ny\n2\n",
            2,
        ),
        (
            "if true; then echo a; echo $(cat nope); fi > o 2> e; cat o; wc -l < e; { :; } > empty; wc -c empty",
            "a\n\n1\n0 empty\n",
            0,
        ),
        ("{ echo a; } > src || echo no; echo $? $({ echo b; echo c >&2; } 2> /dev/null | tr b d)", "no\n0 d\n", 0),
        ("echo hi | tee src/t; cat src/t; ln -s a.txt l; cat l; chmod 600 a.txt; stat -c %a a.txt", None, 0),
    ],
)
async def test_what_a_line_does(bench: Bench, line: str, stdout: str | None, code: int | None) -> None:
    if code is None:
        refusal = bench.judge(line)
        assert isinstance(refusal, Decision)
        assert refusal.rule == "syntax.variable"
        return
    ran = await bench.run(line)
    assert not ran.outcome.problem, ran.outcome.problem
    assert ran.outcome.exit_code == code
    assert stdout is None or ran.log.text("stdout") == stdout


async def test_absolute_names_of_the_workspace_stay_what_they_are(bench: Bench) -> None:
    ran = await bench.run(f"echo x > {bench.folder}/y && cat {bench.folder}/y")
    assert ran.said == ("x\n", 0)
    refusal = bench.judge(f"cat {bench.folder}-evil/y")
    assert isinstance(refusal, Decision)
    assert refusal.rule == "path.outside"


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("cd src && cd deep; cd nope; cat ../../a.txt; cd ..; cd ../..; cat ../x", "path.outside"),
        ("cd nope; cat ../a.txt", "path.parent"),
        ("cd nope/nope2; rm -rf ../..", None),
        ("false && cd src; rm -rf *", None),
        ("cd nope; find . -delete", "path.root"),
        ("cd nope; rm -rf *", "path.root"),
    ],
)
async def test_a_step_is_judged_again_in_the_folder_that_it_runs_in(bench: Bench, line: str, rule: str | None) -> None:
    plan = bench.judge(line)
    if isinstance(plan, Plan):
        ran = await bench.run(line)
        assert (ran.outcome.exit_code, ran.outcome.rule) == (126, rule or ran.outcome.rule)
        assert ran.outcome.problem
    assert (bench.folder / "a.txt").exists()


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("echo /etc/passwd > n; cat $(cat n)", "path.outside"),
        ("echo -delete > n; find . $(cat n)", "path.root"),
        ("echo ../x > n; for x in $(cat n); do cat $x; done", "path.parent"),
        ("echo ../x > n; export CI=$(cat n); ls", "environment.value"),
        ("echo ../x > n; export CI=1; for CI in $(cat n); do ls; done", "environment.value"),
        ("echo ../x > n; echo x > $(cat n)", "path.parent"),
        ("echo src/../../x > n; cd $(cat n); ls", "path.outside"),
        ("printf 'a\\033[2Jb' > n; echo $(cat n)", "syntax.character"),
        ("printf 'a\\000b' > n; echo $(cat n)", "syntax.character"),
        ("printf '\\377' > n; echo $(cat n)", "syntax.character"),
        ("seq 100000 > n; echo $(cat n) > m", "limits.expansion"),
        ("X=$(seq 15000); echo $X$X > m", "limits.expansion"),
        ("while true; do :; done", "limits.steps"),
        ("(seq 200000) | wc -l", "limits.expansion"),
        ("echo ../x > n; { echo x; } > $(cat n)", "path.parent"),
        ("for i in {1..30}; do for j in $(seq 90); do :; done; done", "limits.steps"),
        ("echo ../x > n; while read x; do cat $x; done < n", "path.parent"),
        ("echo ../x > n; export CI=1; read CI < n", "environment.value"),
        ("printf '\\033' > n; read x < n", "syntax.character"),
        ("printf '\\377' > n; read x < n", "syntax.character"),
        ("seq -s x 100000 > n; read x < n", "limits.expansion"),
        ("while :; do read x; done < a.txt", "limits.steps"),
        ("echo ../x > n; { cat; } < $(cat n)", "path.parent"),
        ("(seq 200000) | while read x; do break; done", "limits.expansion"),
        ("echo 1x > n; N=$(cat n); echo $((N))", "syntax.arithmetic"),
        ("echo 4611686018427387904 > n; N=$(cat n); N=$((N*N)); echo $N", "syntax.arithmetic"),
        ("echo ../x > n; case a in a) cat $(cat n);; esac", "path.parent"),
        (
            "seq 9000 > n; X=$(cat n); case $X$X in *1*2*3*4*5*6*7*8*9*a*b*c*d*e*f*g*h*i*j*k*l*m*n*) ls;; esac",
            "limits.expansion",
        ),
        ("X=a; while true; do X=$(echo ${X}{1..9}); done", "limits.expansion"),
    ],
)
async def test_what_is_only_known_later_is_judged_then(bench: Bench, line: str, rule: str) -> None:
    ran = await replace(bench, profile=replace(AGENT, max_steps=1000)).run(line)
    assert (ran.outcome.exit_code, ran.outcome.rule) == (126, rule)
    assert ran.outcome.problem
    assert not (bench.folder.parent / "x").exists()


# --- The same as a shell ----------------------------------------------------------------------------------------------

COMMANDS = [
    *(
        "echo a",
        "echo $X",
        'echo "$Y"',
        "echo $Y",
        "echo $?",
        "echo ${Z:-z}",
        "true",
        "false",
        "X=2",
        "Y=$X$Y",
        "X='b c'",
    ),
    *(
        "cd src",
        "cd ..",
        "cd deep",
        "cat a.txt",
        "cat b.txt ../a.txt",
        "pwd -L",
        "exit 3",
        "exit",
        "set -e",
        "printenv CI",
    ),
    *("export CI=$X", "CI=5 printenv CI", "! true", "! false", "echo p | cat", "false | cat", "echo x > f; cat f"),
    *("cat <<E\n$X \\$X '\nE", "cat <<'E'\n$X\nE", "echo c # no", "[ -f a.txt ]", "echo \"a$X\"'$X'", "test $X = 2"),
]


def some_line(random: Random, depth: int = 0) -> str:
    """A random line of such commands; a here-document needs a line break after it."""
    parts = []
    for _ in range(random.randrange(1, 4)):
        part = some_part(random, depth)
        parts.append(
            part + ("\n" if "<<" in part or "#" in part else random.choice([" && ", " || ", "; ", "\n", "\n"]))
        )
    return "".join(parts).rstrip().removesuffix("&&").removesuffix("||").rstrip("; \n") + "\n"


def some_part(random: Random, depth: int) -> str:
    if depth < 2 and random.random() < 0.35:
        return some_compound(random, depth + 1)
    if depth < 2 and random.random() < 0.25:
        inner = some_line(random, depth + 1)
        return f"({inner})" if random.random() < 0.6 and not inner.startswith("(") else "{ " + inner + "}"
    return random.choice(COMMANDS)


def some_compound(random: Random, depth: int) -> str:
    inner, other = some_line(random, depth), some_line(random, depth)
    return random.choice(
        [
            f"X=$({inner})",
            f"echo $({inner}) end",
            f'echo "<$({inner})>"',
            f"cat <<E\n<$({inner})>\nE",
            f"for X in a $Y 'b c'; do {inner}done",
            f"for X in $({inner}); do {other}done",
            f"if {inner}then {other}else {inner}fi",
            f"if {inner}then {other}fi",
            f'{{ W=; while [ "$W" != xx ]; do W=x$W; {inner}done; }}',
            f'{{ W=; until [ "$W" = xx ]; do W=x$W; {inner} [ -f f ] && break; {other}done; }}',
            f"({inner}) | cat",
            f"( {inner}) 2>&1 | cat | cat",
            f"{{ {inner}}} > f; cat f",
            f"( {inner}) >> g; cat g",
            f"for X in a b; do {inner}done | cat",
            f"if {inner}then {other}fi > h 2>&1; cat h",
            f"case $X in [a-c]*) {inner};; *) {other} esac",
            f"while read -r X Y; do {inner}done < a.txt",
            f"echo 'a b' | while read X; do {inner}done",
            f"{{ read X; {inner}cat; }} < b.txt",
            f"( {inner}) | ( {other})",
            f"for X in 1 2; do {inner} [ $X = 1 ] && continue; {other}done",
        ]
    )


@pytest.mark.parametrize(
    "line",
    [
        "X='a  b*'; cat <<< $X; cat <<< \"$X\"'c'; tr a-z A-Z <<< a.t* | cat; read a b <<< '1 2 3'; echo $b",
        "cat <<< '' | wc -c; while read -r x; do echo $x; done <<< $(cat a.txt); cat << E <<< 2\n1\nE",
        "[[ -f a.txt && ! -d a.txt || x == y ]] && echo 1; A=abc; [[ $A == a* && $A != *d ]] && echo 2; [[ $A == 'a*' ]]; echo $?;"
        " [[ $A =~ ^ab ]] && [[ ! $A =~ ^b ]] && echo 3; [[ $A == ?[a-c]c ]] > o || echo no; [[ $A == b ]] | cat; echo $?",
        "A=b; if [[ $A == c* ]] || [[ $A = b ]]; then echo 1; fi; [[ -n $A && $A == [c-d] || $A =~ b$ ]]; echo $?; set -e; [[ $A == c ]] || echo 2;"
        " [[ x != x* ]]; echo no",
        "cd src; cd deep; cd - > /dev/null; ls; cd ..; ls; A=src/b.txt; echo ${A##*/} ${A%.*} ${A/src/x} ${A:0:3} ${A^^} $((2 ** 8))",
        "A='X1=a CI=2'; export CI=$(echo 1) && printenv CI; export $(echo CI=3 TZ=UTC) && printenv CI TZ; printf 'print(5)' > p; python3 << 'E'\nprint(7)\nE",
        "cat <<< ~ | wc -l; N=3; cat <<< $((N * 2)) | cat; cat <<< x > o; cat o; (cat; cat) <<< y",
    ],
)
async def test_a_text_is_an_input_as_in_bash(bench: Bench, line: str) -> None:
    ran = await bench.run(line)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(bench.folder)}
    done = subprocess.run(
        ["bash"], input=line, cwd=bench.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.said == (done.stdout, done.returncode)


LIKE_BASH = [
    "for ((i=0; i<3; i++)); do echo $i; done; echo $i $?; for ((i=5; i > 0; i-=2)) do [ $i = 3 ] && continue; echo $i; done; for ((;;)); do break; done; echo $?",
    "i=0; ((i++)); echo $? $i; ((i)); echo $?; ((i == 1)) && echo one; if ((i > 3)); then echo no; else echo $((i)); fi; ((i += 4)); ((i--)); echo $i; ((++i)); ((--i)); ((i*=3)); ((i%=5)); echo $i; while ((i < 5)); do ((i++)); done; echo $i; ! ((0)); echo $?",
    "set -e; i=0; ((i++)) || true; ((i)); echo on; ((i - 1)); echo no",
    'greet() { echo "hello $1"; }; greet world; greet "a b" c; function two { echo $# "$@"; }; two; two a "b c"; two $(echo x y); function three() { greet "$2"; }; three x y',
    'f() { local x=1 y; x=2; z=3; echo $x; return 4; echo no; }; x=9; f; echo $? $x $z; f > o || echo failed; cat o; f | tr 2 b; echo $?; y=$(f); echo "$y"; (f); echo $?; f && echo no',
    'f() { for i in 1 2 3; do [ $i = 2 ] && return 7; echo $i; done; }; f; echo $?; g() { if [ -z "$1" ]; then return; fi; echo "got $1"; }; false; g; echo $?; g a; g() { echo other; }; g; f() ( cd src; x=5; ls ); f; pwd -L | grep -c src; echo ${x:-no}',
    'f() { echo "[$1]" "[$2]" ${3:-d}; shift; echo $# $1; shift 2 || echo few; for a in "$@"; do echo "<$a>"; done; }; f "a b" c; cd src; f() { cat "$1"; }; f b.txt; cd ..; f a.txt | head -1',
    'f() { while read -r x; do echo "<$x>"; done; }; f < a.txt; cat a.txt | f; f <<E\nq\nE\n',
    "f() { exit 3; }; (f); echo $?; ls() { echo mine; }; ls; f; echo no",
    "set -e; f() { false; echo on; }; f || echo no; if f; then echo yes; fi; f; echo never",
    'f() { g; }; g() { echo later; }; f; if true; then h() { echo h; }; fi; h; f() { echo $1; }; export CI=1; f $CI; f "$(f in)" x; X=a; f ${X}b; f *.txt; f "*"',
    'arr=(a \'b c\' *.txt $(echo d e)); echo ${#arr[@]} "${arr[1]}" ${arr[0]} $arr; for x in "${arr[@]}"; do echo "<$x>"; done; printf \'%s-\' ${arr[@]}; echo; i=1; echo "${arr[$i]}" "${arr[i]}" "x${arr[@]}y"; e=(); echo ${#e[@]}; printf \'[%s]\' "${e[@]}" a "${arr[7]}"; echo ${#arr}; arr=(z); echo "${arr[@]}"',
    'a=(\n  x # one\n  y\n)\necho "${a[@]}"; f() { echo $#; }; f "${a[@]}"; b=("${a[@]}" z); echo "${#b[@]}"; s="${a[@]}"; echo "$s"',
    'diff <(echo a; echo b) <(echo a; echo c) | grep "^[<>]"; comm -12 <(sort a.txt) <(cat a.txt); while read -r x; do echo "<$x>"; done < <(cat a.txt; echo end); cat <(echo 1) <(echo 2) - <<< 3; false; cat <(true) ; echo $?',
    "x=0; while read -r a; do x=$((x+1)); done < <(seq 3); echo $x; for i in 1 2; do cat <(echo $i) <(cat <(echo in $i)); done; wc -l < <(cat a.txt)",
    "trap 'echo bye $x' EXIT; x=1; echo hi; x=2; false",
    "trap 'rm -f t; echo gone' EXIT; touch t; (trap 'echo inner' EXIT; echo sub); [ -f t ] && echo there; exit 3",
    "c() { echo cleanup; }; trap c EXIT INT; trap - EXIT; trap c EXIT; set -e; false; echo no",
    "trap 'exit 7' EXIT; exit 2",
    "trap 'echo no' EXIT; false; exec echo $?",
    "trap 'echo yes' EXIT; (exec false); echo $?; trap 'echo no' EXIT; exec false",
    "echo $(trap 'echo t' EXIT; echo s) | cat; echo end",
    "exec echo a; echo no",
    "(exec cat nope); echo $?; (exec ls src) | cat; exec false",
    'eval "echo hi"; eval echo a "b  c"; eval \'x=3; for i in 1 2; do echo $i; done\'; echo $x; eval "false"; echo $?; eval "echo a | tr a b" > o; cat o; eval \'f() { echo f $1; }\'; f 1; eval ""; echo $?',
    'printf \'A=1\\n# c\\n\\nB="x y"\\nexport PORT=3\\nC=$A-$B\\n\' > .env; source .env; echo $A "$B" $C; printenv PORT; . ./.env && echo ok; source ./nope.env; echo $?',
    "printf 'PORT=3\\nDEBUG=app:*\\n' > .env; set -a; . ./.env; set +a; printenv PORT DEBUG; unset PORT; export $(grep -v '^#' .env | xargs); echo $PORT; printenv PORT",
]


@pytest.mark.parametrize("line", LIKE_BASH)
async def test_functions_arrays_and_what_else_only_bash_has(bench: Bench, line: str) -> None:
    copy = shutil.copytree(bench.folder, bench.folder.parent / "copy", symlinks=True)
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(copy)}
    done = subprocess.run(
        ["bash", "-c", line],
        cwd=copy,
        env=environment,
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    ran = await bench.run(line)
    assert not ran.outcome.problem, ran.outcome.problem
    assert ran.said == (done.stdout, done.returncode)
    assert not [*bench.folder.glob(f".tmp/.{ID}*")]


async def test_functions_nest_as_deep_as_they_are_judged(bench: Bench) -> None:
    """Also where other definitions than those that were judged turn out to be theirs."""
    deep = "( " * 17 + "echo $( " + "( " * 17 + "{0}" + " )" * 17 + ")" + " )" * 17
    line = f"h() {{ {deep.format('echo in')}; }}; f() {{ {deep.format('h')}; }}; f"
    assert (await bench.run(line)).said == ("in\n", 0)
    deeper = f"{line[:-3]}; g() {{ {deep.format('f')}; }}; g"
    refusal = bench.judge(deeper)
    assert isinstance(refusal, Decision)
    assert refusal.rule == "limits.expansion"
    hidden = f"{line}; g() {{ :; }}; N=0; while [ $N != 2 ]; do g; g() {{ {deep.format('f')}; }}; N=$((N + 1)); done"
    ran = await bench.run(hidden)
    assert (ran.outcome.exit_code, ran.outcome.rule) == (126, "limits.expansion")


async def test_a_file_of_variables_is_not_run(bench: Bench) -> None:
    for text in (
        "ls\n",
        "A=$(ls)\n",
        "A=1 ls\n",
        "A=1; ls\n",
        "A='\n",
        "A=1 > x\n",
        "A=\u001b[2J\n",
        "a & \n",
        "f() { ls; }\n",
    ):
        (bench.folder / ".env").write_text(text)
        ran = await bench.run("source .env; echo no")
        assert (ran.said, ran.outcome.rule) == (("", 126), "syntax.source"), text
    (bench.folder / ".env").write_text("PATH=.\n")
    assert (await bench.run("source .env; echo no")).outcome.rule == "environment.unlisted"
    (bench.folder / ".env").write_text("X=/etc/passwd\n")
    assert (await bench.run("source .env; cat $X")).outcome.rule == "path.outside"
    assert (await bench.run("source .env; echo $Y")).outcome.rule == "syntax.variable"
    assert (await bench.run("set -a; source .env; ls")).outcome.rule == "environment.unlisted"
    (bench.folder / ".env").unlink()
    (bench.folder / ".env").symlink_to("/etc/passwd")
    refusal = bench.judge("source .env; echo no")
    assert isinstance(refusal, Decision)
    assert refusal.rule == "path.link"


async def test_what_runs_is_shown_if_asked_for(bench: Bench) -> None:
    ran = await bench.run("set -ex; X='a b'; echo \"$X\" | cat; set +x; echo no")
    assert ran.log.text("stderr").splitlines() == ["+ 'X=a b'", "+ echo 'a b'", "+ cat", "+ set +x"]


async def test_arithmetic_that_has_no_value_at_its_turn_is_refused_then(bench: Bench) -> None:
    ran = await bench.run("N=$(wc -l < a.txt); echo $N; echo $((1 / (N - 2))); echo no")
    assert (ran.said, ran.outcome.rule) == (("2\n", 126), "syntax.arithmetic")


async def test_a_loop_ends_with_the_steps_that_its_profile_has(bench: Bench) -> None:
    """A file of thousands of lines is read; what never ends says which limit has ended it."""
    (bench.folder / "n").write_text("1\n" * 600)
    counted = await bench.run("N=0; while read -r x; do N=$((N+x)); done < n; echo $N")
    assert counted.said == ("600\n", 0)
    few = replace(bench, profile=replace(AGENT, max_steps=100))
    ended = await few.run("N=0; while [ $N != x ]; do N=$((N+1)); [ $N = 30 ] && echo $N; done")
    assert (ended.said, ended.outcome.rule) == (("30\n", 126), "limits.steps")
    assert "100 steps, as many as the profile agent" in ended.outcome.problem


async def test_what_a_client_sends_is_read_through_a_program(bench: Bench) -> None:
    assert (await bench.run("cat | while read x; do echo $x; done", b"a\nb\n")).said == ("a\nb\n", 0)
    refused = await bench.run("read x; echo $x", b"a\n")
    assert (refused.said, refused.outcome.rule) == (("", 126), "syntax.builtin")


@pytest.mark.parametrize(
    "line",
    [
        'while read -r x; do echo "<$x>"; done < a.txt; echo $x $?',
        "cat a.txt | while read -r x y; do echo $x; X=$x; done; echo ${X:-no}",
        "while read -r x; do cat; done < a.txt; echo $?; { head -n 1 > h; read y; } < a.txt; cat h; echo $y",
        "seq 3 | while read x; do cat; done; seq 5 | { read a; read b; echo $b$a; wc -l; }",
        "printf 'a:b:c\n d  e f \n' | while IFS=: read -r x y; do echo \"$x|$y|\"; done",
        'printf \' x\\\n y \n\' | { IFS= read -r l; echo "[$l]"; read m; echo "[$m]"; }',
        "printf 'x\\\n y\\ z' | { read l m; echo $? \"[$l][$m]\"; }",
        "read x y < a.txt; echo $x$y; read z <<E\nb $x\nE\necho $z; read w < nope || echo no ${w:-none}",
        "{ cat; echo end; } < a.txt > o; (cat) < o; for i in 1 2; do read x; echo $i$x; done <<'E'\na\nb\nE",
        "(cat; cat) <<E | (read x; cat) | tr a-z A-Z\n1\nb\nE",
        "(exit 3) | { cat; true; }; echo $?; ls src | (grep b) | (cat | wc -l); (read x); echo $?",
        "while read f; do [ -f $f ] || continue; cat $f; break; done <<E\nx\na.txt\nnope\nE\necho $?",
        "while read x; do while read y; do echo $x$y; done < src/b.txt; done < a.txt",
        "{ echo $(read x; echo $x) $(cat); } < a.txt; if read x; then echo $x; fi < a.txt",
        "read -r x < a.txt > nope/x || echo no; echo a | (cat) < src/b.txt; (cat) < a.txt <<E\nx\nE",
        "cd src; cat ~/a.txt; echo ~ | grep -c ws; X=~/a.txt:~; echo ${X#*:} | grep -c :; ls ~ > ~/l; cat ~/l",
        'i=0; while [ $i -lt 3 ]; do i=$((i+1)); echo $((i*i)) "$((i % 2 ? 10 : -10))"; done; cat <<E\n$((i<<2)) ~\nE',
        'f=src/b.tar.gz; echo ${f##*/} ${f%/*} ${f%%.*} "${f#*.}" ${#f} ${f:+y}; X=\'a b\'; echo ${X%b} "${X#a}"',
        "X=7; echo $((X - 10)) $(($X-1)) $((${X}>5 && X<9)); Y=$((X*2))z; echo $Y; printf '%s\n' $((1))$((2))",
        "for x in a ab b.txt 'c d' '*' '' 5 -h; do case $x in a) echo 1;; a*|c*) echo 2; X=$x;; *.txt) echo 3;; [0-9]) echo 4;; "
        "-h|--help) echo 5;; '*') echo 6;; '') echo 7;; esac; done; echo $X $?",
        "case a in b) echo no;; esac; echo $?; false; case x in x) ;; esac; echo $?; false; case $? in 1) false; esac; echo $?",
        'X="a b*"; case "$X" in "$X") echo same;; esac; case aXc in a"$(echo X)"?) echo sub;; (x) ;; esac',
        "case src in\n  s[a-r]c)\n    cd src\n    cat b.txt\n    ;;\n  [!a]*) echo no\nesac; pwd -L | grep -c src",
        "case a in a) case b in b) echo in;; esac;; esac > o; cat o; case x in *) cat;; esac < a.txt | (case y in ?) cat; esac)",
        "set -e; case a in a) false || true; case b in *) echo b; false;; esac;; esac; echo no",
        "for x in 1 2 3; do case $x in 2) continue;; 3) break;; esac; echo $x; done; case ~ in /*) echo home;; esac",
        "echo $(case a in a) echo one;; *) echo two; esac) $(case b in (b) (echo in);; esac; echo end) \"$(case c in *) echo 'c)';; esac)\"",
        "echo $(\n  case src in\n  s*)\n    case b in b) ls src; esac\n    ;;\n  esac\n) $(for x in a b; do case $x in a) echo A;; b) echo B; esac; done)",
        "command -v sort; command -v nope || echo none; command -v ls > /dev/null && echo yes",
        "echo $(echo case in a) $(case x in y) ;; esac) $(if case a in a) true;; esac; then echo yes; fi)",
        'N=$(wc -l < a.txt); echo $((10 / (N - 1))) $((N - 2)); tail -n +$((N - 1)) a.txt; sed -n "$((N - 1)),\\$p" a.txt',
        'N=0; while read -r x; do N=$((N + 1)); done < a.txt; head -n $((3 - N)) a.txt; sed -n "$((N - 1))p" a.txt; M=x$N; M=${M#x}; echo $((M - 1))',
        "if [ -f a.txt ]; then N=3; else N=0; fi; echo $((6 / N)); Z=0; [ -d src ] && Z=2; until [ $Z = 0 ]; do echo $((4 / Z)); Z=$((Z-1)); done",
        'for N in $(seq 2 3); do echo $((6 / (N - 1))); sed -n "$((N - 1))p" a.txt; done; cat a.txt | while read -r x; do L=${#x}; echo $((6 / (L - 1))); done',
        *(
            "; ".join(
                f"printf '%s\n' '{text}' | {{ IFS='{ifs}' read {raw}{names}; printf '%s\n' \"$?[$a][${{b:-}}]\"; }}"
                for ifs in (":", " ", ": ", "", ",:")
                for raw, names in (("-r ", "a b"), ("", "a b"), ("", "a"))
            )
            for text in ("a:b:", "a:b::", ":a", " a : b : c ", "a  b", "a,b:c", "\\a\\:b:c", "", ":", "::", "a b ")
        ),
    ],
)
async def test_a_line_does_what_it_does_in_dash(bench: Bench, line: str) -> None:
    program = shutil.which("dash")
    if not program:
        pytest.skip("dash is not here")
    ran = await bench.run(f"a=; b=\n{line}")
    assert not ran.outcome.problem
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(bench.folder)}
    done = subprocess.run(
        [program], input=line, cwd=bench.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.said == (done.stdout, done.returncode)


@pytest.mark.parametrize("shell", ["dash", "bash"])
async def test_a_random_line_does_what_it_does_in_a_shell(bench: Bench, shell: str) -> None:
    program = shutil.which(shell)
    if not program:
        pytest.skip(f"{shell} is not here")
    random, compared = Random(shell), 0
    for _ in range(60):
        line = "X=1; Y='d  e'\n" + some_line(random)
        if isinstance(bench.judge(line), Decision):
            continue
        if shell == "bash" and "$(" in line and "<<" in line:
            continue  # bash writes such a substitution down again, and loses a ; then
        bench.clean()
        ran = await bench.run(line)
        bench.clean()
        if ran.outcome.problem:  # a folder that was not entered made a path lead out
            continue
        environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(bench.folder)}
        # What `set -e` means in $( ) is that of POSIX only so.
        words = [program, "--posix"] if shell == "bash" else [program]
        done = subprocess.run(
            words, input=line, cwd=bench.folder, env=environment, capture_output=True, text=True, check=False
        )
        written = "".join(each.read_text() for each in bench.folder.rglob("[fgh]"))
        said = done.stdout + done.stderr + written
        if "cd: " in done.stdout + written or "can't cd" in said or "cannot open" in said:
            continue  # dash says 2 where others say 1, and ours is not redirected with its group
        assert (ran.said, line) == ((done.stdout, done.returncode), line), line
        compared += 1
    assert compared > 25


def some_line_of_bash(random: Random) -> str:
    """A random line with a form that only bash has."""
    inner, other = some_line(random, 1), some_line(random, 1)
    return random.choice(
        [
            f"f() {{ {inner}}}; f a 'b c'; f\n",
            f"f() {{ {inner} return 2; {other}}}; f; echo $?; f | cat\n",
            f"f() {{ local X=9; {inner}}}; f > g; cat g; {other}",
            f'f() {{ for X in "$@"; do {inner} [ $X = b ] && return; done; }}; f a b $Y; {other}',
            f"f() ( {inner}); f && {other}",
            f"for ((i=0; i<3; i++)); do {inner} [ $i = 1 ] && continue; {other}done; echo $i\n",
            f"i=3; while ((i--)); do {inner}done; {other}",
            f"a=($Y 'c d' *.txt); {inner} printf '%s.' \"${{a[@]}}\" ${{#a[@]}} ${{a[1]}}\n",
            f'a=($(cd src; {inner})); echo ${{#a[@]}} "${{a[@]}}"\n',
            f"cat <({inner}) - < <({other})\n",
            f"while read -r X; do {inner}done < <(cat a.txt); {other}",
            f"trap 'echo end $X' EXIT; {inner}",
            f"( trap 'echo end' EXIT; {inner}); {other}",
        ]
    )


async def test_a_random_line_of_bash_does_what_it_does_there(bench: Bench) -> None:
    random, compared = Random(5), 0
    for _ in range(60):
        # With the status of what ran last a group that is redirected ends otherwise: its file was opened before.
        line = "X=1; Y='d  e'\n" + re.sub(r"exit\b(?! 3)", "exit 4", some_line_of_bash(random))
        if isinstance(bench.judge(line), Decision) or ("<<" in line and ("$(" in line or "<(" in line)):
            continue
        bench.clean()
        ran = await bench.run(line)
        bench.clean()
        if ran.outcome.problem:
            continue
        done = subprocess.run(
            ["bash", "-O", "inherit_errexit"],
            input=line,
            cwd=bench.folder,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(bench.folder)},
            capture_output=True,
            text=True,
            check=False,
        )
        written = "".join(each.read_text() for each in bench.folder.rglob("[fgh]"))
        if "cd: " in done.stdout + written:
            continue
        assert (ran.said, line) == ((done.stdout, done.returncode), line), line
        compared += 1
    assert compared > 25
