"""Policy: the terminal profile, options by meaning, paths, and profiles that cannot be used."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.decisions import Decision
from backend.core.policy.profile import MissingVariables, Place, Profile, ProfileError
from backend.policies.loader import load_profile, shipped_names

TERMINAL = load_profile("terminal")
ROOT = PurePosixPath("/srv/ws")
PLACE = Place(ROOT, ROOT / "sub")


def decide(*argv: str) -> Decision:
    return TERMINAL.decide(argv, PLACE)


@pytest.mark.parametrize(
    "argv",
    [
        ("ls",),
        ("ls", "-la"),
        ("ls", "-w80", "--color=always", "--sort=size", "-I", "*.pyc", "."),
        ("ls", "--", "-x"),
        ("ls", "/srv/ws/other"),
        ("ls", "/srv/ws"),
        ("cat", "my-rm notes.txt"),
        ("cat", "-"),
        ("cat", "-n", "a..b", "...", "x..", "..x"),
        ("pwd", "-P"),
        ("echo", "-n", "a;b", "--whatever"),
        ("echo", "farm", "x"),
        ("echo", "rm"),
        ("pyguard", "fix", "--code", "def test(): pass"),
        ("pyguard", "--file=/srv/ws/a.py", "--code", "/* text */"),
        ("help",),
        ("clear",),
    ],
)
def test_what_the_terminal_lets_through(argv: tuple[str, ...]) -> None:
    decision = decide(*argv)
    assert (decision.allowed, decision.rule) == (True, f"allow.{argv[0]}")


@pytest.mark.parametrize(
    ("argv", "rule"),
    [
        *(((name, "x"), f"blocked.{name}") for name in ("rm", "sudo", "curl", "wget", "pip")),
        (("python3", "-c", "x"), "program.unlisted"),
        (("/bin/ls",), "program.name"),
        (("./ls",), "program.name"),
        (("",), "program.name"),
        (("LS",), "program.name"),
        (("l\u0455",), "program.name"),
        (("cat", "/etc/passwd"), "path.outside"),
        (("cat", "/srv/ws-evil/x"), "path.outside"),
        (("cat", "/proc/self/environ"), "path.outside"),
        (("cat", "--", "/etc/passwd"), "path.outside"),
        (("cat", "../x"), "path.parent"),
        (("cat", "a/../../x"), "path.parent"),
        (("cat", ".."), "path.parent"),
        (("echo", "../x"), "path.parent"),
        (("pyguard", "--file=../x"), "path.parent"),
        (("pyguard", "/etc/passwd"), "path.outside"),
        (("pyguard", "--file=/etc/passwd"), "path.outside"),
        (("ls", "--recur"), "option.unlisted"),
        (("ls", "--hyperlink"), "option.unlisted"),
        (("ls", "--all=x"), "option.unlisted"),
        (("ls", "-lZ"), "option.unlisted"),
        (("ls", "-w"), "option.unlisted"),
        (("cat", "-x"), "option.unlisted"),
        (("pwd", "x"), "option.unlisted"),
        (("help", "x"), "option.unlisted"),
    ],
)
def test_what_the_terminal_refuses(argv: tuple[str, ...], rule: str) -> None:
    decision = decide(*argv)
    assert (decision.allowed, decision.rule) == (False, rule)
    assert decision.reason
    assert decision.hint


@pytest.mark.parametrize(
    "name",
    [
        *(".env", "./.env", "a/.env.local", ".ENV", ".envrc", ".npmrc", "x/.pypirc", ".netrc", ".git-credentials"),
        *(".git/config", "sub/.git/config", "/srv/ws/.git/config", "id_rsa", ".ssh/id_ed25519", ".ssh", "server.pem"),
        *("tls/site.key", ".aws/credentials", ".docker/config.json", ".kube/config", "store.p12"),
    ],
)
def test_visitors_do_not_read_secrets(name: str) -> None:
    for argv in (("cat", name), ("cat", "--", name), ("pyguard", f"--file={name}"), ("ls", "-l", name)):
        assert decide(*argv).rule == "path.secret"


@pytest.mark.parametrize(
    "name", [".env.example", ".environment", "env", "a.env", ".git/HEAD", "key", "id_rsa.pub", "monkey", "config"]
)
def test_what_only_looks_like_a_secret_is_shown(name: str) -> None:
    assert decide("cat", name).allowed


@given(
    st.lists(st.text(max_size=20), min_size=1, max_size=8), st.sampled_from(sorted(TERMINAL.programs)), st.booleans()
)
def test_any_argv_gets_a_verdict(argv: list[str], program: str, known: bool) -> None:
    decision = decide(*([program, *argv] if known else argv))
    assert decision.rule
    assert decision.reason
    assert decision.allowed == decision.rule.startswith("allow.")


@given(st.text(max_size=30))
def test_a_path_that_passes_stays_in_the_workspace(path: str) -> None:
    decision = decide("cat", path)
    if decision.allowed and path != "-" and not path.startswith("-"):
        full = PLACE.cwd / path
        assert full.is_relative_to(ROOT)
        assert ".." not in full.parts


def test_an_empty_profile_allows_nothing() -> None:
    profile = Profile.from_toml("name = 'none'\nsummary = ''\n[limits]\ncharacters = 10\narguments = 1\n")
    assert profile.decide(("ls",), PLACE).rule == "program.unlisted"
    assert profile.allowed == "Nothing is allowed here."


def test_length_and_count_are_limited() -> None:
    assert TERMINAL.check_length("x" * 1000) is None
    assert (too_long := TERMINAL.check_length("x" * 1001))
    assert too_long.rule == "limits.characters"
    assert TERMINAL.check_count(50) is None
    assert (too_many := TERMINAL.check_count(51))
    assert too_many.rule == "limits.arguments"


HEAD = "name = 'x'\nsummary = 'x'\n[limits]\ncharacters = 10\narguments = 1\n"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("name = ", "Invalid value"),
        ("summary = 'x'", "profile.name"),
        (HEAD.replace("name = 'x'", "name = 3"), "profile.name"),
        (HEAD.replace("10", "0"), "profile.limits.characters"),
        (HEAD.replace("10", "true"), "profile.limits.characters"),
        (HEAD + "lines = 3", "profile.limits: unknown key 'lines'"),
        (HEAD + "[programs.ls]", "profile.programs.ls.summary"),
        (HEAD + "[programs.ls]\nsummary = ''\nflag = []", "profile.programs.ls: unknown key 'flag'"),
        (HEAD + "[programs.ls]\nsummary = ''\nflags = [1]", "profile.programs.ls.flags"),
        (HEAD + "[programs.ls]\nsummary = ''\nrisk = 'low'", "profile.programs.ls.risk"),
        (HEAD + "[programs.ls]\nsummary = ''\noperands = 'files'", "profile.programs.ls.operands"),
        (HEAD + "[programs.ls]\nsummary = ''\narguments = 'all'", "profile.programs.ls.arguments"),
        (HEAD + "[programs.ls]\nsummary = ''\nvalues = {'-w' = 'number'}", "profile.programs.ls.values"),
        (HEAD + "[programs.'../x']\nsummary = ''", "profile.programs.../x"),
        (HEAD + "[[blocked.arguments]]\nrule = 'x'\npattern = '('\nreason = ''", "unterminated"),
        (HEAD + "[blocked]\narguments = [3]", "profile.blocked.arguments[0]"),
    ],
)
def test_a_profile_that_cannot_be_used_names_the_place(text: str, place: str) -> None:
    with pytest.raises(ProfileError) as raised:
        Profile.from_toml(text)
    assert place in str(raised.value)


@pytest.mark.parametrize("name", ["nothing", "../policies/terminal", "missing.toml"])
def test_a_profile_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ProfileError, match=name):
        load_profile(name)


def test_every_shipped_profile_loads() -> None:
    assert [load_profile(name).name for name in shipped_names()] == shipped_names()


KEYLESS = TERMINAL.without({"pyguard": MissingVariables(("FIRST_KEY", "SECOND_KEY"), ("fix", "analyze"))})


@pytest.mark.parametrize("words", ["fix a.py", "--verbose analyze a.py", "analyze", "fix a.py -- -h"])
def test_a_program_without_its_key_is_refused(words: str) -> None:
    decision = KEYLESS.decide(("pyguard", *words.split()), PLACE)
    assert (decision.allowed, decision.rule) == (False, "program.key")
    assert decision.reason == "pyguard needs FIRST_KEY and SECOND_KEY, which the server does not have."
    assert "FIRST_KEY and SECOND_KEY" in decision.hint


@pytest.mark.parametrize(
    "words", ["", "list-patterns", "fix --help", "--version", "analyze -h", "list-patterns -- fix"]
)
def test_what_needs_no_key_runs_without(words: str) -> None:
    assert KEYLESS.decide(("pyguard", *words.split()), PLACE).allowed
    assert KEYLESS.decide(("ls", "fix"), PLACE).allowed


def test_a_program_that_always_needs_its_key() -> None:
    profile = TERMINAL.without({"pyguard": MissingVariables(("KEY",))})
    assert profile.decide(("pyguard",), PLACE).rule == "program.key"
    assert profile.decide(("pyguard", "--help"), PLACE).allowed


def test_what_the_policy_refuses_is_refused_for_that_reason() -> None:
    assert KEYLESS.decide(("pyguard", "fix", "../x"), PLACE).rule == "path.parent"
    assert KEYLESS.with_extra(["tool"]).decide(("pyguard", "fix"), PLACE).rule == "program.key"
