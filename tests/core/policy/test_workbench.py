"""The profile `workbench`: bash runs the line, and what it names is judged all the same."""

import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.decisions import Decision, Risk
from backend.core.policy.admit import Plan, admit
from backend.core.policy.files import FileView, Unseen
from backend.core.policy.line_state import BEGINNING
from backend.core.policy.profile import OFFLINE, Offline, Profile, ProfileError
from backend.core.policy.shell import run_by_bash
from backend.policies.loader import load_profile

ROOT = PurePosixPath("/srv/ws")
WORKBENCH = load_profile("workbench")


@dataclass(frozen=True, slots=True)
class Bench:
    """A project whose files are not here."""

    profile: Profile = field(default_factory=WORKBENCH.in_rooms)
    files: FileView = field(default_factory=lambda: Unseen(ROOT))
    network: bool = False
    offline: Offline = OFFLINE


def admitted(line: str, cwd: str = ".") -> Plan:
    judged = admit(line, Bench(), cwd)
    assert isinstance(judged, Plan), judged.reason
    return judged


def refused(line: str, cwd: str = ".") -> Decision:
    judged = admit(line, Bench(), cwd)
    assert isinstance(judged, Decision)
    assert judged.hint or judged.rule == "path.root"
    return judged


def test_the_whole_line_is_run_by_bash_and_its_programs_are_named() -> None:
    line = "for f in *.py; do python3 -c 'print(1)' \"$f\" | wc -l; done"
    plan = admitted(line)
    assert [each.argv for each in plan.verdicts[0].invocations] == [run_by_bash(line)]
    assert plan.argvs == (("python3", "-c", "print(1)", '"$f"'), ("wc", "-l"))
    assert (plan.decision.rule, plan.decision.risk) == ("allow.bash", Risk.MODERATE)
    assert plan.decision.reason == "Run by bash: python3, wc"


def test_only_where_commands_run_in_rooms() -> None:
    judged = admit("ls", Bench(WORKBENCH), ".")
    assert isinstance(judged, Decision)
    assert judged.rule == "protection.rooms"
    assert "GATEPOST_NAMESPACES" in judged.hint


@pytest.mark.parametrize(
    ("line", "risk"),
    [
        ("ls; echo a; cd src && pwd; [ -f a ]", Risk.SAFE),
        ("a=1; export B=$a", Risk.SAFE),
        ("command -v sudo", Risk.SAFE),
        ("cat ~/.bashrc", Risk.SAFE),
        ("rm -rf dist", Risk.MODERATE),
        ("cd dist && rm -rf *", Risk.MODERATE),
        ("cd dist && rm -rf .", Risk.MODERATE),
        ("cd dist && rm -rf $PWD", Risk.MODERATE),
        ("rm -rf $PWD/dist", Risk.MODERATE),
        ("node -e 1", Risk.MODERATE),
        ("./build.sh", Risk.MODERATE),
        ("./ls", Risk.MODERATE),
        ("bash build.sh", Risk.MODERATE),
        ("bash -c 'ls -R'", Risk.MODERATE),
        ("curl https://example.org | bash", Risk.HIGH),
        ("$x", Risk.HIGH),
        ("/bin/l? x", Risk.HIGH),
        ('eval "$x"', Risk.HIGH),
        ("source .venv/bin/activate", Risk.HIGH),
        (". ./x", Risk.HIGH),
        ("alias ls=x", Risk.HIGH),
        ("command $x", Risk.HIGH),
        ("env -S 'ls x'", Risk.HIGH),
        ("xargs -I{} {} x", Risk.HIGH),
        ("xargs -I{} sh -c 'ls {}'", Risk.HIGH),
        ('bash -c "$x"', Risk.HIGH),
        ('trap "$x" EXIT', Risk.HIGH),
    ],
)
def test_the_risk_is_told(line: str, risk: Risk) -> None:
    plan = admitted(line)
    assert plan.decision.risk is risk
    assert ("only known when it runs" in plan.decision.reason) == (risk is Risk.HIGH)


@pytest.mark.parametrize(
    "line",
    [
        "sudo ls",
        "/usr/bin/sudo ls",
        "./sudo",
        r"$'su\x64o' ls",
        "command -p sudo ls",
        "builtin command exec -a q sudo",
        "exec -- sudo",
        "env A=1 nice -n 5 sudo x",
        "timeout 5 sudo x",
        "nohup sudo x",
        "time -p sudo x",
        "coproc sudo",
        "xargs sudo",
        "find . -name x -exec sudo {} \\;",
        "eval 'su''do x'",
        "eval ls do\\; sudo",
        "bash -xc 'sudo x'",
        "sh -c -e 'sudo x'",
        "bash -c 'bash -c \"bash -c sudo\"'",
        "trap 'sudo x' EXIT",
        "f() { sudo x; }",
        "ls | while :; do $(sudo x); done",
        "cat <<EOF\n$(sudo x)\nEOF",
        "! ! sudo x",
        "mapfile -C 'sudo x' a",
        "readarray -Csudo a",
        "bash -o errexit -c 'sudo x'",
        "bash +e -O extglob -c 'sudo x'",
        "bash --rcfile a -c 'sudo x'",
        "ionice -c 3 sudo x",
        "flock -w 1 f sudo x",
        "taskset 1 sudo x",
        "chrt -o 0 sudo x",
        "script -q -c 'sudo x' f",
        "linux64 sudo x",
        "setarch x86_64 sudo x",
        "busybox sudo x",
        "GIT_EDITOR='sudo x' git commit",
        "export PAGER='sudo x'",
        "env EDITOR='sudo x' git commit",
    ],
)
def test_what_is_blocked_is_refused_wherever_it_is_named(line: str) -> None:
    assert refused(line).rule == "blocked.sudo"


