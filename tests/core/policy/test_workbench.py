"""The profile `workbench`: bash runs the line, and what it names is judged all the same."""

from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pytest

from backend.core.decisions import Decision, Risk
from backend.core.policy.admit import Plan, admit
from backend.core.policy.files import FileView, Unseen
from backend.core.policy.profile import OFFLINE, Offline, Profile, ProfileError
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
    assert [each.argv for each in plan.verdicts[0].invocations] == [("bash", "--norc", "--noprofile", "-c", line)]
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
    ],
)
def test_what_is_blocked_is_refused_wherever_it_is_named(line: str) -> None:
    assert refused(line).rule == "blocked.sudo"


@pytest.mark.parametrize(
    "line", ["rm -rf .", "rm -rf *", "rm -rf ./*", "rm -rf ~ /", "find . -delete", "cd x; rm -rf /", "ls;rm -r ../.."]
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
