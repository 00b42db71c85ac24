"""What tools store is in a home next to the workspace: nothing of it is in a repository, and it stays with its project."""

import json
import shutil
from collections.abc import Iterator

import pytest

from backend.executors.local.outside import SEARCH_PATH
from tests.api.world import World, new_project, running_world
from tests.needs import need

# Stores what tools store, each where its variable says.
TOOL = """
const fs = require('fs'), os = require('os'), path = require('path')
for (const name of ['HOME', 'TMPDIR', 'XDG_CACHE_HOME', 'PIP_CACHE_DIR', 'npm_config_cache']) {
  fs.mkdirSync(process.env[name], {recursive: true})
  fs.writeFileSync(path.join(process.env[name], '.of-' + name), name)
}
console.log(fs.readdirSync(os.homedir()).includes('.of-HOME'), os.tmpdir() === process.env.TMPDIR)
"""
PACKAGE = {"name": "place", "version": "1.0.0", "dependencies": {"tool": "file:./tool"}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    for name in ("git", "node", "npm"):
        need(shutil.which(name, path=SEARCH_PATH), name)
    with running_world(tmp_path_factory.mktemp("world")) as running:
        yield running


class Place:
    """A project, and what ann runs in it."""

    def __init__(self, world: World, *, network: bool = False) -> None:
        self.world, self.id = world, new_project(world, allowed_extra=[], network=network)
        self.folder = world.server.data_dir / "projects" / self.id
        self.home = world.server.data_dir / "homes/kept/projects" / self.id
        self.run("pwd")

    def run(self, line: str, who: str = "ann") -> str:
        asked = {"project_id": self.id, "command": line}
        answer = self.world.ask(who, "POST", "/api/agent/execute", asked).json()
        assert answer.get("exit_code") == 0, answer
        return str(answer["stdout"])


def test_no_file_of_a_tool_is_in_the_repository(world: World) -> None:
    place = Place(world, network=True)  # npm install is refused without
    (place.folder / ".npmrc").write_text("offline=true\naudit=false\nfund=false\n")
    (place.folder / "tool").mkdir()
    for name, package in (("", PACKAGE), ("tool/", {"name": "tool", "version": "1.0.0"})):
        (place.folder / f"{name}package.json").write_text(json.dumps(package))
    (place.folder / "store.js").write_text(TOOL)
    place.run("git init -q . && npm install")
    assert place.run("node store.js") == "true true\n"
    place.run("git add -A && git commit -q -m one")
    added = {name.split("/")[0] for name in place.run("git ls-files").split()}
    assert added <= {".npmrc", "package.json", "package-lock.json", "node_modules", "tool", "store.js"}
    assert place.run("git status --short") == ""
    for name in (".of-HOME", ".cache/.of-XDG_CACHE_HOME", ".cache/pip/.of-PIP_CACHE_DIR", ".npm/.of-npm_config_cache"):
        assert (place.home / name).exists(), name
    assert (place.home / ".npm/_logs").exists(), "the logs of npm"


def test_a_commit_has_the_account_as_its_author_unless_the_repository_names_one(world: World) -> None:
    place = Place(world)
    place.run("git init -q . && git commit -q --allow-empty -m one")
    assert place.run("git log -1 --format=%an=%ae") == "ann=ann@gatepost.invalid\n"
    assert "autoDetach = false" in (place.home / ".gitconfig-ann").read_text()
    place.run("git config user.name Other && git config user.email other@example.com")
    place.run("git commit -q --allow-empty -m two")
    assert place.run("git log -1 --format=%an=%ae") == "Other=other@example.com\n"


def test_a_home_is_the_next_command_s_and_no_other_project_s(world: World) -> None:
    place, other = Place(world), Place(world)
    for each in (place, other):
        (each.folder / "store.js").write_text(TOOL)
        (each.folder / "look.js").write_text(
            f"for (const path of ['{place.home}/.of-HOME', '{place.home}'])"
            " try { require('fs').statSync(path); require('fs').readFileSync(path); console.log('read') }"
            " catch (error) { console.log(error.code) }"
        )
    place.run("node store.js")
    place.run("cp store.js ~/x && echo a > ~/y && ls ~/*y >> ~/y && { read A && cat ~/y && echo $A; } < ~/y > ~/z")
    assert place.run("cd && cat ~/z && find ~ -name x && ls ~/.npm").splitlines()[:4] == [
        "a",
        f"{place.home}/y",
        "a",
        f"{place.home}/x",
    ]
    asked = {"project_id": other.id, "command": f"cat {place.home}/y"}
    assert world.ask("ann", "POST", "/api/agent/execute", asked).json()["rule"] == "path.outside"
    assert place.run("node look.js") == "read\nEISDIR\n"
    assert other.run("node look.js") == "ENOENT\nENOENT\n"
    assert place.run("cd && pwd") == f"{place.folder}\n"
