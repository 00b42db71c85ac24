"""The workspace: globs, folders and links."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from backend.core.decisions import Decision
from backend.core.language.parser import Script, parse
from backend.executors.local.workspace import EXPANSION_LIMIT, FolderView, prepare_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> FolderView:
    root = tmp_path / "ws"
    for name in ("a.txt", "b.txt", ".hidden", "sub/c.txt", "sub/d.md", "-rf"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (tmp_path / "ws-evil").mkdir()
    (tmp_path / "ws-evil/secret.txt").touch()
    (root / "out").symlink_to(tmp_path / "ws-evil")
    (root / "in").symlink_to(root / "sub")
    return FolderView(root)


def expand(workspace: FolderView, line: str, cwd: str = ".") -> list[str]:
    script, folder = parse(line), workspace.enter(cwd)
    assert isinstance(script, Script)
    assert not isinstance(folder, Decision)
    words = workspace.expand(script.words, folder)
    assert not isinstance(words, Decision)
    return list(words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("*.txt", ["a.txt", "b.txt"]),
        ("[ab].txt sub/?.md", ["a.txt", "b.txt", "sub/d.md"]),
        ("s*/*.txt", ["sub/c.txt"]),
        ("'*.txt'", ["*.txt"]),
        ("*.nothing", ["*.nothing"]),
        (".h*", [".hidden"]),
        ("-*", ["./-rf"]),
        ("in/*", ["in/c.txt", "in/d.md"]),
        ("out/*", ["out/*"]),
        ("../*", ["../*"]),
        ("/etc/*", ["/etc/*"]),
    ],
)
def test_globs_expand_inside_the_workspace(workspace: FolderView, line: str, words: list[str]) -> None:
    assert expand(workspace, line) == words


def test_globs_start_in_the_folder_of_the_command(workspace: FolderView) -> None:
    assert expand(workspace, "*.txt", "sub") == ["c.txt"]


def test_too_many_matches_are_refused(workspace: FolderView) -> None:
    for number in range(EXPANSION_LIMIT + 1):
        Path(workspace.root, f"many-{number}").touch()
    script = parse("ls many-*")
    assert isinstance(script, Script)
    refusal = workspace.expand(script.words, workspace.root)
    assert isinstance(refusal, Decision)
    assert refusal.rule == "limits.expansion"


@pytest.mark.parametrize(
    ("cwd", "rule"),
    [
        ("..", "path.outside"),
        ("out", "path.outside"),
        ("/etc", "path.outside"),
        ("none", "path.missing"),
        ("a.txt", "path.missing"),
        ("x\x00y", "path.outside"),
        ("../ws-evil", "path.outside"),
    ],
)
def test_a_folder_outside_or_missing_is_refused(workspace: FolderView, cwd: str, rule: str) -> None:
    refusal = workspace.enter(cwd)
    assert isinstance(refusal, Decision)
    assert refusal.rule == rule


def test_links_are_followed_to_see_where_they_lead(workspace: FolderView) -> None:
    assert workspace.check(("a.txt", "in/c.txt", "new.txt"), workspace.root) is None
    refusal = workspace.check(("a.txt", "out/secret.txt"), workspace.root)
    assert refusal
    assert refusal.rule == "path.link"


@pytest.mark.parametrize(
    ("path", "rule"),
    [
        ("{home}/.npmrc", ""),
        ("{home}/new/x", ""),
        ("{home}/within", ""),
        ("{home}/away/x", "path.link"),  # to the home of another project
        ("{home}/back/a.txt", "path.link"),  # each path stays in the folder that it names
        ("to-home/.npmrc", "path.link"),
        ("{home}/within/../../other/.npmrc", "path.link"),
        ("{home}/../other/.npmrc", "path.link"),
    ],
)
def test_files_of_the_home_are_named_and_no_other_s(workspace: FolderView, path: str, rule: str) -> None:
    home, other = (workspace.root.parent / "homes" / name for name in ("own", "other"))
    for each in (Path(home), Path(other)):
        each.mkdir(parents=True)
        (each / ".npmrc").write_text("a=b\n")
    Path(home, "within").symlink_to(".npmrc")
    Path(home, "away").symlink_to(other)
    Path(home, "back").symlink_to(workspace.root)
    Path(workspace.root, "to-home").symlink_to(home)
    view = workspace.with_home(Path(home))
    refusal = view.check((path.format(home=home),), view.root)
    assert (refusal.rule if refusal else "") == rule
    words = expand(view, f"{home}/.n* {home}/away/.n* {home}/../other/.n*")
    assert words == [f"{home}/.npmrc", f"{home}/away/.n*", f"{home}/../other/.n*"]


def test_a_new_workspace_has_something_to_look_at(tmp_path: Path) -> None:
    prepare_workspace(tmp_path / "new")
    assert (tmp_path / "new/welcome.txt").read_text()
    (tmp_path / "new/welcome.txt").unlink()
    prepare_workspace(tmp_path / "new")
    assert not (tmp_path / "new/welcome.txt").exists()


def test_servers_that_start_at_the_same_time_share_a_new_workspace(tmp_path: Path) -> None:
    together = Barrier(8)

    def start(number: int) -> None:
        together.wait(30)
        prepare_workspace(tmp_path / str(number // 8) / "new")

    with ThreadPoolExecutor(8) as servers:
        list(servers.map(start, range(8 * 20)))
    assert len(list(tmp_path.glob("*/new/welcome.txt"))) == 20


@pytest.mark.parametrize("glob", ["*" * 60 + "x", "*a" * 40 + "b", "*?" * 40 + "x", "[!z]*" * 40 + "0"])
def test_no_glob_takes_long(workspace: FolderView, glob: str) -> None:
    """With backtracking any of these takes longer than anybody waits."""
    Path(workspace.root, "a" * 250).touch()
    assert expand(workspace, glob) == [glob]


def test_a_search_through_many_folders_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "e").mkdir()
    (tmp_path / "e/n").symlink_to(".")
    (tmp_path / "d").mkdir()
    for number in range(300):
        (tmp_path / f"d/l{number}").symlink_to("../e")
    workspace = FolderView(tmp_path)
    script = parse("echo d/*" + "/n*" * 36 + "/zz*")
    assert isinstance(script, Script)
    refusal = workspace.expand(script.words, workspace.root)
    assert isinstance(refusal, Decision)
    assert refusal.rule == "limits.expansion"