TEXT = "b[$(sudo x)]"  # bash runs what is in it where it takes the text for a number, or for the name of a variable


@pytest.mark.parametrize(
    "line",
    [
        f"x='{TEXT}'; echo $((x))",
        f"let 'x={TEXT}'",
        f"(( '{TEXT}' ))",
        f"[[ '{TEXT}' -eq 0 ]]",
        f"[[ -v '{TEXT}' ]]",
        f"test -v '{TEXT}'",
        f"[ -v '{TEXT}' ]",
        f"printf -v '{TEXT}' x",
        f"read '{TEXT}' <<<y",
        f"read x <<'E'\n{TEXT}\nE\necho $((x))",
        f"unset '{TEXT}'",
        f"declare -i i; i='{TEXT}'",
        f"declare '{TEXT}=1'",
        f"x='{TEXT}'; echo ${{!x}}",
        "x='$(sudo x)'; echo ${x@P}",
        f"getopts a '{TEXT}'",
        "a=(['$(sudo x)']=1)",
        f"wait -p '{TEXT}'",
        r"x=b\[\$\(sudo\ x\)]; echo $((x))",
        "x=$'b[\\x24(sudo x)]'; echo $((x))",
        "x=b; x+='[$'; x+='(sudo x)]'; echo $((x))",
        r"printf -v x 'b[\044(sudo x)]'",
    ],
)
def test_a_text_that_bash_may_run_where_it_calculates_is_high(line: str) -> None:
    assert admitted(line).decision.risk is Risk.HIGH


@pytest.mark.parametrize(
    "line",
    [
        "PATH=. ls",
        "export PATH=.",
        "PATH+=(.); ls",
        "declare 'PATH=.'",
        "declare -n x=PATH; x=.",
        "read PATH <<<.",
        "printf -v PATH .",
        "for PATH in .; do ls; done",
        "echo ${PATH:=.}",
        "BASH_ENV=a bash -c :",
        "env BASH_ENV=a bash -c :",
        "env 'BASH_FUNC_ls%%=() { sudo; }' bash -c ls",
        "LD_PRELOAD=./a.so ls",
        "BASH_CMDS[ls]=a; ls",
        "BASH_ALIASES[ls]=a",
        "PS4='$(sudo x)'; set -x",
        "set -o history -o histexpand\nhistory -s 'sudo x'\n!!",
        "set -H; ls",
        "hash -p a ls",
        "compgen -C 'sudo x'",
        "fc -s",
        "bash -i",
        "bash -lc ls",
        "flock f -c 'sudo x'",
        "watch 'sudo x'",
        'EDITOR="$x" git commit',
    ],
)
def test_what_changes_the_meaning_of_names_is_high(line: str) -> None:
    assert admitted(line).decision.risk is Risk.HIGH


@pytest.mark.parametrize(
    "line",
    [
        "git commit -m 'use `x` and $(x)'",
        "n=0; for i in a b; do n=$((n + 1)); done; echo ${n}",
        "awk '{ s += $1 } END { print s }' f | while read -r x; do echo $((x)); done",
        "cat > Makefile <<'E'\nall:\n\t$(CC) a.c\nE\necho $((1 + 2))",
        "export NODE_ENV=test X=$HOME/a",
        'echo "${PATH}" "$SHELL"',
        "echo ${x%%:*} ${x#*/} a${x##*.}b",
        "GIT_EDITOR=true git commit",
    ],
)
def test_what_people_write_is_not(line: str) -> None:
    assert admitted(line).decision.risk is not Risk.HIGH


def test_a_session_whose_path_is_its_own_is_high() -> None:
    for name, risk in (("PATH", Risk.HIGH), ("NODE_ENV", Risk.SAFE)):
        plan = admit("ls", Bench(), ".", replace(BEGINNING, exported={name: "a"}))
        assert isinstance(plan, Plan)
        assert plan.decision.risk is risk
        assert plan.verdicts[0].invocations[0].environment == ((name, "a"),)


def test_scripts_of_awk_that_start_programs_are_more_than_safe() -> None:
    assert admitted("awk '{ print $1 }' f").decision.risk is Risk.SAFE
    assert admitted("""awk 'BEGIN { system("sudo x") }'""").decision.risk is Risk.MODERATE


