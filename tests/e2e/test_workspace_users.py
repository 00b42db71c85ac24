"""A command that knows the path of another workspace cannot close it to the others."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.executors.local.run_as import CAPABILITIES
from tests import preloaded
from tests.api.world import World, running_world
from tests.e2e.as_user import as_one_user
from tests.executors.local.caged import ROOT
from tests.needs import need
from tests.preloaded import Before

REPOSITORY = Path(__file__).parent.parent.parent
NOTHING: Before = ()
WITHOUT_ROOMS = {"GATEPOST_NAMESPACES": "false"}  # in a room no other workspace has a name


@pytest.fixture(params=["a user for each", "container", "one user"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    env, before = dict(WITHOUT_ROOMS), NOTHING
    if request.param == "one user":
        before = as_one_user(tmp_path)
    elif request.param == "container":
        need(ROOT, "root")
        env, before = {**WITHOUT_ROOMS, **image_environment()}, in_container()
    with running_world(tmp_path, env, before) as world:
        yield world


def in_container(*without: str) -> Before:
    """What comes before a server with what the documented container has of root."""
    return "tests.e2e.few_capabilities", *(name for name in CAPABILITIES if name not in without)


def image_environment() -> dict[str, str]:
    """The users that the image names."""
    text = (REPOSITORY / "Dockerfile").read_text()
    return dict(re.findall(r"(GATEPOST_RUN_AS|GATEPOST_WORKSPACE_UIDS)=(\S+)", text))


def says(world: World, command: str, project: str) -> str:
    """What a command of ann prints, errors too."""
    answer = world.execute("ann", command, project_id=project)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["stdout"]) + str(answer.json()["stderr"])


def test_a_command_cannot_close_another_workspace(world: World) -> None:
    assert says(world, "pyguard bash -c 'echo x > file'", world.private) == ""
    there = world.server.data_dir / "projects" / world.private
    for mode in ("0", "0100", "0777"):
        for path in (there, there.parent):
            says(world, f"pyguard bash -c 'chmod {mode} {path}'", world.project)
            assert says(world, "cat file; cat f* < file", world.private) == "x\nx\n", f"chmod {mode} {path}"
    assert world.server.get("/readyz").status == 200


def test_each_workspace_has_a_user(world: World) -> None:
    seen = {says(world, "pyguard id -u", project) for project in (world.project, world.private)}
    if there_is_one_user(world):
        assert len(seen) == 1
    else:
        assert len(seen) == 2
        there = world.server.data_dir / "projects" / world.private
        assert "not permitted" in says(world, f"pyguard bash -c 'chmod 0 {there}'", world.project)
    assert "0\n" not in seen


def there_is_one_user(world: World) -> bool:
    return os.stat(f"/proc/{world.server.pid}").st_uid != 0


@pytest.mark.parametrize("page", ["README.md", "docs/security.md"])
def test_the_documented_containers_have_these_capabilities(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    assert re.findall(r"--cap-add (\w+)", text) == list(CAPABILITIES)


@pytest.mark.parametrize("name", CAPABILITIES)
def test_root_without_a_capability_starts_no_server(name: str, tmp_path: Path) -> None:
    need(ROOT, "root")
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), "GATEPOST_DATA_DIR": str(tmp_path / "data")}
    done = preloaded.run(["serve"], tmp_path, env, before=in_container(name))
    assert done.returncode != 0
    assert f"the capabilities {name}; add them" in done.stderr
