"""A command that knows the path of another workspace cannot close it to the others."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.api.world import World, running_world
from tests.e2e.as_user import as_one_user


@pytest.fixture(params=["a user for each", "one user"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    command = as_one_user(tmp_path) if request.param == "one user" else None
    with running_world(tmp_path, command=command) as world:
        yield world


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
