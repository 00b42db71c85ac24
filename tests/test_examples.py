"""The examples of the agent API's page, run as they are written, in order, in one shell, against a real server."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.needs import need
from tests.serving import ROOT, Server, start, wait_until

PAGE = ROOT / "docs/agent-api.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
RUNNERS = {"sh": "source", "python": "python3", "js": "node"}
ENDINGS = {"sh": "sh", "python": "py", "js": "mjs"}
SHOWN = {"text", "json"}
RUN_ELSEWHERE = {"sql"}  # the tests of the tables run these
PATIENCE = 120  # seconds for the whole page

# What differs from run to run, as the page writes it and as it may come.
VARYING = {
    r"[0-9A-HJKMNP-TV-Z]{26}": r"[0-9A-HJKMNP-TV-Z]{26}",
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z",
    r'"(?:average_duration_|duration_|)ms":[\d.]+': r'"[a-z_]*ms":[\d.]+',
    r'"waiting_bytes":\d+': r'"waiting_bytes":\d+',
    r'"protection":"L\d"': r'"protection":"L\d"',
    r"127\.0\.0\.1:8000": r"127\.0\.0\.1:\d+",
    "…": r"[^\n]*",
}

# Runs each file of a block with its own output and exit code. A failure of any command in a block counts for it.
SHELL = """
set -E
trap 'failed=$?' ERR
run() { failed=0; "$1" "$2" > "$2.out" 2> "$2.err"; echo "$failed" > "$2.exit"; }
"""


@dataclass(frozen=True, slots=True)
class Example:
    """A block that is run, and the output that is shown below it."""

    number: int
    language: str
    code: str
    shown: str | None

    @property
    def name(self) -> str:
        return f"{self.number:02}.{ENDINGS[self.language]}"


def examples(page: str) -> list[Example]:
    """The blocks of a page, in order."""
    found: list[Example] = []
    for language, code in FENCE.findall(page):
        if language in RUNNERS:
            found.append(Example(len(found), language, code, None))
        elif language not in RUN_ELSEWHERE:
            assert language in SHOWN, language
            last = found.pop()
            assert last.shown is None, f"two outputs after {last.name}"
            found.append(Example(last.number, last.language, last.code, code))
    return found


def pattern(shown: str) -> str:
    """A regular expression for an output as the page shows it; a line that is `…` stands for any lines."""
    return "".join(r"(?:[^\n]*\n)*" if line == "…\n" else _line(line) for line in shown.splitlines(keepends=True))


def _line(line: str) -> str:
    parts = re.split(f"({'|'.join(VARYING)})", line)
    return "".join(
        next((seen for written, seen in VARYING.items() if re.fullmatch(written, part)), re.escape(part))
        for part in parts
    )


BEGIN, *EXAMPLES = examples(PAGE.read_text())


@dataclass(frozen=True, slots=True)
class Session:
    """The page after it was run."""

    server: Server
    folder: Path

    def result(self, example: Example) -> tuple[str, str]:
        """Exit code and output of a block."""
        base = self.folder / example.name
        return Path(f"{base}.exit").read_text().strip(), Path(f"{base}.out").read_text()

    def said(self, example: Example) -> str:
        return Path(f"{self.folder / example.name}.err").read_text()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """Start the server as the page says, then run all other blocks in one Bash."""
    for tool in ("bash", "curl", "node"):
        need(shutil.which(tool), tool)
    folder = tmp_path_factory.mktemp("page")
    folder.chmod(0o711)
    (folder / "run.py").symlink_to(ROOT / "run.py")
    server = start(folder, {"HOME": str(folder)}, BEGIN.code.split())
    try:
        link = wait_until(lambda: re.search(r"http\S+#login=\S+", server.stderr), "the login link")[0]
        run_page(EXAMPLES, server, folder, link)
        yield Session(server, folder)
    finally:
        server.stop()


def run_page(
    examples: list[Example],
    server: Server,
    folder: Path,
    link: str = "",
    variables: Mapping[str, str] = {},
    patience: float = PATIENCE,
) -> None:
    """Run the blocks of a page in one Bash, next to a server, with the variables that an earlier page has set."""
    script = [SHELL]
    for example in examples:
        (folder / example.name).write_text(example.code)
        script.append(f"run {RUNNERS[example.language]} {example.name}\n")
    (folder / "page.sh").write_text("".join(script))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "BASE": server.url,
        "GATEPOST_DATA_DIR": str(server.data_dir),
        **variables,
    }
    subprocess.run(
        ["bash", "page.sh"],
        cwd=folder,
        env=environment,
        input=f"{link}\n",
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )


def test_the_start_prints_what_the_page_says(session: Session) -> None:
    assert BEGIN.code == "python3 run.py\n"
    assert BEGIN.shown
    wait_until(lambda: "curl" in session.server.stderr, "the welcome")
    assert re.search(pattern(BEGIN.shown), session.server.stderr)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_an_example_does_what_the_page_says(session: Session, example: Example) -> None:
    if "wscat" in example.code:
        need(shutil.which("wscat"), "wscat (npm install -g wscat)")
    check(session, example)


def check(session: Session, example: Example) -> None:
    """A block succeeded, and printed what is shown below it."""
    code, out = session.result(example)
    assert code == "0", out + session.said(example)
    if example.shown is not None:
        lines = out if out.endswith("\n") or not out else f"{out}\n"
        assert re.fullmatch(pattern(example.shown), lines), f"{lines}\n--- shown\n{example.shown}"


def test_most_examples_show_their_output() -> None:
    assert sum(example.shown is not None for example in EXAMPLES) > 20
    assert {example.language for example in EXAMPLES} == set(RUNNERS)


def test_every_route_of_the_api_stands_in_the_table(session: Session) -> None:
    described = session.server.get("/openapi.json").json["paths"]
    routes = {f"{method.upper()} {path}" for path, methods in described.items() for method in methods}
    listed = re.findall(r"^\| `([A-Z]+ /api/[^`]+)` \|", PAGE.read_text(), re.M)
    assert sorted(listed) == sorted(route for route in routes if " /api/" in route)


def test_a_block_that_fails_in_the_middle_is_seen(tmp_path: Path) -> None:
    (tmp_path / "block").write_text("cat nothing-of-this-name\necho after\n")
    subprocess.run(["bash", "-c", f"{SHELL}\nrun source block"], cwd=tmp_path, check=True)
    assert (tmp_path / "block.exit").read_text() == "1\n"
    assert (tmp_path / "block.out").read_text() == "after\n"


def test_an_output_of_another_kind_is_no_match() -> None:
    shown = '{"id":"01M7YS3CZFWJC6KCHHCFFW0SFH","duration_ms":6,"status":"succeeded",…}\n'
    assert re.fullmatch(
        pattern(shown), '{"id":"01M7YS4MC92RYKDEQAMSMR4XVY","duration_ms":112,"status":"succeeded","a":1}\n'
    )
    assert not re.fullmatch(pattern(shown), '{"id":"01M7YS4MC92RYKDEQAMSMR4XVY","duration_ms":112,"status":"failed"}\n')
