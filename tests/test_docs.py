"""The documents tell the truth: settings, messages, routes, rules and links."""

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import run
from backend.core.recording import messages
from backend.runtime.agent_settings import AgentSettings
from backend.runtime.settings import Settings
from tests import preloaded
from tests.conftest import StartServer
from tests.needs import need
from tests.serving import Server

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "bench/README.md",
    ROOT / "runner/README.md",
]
RULE = re.compile(
    r'"((?:attach|auth|command|django|environment|execution|frame|hook|host|idempotency|limits|network|notification|option|origin|path|program|project'
    r'|protection|recording|request|role|runner|schedule|script|server|stdin|storage|syntax|target|terminal)\.[a-z_]+)"'
)


# What may not come back into texts, with what to write instead.
AVOIDED = {
    r"wanted": "required, expected",
    r"anew": "again",
    r"beside": "next to, in addition to",
    r"whoever|somebody|anybody": "the caller, a client, the user, no client; or the passive",
    # Quoted on both sides it is the name of a user of the machine, the default of GATEPOST_RUN_AS.
    r"(?<![`\"])nobody|nobody(?![`\"])": "no client, no user; or the passive",
    r"noted": "recorded, stored",
    r"(?:is|are|was|were|be|been) told": "is reported, is sent",
    r"tells": "reports, returns, shows",
    r"(?:not|no longer)(?: any more,?| or not any more,?)? good|good any (?:more|longer)": "invalid, expired, revoked",
    r"not whole|is whole": "intact, complete; incomplete, corrupt",
    r"handed in": "passed in",
    r"glued": "attached",
    r"lies": "is",
}
# The rooms whose texts the words are looked for in: folders and files.
REVISED = ["backend", "frontend", "docs", "README.md", "CHANGELOG.md", "bench", "run.py", "scripts", "runner"]
SCRIPT_TEXT = re.compile(r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`""", re.S)

FIELD = re.compile(r'"[a-z_]+"')  # the name of a field, which stays as it was released
PLACEHOLDER = re.compile(r"\{[^{}]*\}")  # names of the program within a text
# From Python 3.12 on, the text of an f-string is a token of its own.
TEXT_TOKENS = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def table(page: str) -> dict[str, list[str]]:
    """The rows of the tables of a page, by the name in their first cell."""
    rows = re.findall(r"^\| (.+?) \|(.+)\|$", (ROOT / page).read_text(), re.M)
    return {name.strip("`"): [cell.strip() for cell in rest.split("|")] for name, rest in rows}


def shown(default: object) -> str:
    if default in (None, (), ""):
        return ""
    if isinstance(default, tuple):
        default = ",".join(default)
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def test_every_setting_stands_in_the_table_with_its_default_and_meaning() -> None:
    rows = table("docs/settings.md")
    fields = [*Settings.model_fields.values(), *AgentSettings.model_fields.values()]
    for field in fields:
        assert rows[str(field.alias)] == [shown(field.default), field.description]
    assert set(rows) - {"name", "---"} == {str(field.alias) for field in fields}


def test_the_speed_in_the_readme_is_the_speed_that_was_measured() -> None:
    (passage,) = re.findall(r"^- \*\*Fast\.\*\*.+$", (ROOT / "README.md").read_text(), re.M)
    rows = re.findall(r"^\| `seq 1 1000000`.+? \|.*?, (\d+)x ", (ROOT / "docs/performance.md").read_text(), re.M)
    assert re.findall(r"(\d+) times", passage) == rows[:2]


def kinds(union: object) -> set[str]:
    return {
        kind for member in get_args(union) for kind in get_args(get_args(member)[0].model_fields["type"].annotation)
    }


def test_every_message_stands_in_the_protocol() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    client, server = page.split("## From the server")
    for kind in kinds(messages.ClientMessage):
        assert re.search(rf"^\| .*`{kind}`", client, re.M), kind
    for kind in kinds(messages.ServerMessage):
        assert re.search(rf"^\| .*`{kind}`", server, re.M), kind


def test_every_field_of_a_message_stands_in_the_protocol() -> None:
    page = (ROOT / "docs/protocol.md").read_text()
    for union in (messages.ClientMessage, messages.ServerMessage):
        for member in get_args(union):
            for name in get_args(member)[0].model_fields:
                assert f"`{name}`" in page, name


def test_every_rule_stands_in_the_list() -> None:
    listed = set(table("docs/rules.md"))
    sources = "".join(path.read_text() for path in (ROOT / "backend").rglob("*.py"))
    policies = "".join(path.read_text() for path in (ROOT / "backend/policies").glob("*.toml"))
    found = set(RULE.findall(sources)) | set(RULE.findall(policies))
    assert len(found) > 30
    assert found - listed == set()
    assert {rule for rule in listed if "." in rule and not rule.isupper()} - found == {"allow.NAME", "blocked.NAME"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_the_policy_example_prints_what_the_page_says() -> None:
    page = (ROOT / "docs/rules.md").read_text()
    command, *said = re.findall(r"^    (?:\$ )?(.+)$", page[page.index("    $ python3 run.py policy") :], re.M)[:3]
    done = preloaded.run(shlex.split(command)[2:], ROOT, {"PATH": os.environ["PATH"]})
    assert done.stdout.splitlines() == said


def test_every_command_line_of_a_page_starts_without_a_python_of_its_own() -> None:
    """Who has nothing but `python3` and the project has neither `python` nor the packages that the backend imports."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        own = [line for line in page.read_text().splitlines() if not line.startswith("    docker exec ")]
        shown = [line for line in own if line.startswith("    ")]
        assert "python -m backend" not in "\n".join(shown if page.name == "containers.md" else own), page.name


def test_one_module_knows_how_verbs_are_run() -> None:
    """An image or a package has no run.py, so a text that names it would lead nowhere there."""
    texts = [*(ROOT / "backend").rglob("*.py"), *(ROOT / "frontend/app").glob("*.js"), ROOT / "frontend/index.html"]
    naming = [path.name for path in texts if re.search(r"run\.py|python -m backend", path.read_text())]
    assert sorted(naming) == ["__main__.py", "command_line.py"]


def printed(*words: str) -> str:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout


def test_a_port_that_is_taken_is_told_in_words(start_server: StartServer) -> None:
    server = start_server()
    words = ["serve", "--port", str(server.port), "--data-dir", str(server.data_dir)]
    done = preloaded.run(words, ROOT, {"PATH": os.environ["PATH"]})
    assert done.returncode != 0
    assert f"gatepost: cannot listen on 127.0.0.1:{server.port}. Try another port: --port 8001" in done.stderr


def test_run_py_names_the_verbs_and_the_version() -> None:
    assert printed("run.py", "--version").startswith("gatepost ")
    verbs = re.findall(r"^    ([a-z]+) ?", printed("-m", "backend", "--help"), re.M)
    assert "token" in verbs
    assert all(verb in run.USAGE for verb in verbs)


def test_the_transcript_of_the_readme_has_the_fields_of_today() -> None:
    lines = re.findall(r"^    (\{.+\})$", (ROOT / "README.md").read_text(), re.M)
    shown = {message["type"]: set(message) for message in map(json.loads, lines) if "type" in message}
    optional = {"commands", "metadata_only", "id", "dry_run", "background"}
    for message in (messages.Started, messages.Complete):
        kind = message.model_fields["type"].default
        assert shown[kind] - {"dry_run"} == set(message.model_fields) - optional


def test_the_api_of_the_readme_can_be_pasted_as_it_is(start_server: StartServer) -> None:
    need(shutil.which("curl"), "curl")
    section = (ROOT / "README.md").read_text().partition("## Accounts and the API")[2].partition("\n## ")[0]
    lines = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    assert json.loads(pasted(start_server(), textwrap.dedent(lines))[-1])["stdout"] == "3\n"


def pasted(server: Server, script: str) -> list[str]:
    """What lines of a page print, next to a server that runs."""
    (server.folder / "run.py").symlink_to(ROOT / "run.py")
    env = {"PATH": os.environ["PATH"], "HOME": str(server.folder), "GATEPOST_DATA_DIR": str(server.data_dir)}
    script = script.replace("http://127.0.0.1:8000", server.url)
    done = subprocess.run(
        ["bash", "-e"], cwd=server.folder, env=env, input=script, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_the_audit_of_the_page_can_be_pasted_as_it_is(start_server: StartServer) -> None:
    lines = re.findall(r"^    \$ (.+)$", (ROOT / "docs/audit.md").read_text(), re.M)
    assert len(lines) > 4
    server = start_server()
    script = "\n".join(["python3 run.py user add ann --no-password", *lines])
    # run.py goes to the folder of the project, where the page has it stand already.
    script = script.replace("data/", f"{server.data_dir}/").replace("export.jsonl", f"{server.folder}/export.jsonl")
    said = pasted(server, script)
    assert said.count("The audit is as it was written.") == 3
    assert "0 recordings are unchanged, 0 no longer exist" in said
    assert [json.loads(line)["verified"] for line in said if line.startswith("{")] == [True]


def texts(suffix: str, source: str) -> Iterator[str]:
    """What people read in a file: comments and strings of programs, all of a page or a policy."""
    match suffix:
        case ".py":
            found = tokenize.generate_tokens(io.StringIO(source).readline)
            strings = (token.string for token in found if token.type in TEXT_TOKENS)
            yield from (PLACEHOLDER.sub("{}", string) for string in strings if not FIELD.fullmatch(string))
        case ".js" | ".c":
            yield from (PLACEHOLDER.sub("{}", text) for text in SCRIPT_TEXT.findall(source))
        case _:
            yield source


def avoided(suffix: str, source: str) -> list[str]:
    """The words of a text that are to be replaced, each with its replacement."""
    joined = " ".join(" ".join(texts(suffix, source)).replace("#", " ").split())
    found = (
        (match[0], better)
        for word, better in AVOIDED.items()
        for match in re.finditer(rf"\b(?:{word})\b", joined, re.I)
    )
    return [f"{word!r}: write {better}" for word, better in found]


def revised() -> list[Path]:
    roots = [ROOT / each for each in REVISED]
    found = [path for root in roots for path in (root.rglob("*") if root.is_dir() else [root])]
    texts = (path for path in found if path.suffix in {".py", ".toml", ".md", ".html", ".js", ".c"})
    return sorted(path for path in texts if "vendor" not in path.parts)


def test_every_revised_room_exists() -> None:
    assert [each for each in REVISED if not (ROOT / each).exists()] == []


@pytest.mark.parametrize("path", revised(), ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_use_the_words_of_the_field(path: Path) -> None:
    assert avoided(path.suffix, path.read_text()) == []


@pytest.mark.parametrize(
    ("suffix", "source", "count"),
    [
        (".py", '"""A token is wanted."""', 1),
        (".py", "x = 1  # nobody is told", 2),
        (".py", 'raise ValueError(f"{name} is not good any more")', 1),
        (".py", '"""Nobody waits, and is seen by nobody."""', 2),
        (".py", "# the program is\n# told again", 1),
        (".py", 'run_as: str = Field("nobody", description="User that runs commands")', 0),
        (".py", "wanted = self.noted", 0),
        (".py", 'fields = {"noted": place}', 0),
        (".py", 'f"{wanted} of {count}"', 0),
        (".js", "const beside = wanted; // made anew", 1),
        (".js", "show(`${name} is wanted`)", 1),
        (".js", "wanted(beside)", 0),
        (".c", "int wanted; /* nobody is told */", 2),
        (".md", "The server tells whoever asks.", 2),
        (".md", "It is required again. The footnoted part is besides the point.", 0),
        (".md", "Commands run as `nobody`; nobody waits.", 1),
        (".toml", 'refused = { "-c" = "its value is glued on" }', 1),
    ],
)
def test_a_word_to_avoid_is_found_in_texts_and_not_in_names(suffix: str, source: str, count: int) -> None:
    assert len(avoided(suffix, source)) == count


def test_the_repository_names_no_machine_and_no_registry() -> None:
    names = "|".join(["/wo" + "rk/", "/ro" + "ot/", "py" + r"pi\.org", "python" + "hosted", "npm" + r"js\.(?:org|com)"])
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    for name in files:
        path = ROOT / name
        if path.suffix not in {".png", ".svg"} and path.exists():
            assert not re.search(names, path.read_text(errors="replace")), name