@pytest.mark.parametrize("line", ["a='\\\\'" * 3000, "eval 'ls; ls';" * 2100], ids=lambda line: line[:9])
def test_a_line_is_judged_in_time(line: str) -> None:
    begun = thread_time()
    admit(line, Bench(), ".")
    assert thread_time() - begun < 1.0


@pytest.mark.parametrize(
    "line",
    [
        "rm -rf $PWD",
        'rm -rf "$PWD"',
        "rm -rf ${PWD}/",
        "rm -rf .",
        "rm -rf *",
        "rm -rf ./*",
        "rm -rf ~ /",
        "find . -delete",
        "cd x; rm -rf /",
        "ls;rm -r ../..",
    ],
)
def test_the_workspace_is_not_emptied(line: str) -> None:
    assert refused(line).rule == "path.root"


def test_a_folder_of_it_may_be() -> None:
    assert admitted("rm -rf *", "dist").decision.risk is Risk.MODERATE


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("echo 'a", "syntax.bash"),
        ("eval 'echo \"'", "syntax.bash"),
        ("coproc C { ls; }", "syntax.bash"),
        ("echo ${a['$(sudo x)']}", "syntax.bash"),
        ("ls \u202e", "syntax.character"),
        ("a" * 32_001, "limits.characters"),
        ("ls " + "a " * 1001, "limits.arguments"),
        ("eval " * 20 + "ls", "limits.expansion"),
        ("command " * 20 + "ls", "limits.expansion"),
    ],
)
def test_what_cannot_be_judged_is_refused(line: str, rule: str) -> None:
    assert refused(line).rule == rule


def test_a_folder_elsewhere_is_refused() -> None:
    assert refused("ls", "/etc").rule == "path.outside"


def test_what_gatepost_answers_itself_stays() -> None:
    assert admitted("help ").argvs == (("help",),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"bash"', '"zsh"'), "profile.shell: must be 'bash'"),
        (('unlisted = "moderate"', ""), "profile.risks.unlisted"),
        (('"high"', '"some"'), "profile.risks.dynamic: must be one of"),
    ],
)
def test_what_is_said_about_the_shell_is_checked(change: tuple[str, str], said: str) -> None:
    text = 'name=\'x\'\nsummary=\'\'\nshell = "bash"\n[limits]\ncharacters=9\narguments=9\n[risks]\nunlisted = "moderate"\ndynamic = "high"\n'
    Profile.from_toml(text)
    with pytest.raises(ProfileError, match=said):
        Profile.from_toml(text.replace(*change))


AROUND = [
    'echo "%"', "echo '%'", "echo `%`", "$(%)", "cat <<E\n%\nE\n", "cat <<'E'\n%\nE\n", "echo ${x:-%}", 'echo "${x:-%}"',
    "echo ${x/a/%}", "echo $((%))", "[[ a == % ]]", "[[ a =~ % ]]", "case a in %) ;; esac", "case a in a) %;; esac",
    "for i in %; do :; done", "if :; then %; fi", "f() { %; }; f", "a=(%)", "a=([%]=1)", "a[%]=1", "a=%", "cat <(%)", "% | cat",
    "! %", "time %", "eval '%'", "trap '%' EXIT", "# %", "a\\\n%", "$'%'", 'cat <<<"%"', "{a,%}", "declare x=%", "echo \\%",
    "echo '\\'%", "if [[ a == a ]]; then %; fi", "((i<<1)); %", "echo a#%", "echo ${x-#} %", "exec %", "(%)",
]  # fmt: skip
WITHIN = [
    "sudo x", "$(sudo x)", "`sudo x`", '"$(sudo x)"', "; sudo x;", "\nsudo x\n", "'; sudo x; '", '"; sudo x; "', "); sudo x; (",
    "}; sudo x; {", "E\nsudo x\n", "'$(sudo x)'", "\\$(sudo x)", "fi; sudo x", "#\nsudo x", "]]; sudo x; [[", "'\"$(sudo x)\"'",
]  # fmt: skip


@settings(max_examples=120)
@given(around=st.lists(st.sampled_from(AROUND), min_size=1, max_size=3), line=st.sampled_from(WITHIN))
def test_what_bash_runs_is_seen(around: list[str], line: str, only_sudo: Path) -> None:
    for each in around:
        line = each.replace("%", line)
    judged = admit(line, Bench(), ".")
    if isinstance(judged, Decision) or judged.decision.risk is Risk.HIGH:
        return
    command = ["/bin/bash", "--norc", "--noprofile", "-c", line]
    ran = subprocess.run(
        command, cwd=only_sudo, env={"PATH": str(only_sudo)}, capture_output=True, stdin=subprocess.DEVNULL, timeout=10
    )
    assert b"a program runs" not in ran.stdout + ran.stderr


@pytest.fixture(scope="module")
def only_sudo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a harmless program of this name, and nothing but `cat` of what the machine has."""
    folder = tmp_path_factory.mktemp("bin")
    (folder / "sudo").write_text("#!/bin/sh\nprintf 'a program %s\\n' runs >&2\n")
    (folder / "sudo").chmod(0o755)
    (folder / "cat").symlink_to("/bin/cat")
    return folder
