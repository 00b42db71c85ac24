"""The agent's profile against lines that harm and lines that do not, and against arguments that nobody thought of."""

import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from backend.core.decisions import Decision, Risk
from backend.core.language.parser import Script, parse
from backend.core.policy.admit import admit
from backend.core.policy.files import FileView, Unseen, outside
from backend.core.policy.profile import OFFLINE as OFF
from backend.core.policy.profile import Offline, Place, Profile, ProfileError
from backend.core.policy.program_rules import Program
from backend.policies.loader import load_profile

WITHOUT_ROOMS = load_profile("agent")
AGENT = WITHOUT_ROOMS.in_rooms()
ROOT = PurePosixPath("/srv/ws")
OFFLINE = Place(ROOT, ROOT)
ONLINE = Place(ROOT, ROOT, network=True)
CORPUS = Path(__file__).parent / "corpus"


def argv(line: str) -> tuple[str, ...]:
    script = parse(line)
    assert isinstance(script, Script), script.reason
    return script.argv


def decide(line: str, place: Place = ONLINE) -> Decision:
    return AGENT.decide(AGENT.guarded(argv(line)), place)


def hostile() -> Iterator[tuple[str, str]]:
    """Each line with the rule that must refuse it."""
    for section in tomllib.loads((CORPUS / "hostile.toml").read_text()).values():
        for rule, lines in section.items():
            for line in re.findall(r"(.+?)  ## [^\n]+\n", lines, re.S):
                yield line, f"blocked.{line.split()[0]}" if rule == "blocked.NAME" else rule


def harmless() -> Iterator[tuple[str, str, Place]]:
    """Each line with its program and the place where it passes."""
    corpus = tomllib.loads((CORPUS / "harmless.toml").read_text())
    for place, programs in ((ONLINE, corpus.pop("online")), (OFFLINE, corpus)):
        for program, lines in programs.items():
            yield from ((line, program, place) for line in lines.splitlines() if line)


HOSTILE, HARMLESS = list(hostile()), list(harmless())


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("node", "node requires a script file."),
        ("node --check", "node requires a script file."),
        ("npx", "npx requires a subcommand."),
        ("git clone", "clone requires a repository."),
        ("bun build", "build requires a file."),
        ("git commit", "commit requires one of: "),
    ],
)
def test_what_is_missing_is_named_as_the_program_calls_it(line: str, reason: str) -> None:
    decision = decide(line)
    assert decision.rule == "option.missing"
    assert reason in decision.reason
    assert decision.hint


def test_the_corpus_is_large_and_covers_every_program(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{len(HOSTILE)} hostile and {len(HARMLESS)} harmless lines")
    assert len(HOSTILE) > 900
    assert len(HARMLESS) > 450
    assert {program for _, program, _ in HARMLESS} == set(AGENT.programs)
    assert {line for line, _ in HOSTILE}.isdisjoint(line for line, _, _ in HARMLESS)


@pytest.mark.parametrize(("line", "rule"), HOSTILE)
def test_a_hostile_line_is_refused(line: str, rule: str) -> None:
    decision = decide(line)
    assert (decision.allowed, decision.rule) == (False, rule)
    assert decision.risk in {Risk.HIGH, Risk.BLOCKED}
    assert decision.reason
    assert decision.paths == ()


@pytest.mark.parametrize(("line", "program", "place"), HARMLESS)
def test_a_harmless_line_passes(line: str, program: str, place: Place) -> None:
    decision = decide(line, place)
    assert (decision.allowed, decision.rule) == (True, f"allow.{program}"), decision.reason


@pytest.mark.parametrize("line", [line for line, _, place in HARMLESS if place.network])
def test_what_needs_the_network_is_refused_without(line: str) -> None:
    decision = decide(line, OFFLINE)
    assert (decision.allowed, decision.rule) == (False, "network.off")


@pytest.mark.parametrize("line", ["git remote add -f x https://example.org/x", "wget", "npm i --nonsense"])
def test_without_a_network_that_is_what_is_said(line: str) -> None:
    assert decide(line, OFFLINE).rule in {"network.off", "option.unlisted"}


@pytest.mark.parametrize(
    "line", ["curl -s localhost:3000/health", "wget -q -O - http://127.0.0.1:5173/", "timeout 5 curl http://localhost"]
)
def test_a_server_of_the_room_is_asked_without_a_network(line: str) -> None:
    assert decide(line, OFFLINE).allowed
    assert WITHOUT_ROOMS.decide(tuple(line.split()), OFFLINE).rule == "network.off"


@pytest.mark.parametrize(
    "line", ["curl http://localhost.example.org/", "curl http://127.0.0.1.nip.io", "curl -H localhost.x a.example.org"]
)
def test_what_only_looks_like_the_loopback_needs_the_network(line: str) -> None:
    assert decide(line, OFFLINE).rule == "network.off"


@pytest.mark.parametrize(
    ("line", "paths"),
    [
        ("cat a b", ("a", "b")),
        ("head -n 3 -- -x", ("-x",)),
        ("grep a b c", ("b", "c")),
        ("grep -fp a", ("p", "a")),
        ("grep --file=p -e x a", ("p", "a")),
        ("grep a -e b c", ("c", "a")),
        ("sort -no out in", ("out", "in")),
        ("sort --output=out in", ("out", "in")),
        ("sed -i s/a/b/ x y", ("x", "y")),
        ("sed -e p x", ("x",)),
        ("awk -v n=1 1 x", ("x",)),
        ("find a b -newer c -name d", ("a", "b", "c")),
        ("tar czf a.tgz b", ("a.tgz", "b")),
        ("tar -xf a.tar -C out in", ("a.tar", "out", "in", "out/a.tar", "out/out", "out/in")),
        ("cp -t to from", ("to", "from")),
        ("touch -r a b", ("a", "b")),
        ("date -r a", ("a",)),
        ("tar -cf a -C b -C c d", ("a", "b", "c", "d", *(f"{at}/{x}" for at in ("b", "b/c", "c") for x in "abcd"))),
        ("zip -r a.zip b -x c", ("a.zip", "b", "c")),
        ("unzip a.zip -d b", ("a.zip", "b")),
        ("node a.js b", ("a.js",)),
        ("node a.js /srv/ws/b", ("a.js", "/srv/ws/b")),
        ("git -C a diff -- b", ("a", "b", "a/a", "a/b")),
        ("git commit -F a -m x b", ("a", "b")),
        ("curl -oa https://example.org", ("a",)),
        ("wget -qO- https://example.org", ()),
        ("esbuild a.js --outfile=b --inject:c", ("a.js", "b", "c")),
        ("npx vite build --outDir a", ("a",)),
        ("npm --prefix a run b", ("a", "a/a")),
        ("cat -", ()),
        ("echo a /b", ()),
        ("basename /a/b", ()),
    ],
)
def test_files_are_named_in_the_decision(line: str, paths: tuple[str, ...]) -> None:
    decision = decide(line)
    assert decision.allowed, decision.reason
    assert decision.paths == paths


@pytest.mark.parametrize(
    ("line", "risk"),
    [
        ("ls", Risk.SAFE),
        ("ls -R", Risk.MODERATE),
        ("rm a", Risk.MODERATE),
        ("rm -rf a", Risk.MODERATE),
        ("cp a b", Risk.SAFE),
        ("cp -r a b", Risk.MODERATE),
        ("cp -f a b", Risk.MODERATE),
        ("tail -f a", Risk.SAFE),
        ("grep -r a .", Risk.MODERATE),
        ("find . -name x", Risk.SAFE),
        ("find . -name x -delete", Risk.MODERATE),
        ("sort -o a b", Risk.MODERATE),
        ("git push", Risk.SAFE),
        ("git push --force origin main", Risk.MODERATE),
        ("git clean -n", Risk.MODERATE),
        ("git stash clear", Risk.MODERATE),
        ("git archive -o a HEAD", Risk.MODERATE),
        ("npx webpack -o a", Risk.MODERATE),
        ("curl -o a https://example.org", Risk.MODERATE),
        ("unlisted", Risk.HIGH),
        ("ls --unlisted", Risk.HIGH),
        ("sudo ls", Risk.BLOCKED),
        ("rm -rf /", Risk.BLOCKED),
    ],
)
def test_the_risk_is_told(line: str, risk: Risk) -> None:
    assert decide(line).risk is risk


def test_an_abbreviation_is_told_to_be_written_in_full() -> None:
    assert "write it in full (--recursive)" in decide("rm --recur a").reason


@pytest.mark.parametrize("path", [".", "./", "", "/srv/ws", "/srv/ws/", "/srv", "/", "//"])
@pytest.mark.parametrize("option", ["-rf", "-d", "--recursive"])
def test_the_workspace_itself_stays(option: str, path: str) -> None:
    assert AGENT.decide(("rm", option, path), OFFLINE).rule == "path.root"


def test_a_folder_in_the_workspace_may_go() -> None:
    assert AGENT.decide(("rm", "-rf", "."), Place(ROOT, ROOT / "sub")).allowed


# --- Redirects, assignments, extra programs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "paths"), [("out.txt", ("out.txt",)), ("/srv/ws/a", ("/srv/ws/a",)), ("/dev/null", ())]
)
def test_a_redirect_in_the_workspace_passes(path: str, paths: tuple[str, ...]) -> None:
    decision = AGENT.decide_file(path, OFFLINE)
    assert (decision.allowed, decision.rule, decision.paths) == (True, "allow.redirect", paths)


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("/etc/passwd", "path.outside"),
        ("/dev/tty", "path.outside"),
        ("/dev/null/x", "path.outside"),
        ("/srv/ws-evil/a", "path.outside"),
        ("", "path.outside"),
        ("../a", "path.parent"),
        ("a/../../b", "path.parent"),
        (".git/hooks/pre-commit", "path.git"),
        ("sub/.Git/config", "path.git"),
        (".git", "path.git"),
    ],
)
def test_a_redirect_elsewhere_is_refused(path: str, rule: str) -> None:
    decision = AGENT.decide_file(path, OFFLINE)
    assert (decision.allowed, decision.rule, decision.paths) == (False, rule, ())


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A target whose files are not here."""

    profile: Profile = AGENT
    files: FileView = field(default_factory=lambda: Unseen(ROOT))
    network: bool = False
    offline: Offline = OFF


@pytest.mark.parametrize(
    ("line", "cwd", "named"),
    [
        ("cat /etc", ".", "/etc"),
        ("cat < /etc", ".", "/etc"),
        ("cat > /dev/tty", ".", "/dev/tty"),
        ("cd /etc && ls", ".", "/etc"),
        ("ls", "/etc", "/etc"),
        ("ls", "../etc", "../etc"),
    ],
)
def test_what_is_outside_is_refused_in_the_same_words_everywhere(line: str, cwd: str, named: str) -> None:
    assert admit(line, Elsewhere(), cwd) == outside(named)


HOME = PurePosixPath("/srv/homes/own")
AT_HOME = Place(ROOT, ROOT / "sub", home=HOME)


@pytest.mark.parametrize(
    "line", ["ls {home}/.cache", "cat {home}/.npmrc", "cp x {home}/y", "mkdir -p {home}/a/b", "{home}/.local/bin/x -v"]
)
def test_the_files_of_the_home_are_the_project_s(line: str) -> None:
    """Without a home of its own a workspace has nothing there."""
    argv = tuple(line.format(home=HOME).split())
    assert AGENT.decide(argv, AT_HOME).allowed
    assert AGENT.decide(argv, OFFLINE).rule == "path.outside"


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("cat /srv/homes/other/.npmrc", "path.outside"),
        ("cat {home}-2/x", "path.outside"),
        ("cat {home}/../other/x", "path.parent"),
        ("rm -rf {home}", "path.root"),
        ("rm -rf {home}/.", "path.root"),
        ("rm -rf /srv/homes", "path.root"),
        ("find {home} -delete", "path.root"),
        ("cp x {home}/.gitconfig-ann", "path.git"),
        ("ln x {home}/.config/git/config", "path.git"),
        ("tee {home}/r/.git/config", "path.git"),
    ],
)
def test_what_is_around_the_home_and_git_s_there_is_not(line: str, rule: str) -> None:
    assert AGENT.decide(tuple(line.format(home=HOME).split()), AT_HOME).rule == rule


def test_a_file_of_the_home_is_redirected_to_but_none_of_git_s() -> None:
    assert AGENT.decide_file(f"{HOME}/x", AT_HOME).allowed
    assert AGENT.decide_file(f"{HOME}/.gitconfig-ann", AT_HOME).rule == "path.git"
    assert AGENT.decide_file(".gitconfig", AT_HOME).allowed


def test_what_watches_files_needs_a_room_where_it_does_not_poll() -> None:
    refusal = WITHOUT_ROOMS.decide(("node", "--watch", "a.js"), OFFLINE)
    assert (refusal.rule, "in a room" in refusal.reason, "polls" in refusal.hint) == ("option.watch", True, True)
    assert AGENT.decide(("node", "--watch", "a.js"), OFFLINE).allowed
    assert WITHOUT_ROOMS.decide(("tsc", "--watch"), OFFLINE).allowed


@pytest.mark.parametrize("line", ["ps aux", "pkill -f vite", "lsof -i :3000", "timeout 5 ps"])
def test_what_can_do_nothing_without_a_room_is_not_offered_there(line: str) -> None:
    refusal = WITHOUT_ROOMS.decide(argv(line), OFFLINE)
    assert (refusal.rule, "GATEPOST_NAMESPACES" in refusal.hint) == ("program.rooms", True)
    assert "pkill" not in WITHOUT_ROOMS.allowed
    assert AGENT.decide(argv(line), OFFLINE).allowed


def test_devices_are_no_files_even_where_the_workspace_is_all() -> None:
    everything = Place(PurePosixPath("/"), PurePosixPath("/"))
    assert not AGENT.decide_file("/dev/sda", everything).allowed
    assert not AGENT.decide_file("dev/sda", everything).allowed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NODE_ENV", "production"),
        ("CI", "1"),
        ("TZ", "Europe/Berlin"),
        ("LANG", "de_DE.UTF-8"),
        ("DEBUG", "app:*"),
        ("CI", ""),
    ],
)
def test_listed_variables_may_be_set(name: str, value: str) -> None:
    decision = AGENT.decide_assignment(name, value)
    assert (decision.allowed, decision.rule) == (True, "allow.environment")


@pytest.mark.parametrize(
    "name", ["PATH", "LD_PRELOAD", "NODE_OPTIONS", "GIT_SSH_COMMAND", "HOME", "npm_config_prefix", "X"]
)
def test_other_variables_may_not_be_set(name: str) -> None:
    assert AGENT.decide_assignment(name, "x").rule == "environment.unlisted"


@pytest.mark.parametrize(
    "value", ["/etc/passwd", ":/etc/passwd", "../x", "a/../../b", "$(id)", "a;b", "a\nb", "() { :; }"]
)
def test_a_variable_holds_no_path_to_elsewhere(value: str) -> None:
    assert AGENT.decide_assignment("TZ", value).rule == "environment.value"


def test_extra_programs_take_any_arguments_but_no_paths_to_elsewhere() -> None:
    extra = AGENT.with_extra(["terraform", "ls"])
    allowed = extra.decide(("terraform", "plan", "-out=x"), OFFLINE)
    assert (allowed.allowed, allowed.rule, allowed.risk) == (True, "allow.terraform", Risk.MODERATE)
    assert extra.decide(("terraform", "/etc"), OFFLINE).rule == "path.outside"
    assert extra.decide(("terraform", "-chdir=../x"), OFFLINE).rule == "path.parent"
    assert extra.decide(("ls", "--unlisted"), OFFLINE).rule == "option.unlisted"
    assert not AGENT.decide(("terraform",), OFFLINE).allowed


@pytest.mark.parametrize("name", ["sudo", "perl", "gcc", ".", "../x", "/bin/x", "A", "", "a b", "-x"])
def test_an_extra_program_is_a_plain_name_that_is_not_blocked(name: str) -> None:
    with pytest.raises(ProfileError):
        AGENT.with_extra([name])


def test_the_terminal_joins_nothing_and_sets_nothing() -> None:
    terminal = load_profile("terminal")
    assert terminal.operators == terminal.environment == frozenset()
    assert AGENT.operators == {
        "|",
        "&&",
        "||",
        ";",
        "&",
        ">",
        ">>",
        "<",
        "2>&1",
        "&>",
        "<<",
        "(",
        "$",
        "$(",
        "for",
        "{,}",
        "cd",
    }
    assert terminal.decide_assignment("CI", "1").rule == "environment.unlisted"


@pytest.mark.parametrize(
    ("line", "guarded"),
    [
        ("xargs wc -l", "xargs wc -l --"),
        ("xargs -0 -n 5 grep -n foo", "xargs -0 -n 5 grep -n foo --"),
        ("xargs grep -e a -- b", "xargs grep -e a -- b"),
        ("xargs git add", "xargs git add --"),
        ("xargs -I{} cp -v {} {}.bak", "xargs -I{} cp -v -- {} {}.bak"),
        ("xargs -I{} cp a{} dest", "xargs -I{} cp a{} dest"),
        ("xargs echo", "xargs echo"),
        ("xargs npx eslint", "xargs npx eslint"),
        ("xargs awk '{print}'", "xargs awk '{print}'"),
        ("wc -l", "wc -l"),
    ],
)
def test_words_that_are_known_later_are_no_options(line: str, guarded: str) -> None:
    assert AGENT.guarded(argv(line)) == argv(guarded)
    assert AGENT.decide(argv(guarded), OFFLINE).allowed


@pytest.mark.parametrize(
    "line", ["xargs rm", "xargs rm -rf", "xargs -I{} rm -r -- {}", "xargs -I% rm -r -- ./%", "xargs -0 rm -r --"]
)
def test_deleting_what_is_only_known_later_is_at_high_risk(line: str) -> None:
    assert decide(line).risk is Risk.HIGH


@pytest.mark.parametrize(
    ("line", "cwd", "rule"),
    [
        ("rm -rf *", ".", "path.root"),
        ("rm -rf ./*", ".", "path.root"),
        ("rm -rf -- *", ".", "path.root"),
        ("rm -rf */", ".", "path.root"),
        ("rm -rf ?*", ".", "path.root"),
        ("rm -rf a ../* b", "src", "path.root"),
        ("rm -rf /srv/ws/*", "src", "path.root"),
        ("rm -rf {a,*}", ".", "path.root"),
        ("X='*'; rm -rf $X", ".", "path.root"),
        ("cd .. && rm -rf *", "src", "path.root"),
        ("rm -rf *", "src", "allow.rm"),
        ("rm -rf *.log dist/*", ".", "allow.rm"),
        ("rm -rf '*'", ".", "allow.rm"),
        ("find . -delete", "src", "allow.find"),
        ("cd src && find -delete", ".", "allow.find"),
        ("find .. -delete", "src", "path.root"),
        ("rm -rf ./**/*", ".", "path.root"),
        ("rm -rf src/**/*", ".", "allow.rm"),
        ("truncate -s 0 *", ".", "path.root"),
        ("find . -name '*' -delete", ".", "path.root"),
        ("find . -iname '**' -type f -delete", ".", "path.root"),
        ("find . -path './*' -delete", ".", "path.root"),
        ("find . -regex '.*' -delete", ".", "path.root"),
        ("find . -size +0 -delete", ".", "path.root"),
        ("find . ! -name x -delete", ".", "path.root"),
        ("find . -not -name x -exec rm {} +", ".", "path.root"),
        ("find . -name x -o -delete", ".", "path.root"),
        ("find . -name '*' -name '*.log' -delete", ".", "allow.find"),
        ("find . ! -path './node_modules/*' -name '*.log' -delete", ".", "allow.find"),
        ("find . \\( -name a -o -name b \\) -delete", ".", "allow.find"),
    ],
)
def test_a_workspace_is_not_emptied(line: str, cwd: str, rule: str) -> None:
    verdict = admit(line, Elsewhere(), cwd)
    decision = verdict if isinstance(verdict, Decision) else verdict.verdicts[-1].decision
    assert decision.rule == rule
    assert decision.risk is (Risk.HIGH if rule == "path.root" else Risk.MODERATE)


# --- Whatever is given ------------------------------------------------------------------------------------------------

NAMES = sorted(AGENT.programs)
OPTIONS_UNKNOWN = {name for name, program in AGENT.programs.items() if program.any_arguments}  # tools of the project
WORDS_ONLY = {
    "echo",
    "expr",
    "printf",
    "test",
    "[",
    "true",
    "yes",
    "false",
} | OPTIONS_UNKNOWN  # whose arguments are no options
WORDS = sorted(
    {word for line, _ in HOSTILE for word in argv(line)} | {word for line, _, _ in HARMLESS for word in argv(line)}
)
TOKENS = st.one_of(
    st.sampled_from(WORDS), st.text(max_size=12), st.from_regex(r"--?[a-zA-Z0-9]{1,12}(=.{0,6})?", fullmatch=True)
)


@given(st.sampled_from(NAMES), st.lists(TOKENS, max_size=8), st.booleans())
@example("tar", ["-f"], True)
@example("tar", [""], True)
def test_any_arguments_get_a_verdict_and_allowed_files_are_inside(name: str, tokens: list[str], network: bool) -> None:
    decision = AGENT.decide((name, *tokens), Place(ROOT, ROOT / "sub", network))
    assert decision.reason
    assert decision.allowed == decision.rule.startswith("allow.")
    for path in decision.paths:
        full = PurePosixPath(os.path.normpath(ROOT / "sub" / path))
        assert full.is_relative_to(ROOT)


@given(st.text(max_size=20), st.text(max_size=20))
def test_files_and_assignments_get_a_verdict(first: str, second: str) -> None:
    decision = AGENT.decide_file(first, OFFLINE)
    assert decision.allowed == decision.rule.startswith("allow.")
    assert AGENT.decide_assignment("TZ", second).reason
    assert not AGENT.decide_assignment(first, second).allowed or first in AGENT.environment


def options_of(program: Program) -> set[str]:
    return set(program.options).union(*map(options_of, program.subcommands.values()))


@given(
    st.sampled_from([(line, program, place) for line, program, place in HARMLESS if program not in WORDS_ONLY]),
    st.from_regex(r"--[a-z][a-z0-9-]{1,20}(=[a-z./]{0,8})?", fullmatch=True),
)
def test_an_unlisted_option_is_refused_wherever_nothing_was_allowed_yet(
    line: tuple[str, str, Place], option: str
) -> None:
    words, program, place = argv(line[0]), line[1], line[2]
    assume(re.split("[=:]", option)[0] not in options_of(AGENT.programs[program]))
    assert not AGENT.decide((program, option, *words[1:]), place).allowed


@given(
    st.sampled_from(sorted((name, option) for name in NAMES for option in options_of(AGENT.programs[name]))), st.data()
)
def test_an_abbreviated_option_is_refused(listed: tuple[str, str], data: st.DataObject) -> None:
    name, option = listed
    assume(option.startswith("--") and len(option) > 4)
    short = option[: data.draw(st.integers(3, len(option) - 1))]
    assume(short not in options_of(AGENT.programs[name]))
    assert not AGENT.decide((name, short, "a"), ONLINE).allowed
    assert not AGENT.decide((name, "a", short), ONLINE).allowed or name in {
        *WORDS_ONLY,
        "awk",
        "node",
        "yarn",
        "pnpm",
        "bun",
    }


def elsewhere(line: str) -> Iterator[tuple[str, ...]]:
    """The line with each of its files replaced by one outside."""
    words, paths = argv(line), set(decide(line).paths)
    for position, word in enumerate(words[1:], 1):
        if word in paths:
            yield (*words[:position], "/etc/passwd", *words[position + 1 :])


@pytest.mark.parametrize("line", [line for line, _, _ in HARMLESS])
def test_a_file_outside_in_place_of_any_file_is_refused(line: str) -> None:
    for changed in elsewhere(line):
        assert not AGENT.decide(changed, ONLINE).allowed, changed


# --- Profiles that cannot be used ------------------------------------------------------------------------------------

HEAD = "name = 'x'\nsummary = 'x'\n"
LIMITS = "[limits]\ncharacters = 10\narguments = 1\n"
PROGRAM = "[programs.x]\nsummary = ''\n"


@pytest.mark.parametrize(
    "name",
    ["PATH", "LD_PRELOAD", "NODE_OPTIONS", "GIT_DIR", "BASH_ENV", "ENV", "IFS", "PYTHONPATH", "PERL5LIB", "RUBYOPT",
     "npm_config_prefix", "NPM_CONFIG_PREFIX", "HOME", "HTTPS_PROXY", "https_proxy", "TAR_OPTIONS", "EDITOR", "a b", "", "A="],
)  # fmt: skip
def test_a_variable_that_starts_programs_cannot_be_listed(name: str) -> None:
    with pytest.raises(ProfileError, match=r"profile\.environment"):
        Profile.from_toml(f"{HEAD}environment = ['{name}']\n{LIMITS}")


def test_where_programs_of_the_workspace_run_python_may_load_its_files() -> None:
    assert Profile.from_toml(f"{HEAD}scripts = 'moderate'\nenvironment = ['PYTHONPATH']\n{LIMITS}").environment
    assert AGENT.decide_assignment("PYTHONPATH", ".:src").allowed
    assert AGENT.decide_assignment("PYTHONPATH", "../src").rule == "environment.value"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEAD + "operators = ['|&']\n" + LIMITS, "profile.operators"),
        (HEAD + "operators = '|'\n" + LIMITS, "profile.operators"),
        (HEAD + LIMITS + "[kinds]\ntext = 'x'", "profile.kinds.text"),
        (HEAD + LIMITS + "[kinds]\na = '('", "profile.kinds.a"),
        (HEAD + LIMITS + "[kinds]\na = {pattern = 'x', role = 'script'}", "profile.kinds.a.role"),
        (HEAD + LIMITS + "[kinds]\na = {role = 'path'}", "profile.kinds.a.pattern"),
        (HEAD + LIMITS + PROGRAM + "quirks = ['odd']", "profile.programs.x.quirks"),
        (HEAD + LIMITS + PROGRAM + "first = 'files'", "profile.programs.x.first"),
        (HEAD + LIMITS + PROGRAM + "shapes = ['(']", "profile.programs.x.shapes"),
        (HEAD + LIMITS + PROGRAM + "shapes = ['<text>']", "profile.programs.x.shapes"),
        (HEAD + LIMITS + PROGRAM + "moderate = ['-f']", "profile.programs.x.moderate"),
        (HEAD + LIMITS + PROGRAM + "online = ['-f']", "profile.programs.x.online"),
        (HEAD + LIMITS + PROGRAM + "unless = ['-f']", "profile.programs.x.unless"),
        (HEAD + LIMITS + PROGRAM + "requires = {'-f' = ['-g']}", "profile.programs.x.requires"),
        (HEAD + LIMITS + PROGRAM + "network = 'yes'", "profile.programs.x.network"),
        (HEAD + LIMITS + PROGRAM + "[programs.x.subcommands.y]\nflag = []", "unknown key 'flag'"),
        (HEAD + LIMITS + PROGRAM + "[programs.x.subcommands.y]\nlike = 'z'", "profile.programs.x.subcommands.y.like"),
        (HEAD + LIMITS + "[programs.x]\nlike = 'y'\n" + PROGRAM.replace("x", "y"), "profile.programs.x.like"),
        (HEAD + LIMITS + PROGRAM + "[programs.y]\nlike = 'x'\nflags = []", "unknown key 'flags'"),
    ],
)
def test_a_profile_that_cannot_be_used_names_the_place(text: str, place: str) -> None:
    with pytest.raises(ProfileError) as raised:
        Profile.from_toml(text)
    assert place in str(raised.value)
