"""A project with the profile `workbench`: bash runs the whole line in the room of the project."""

from pathlib import Path

from tests.api.world import new_project, running_world

IN_ROOMS = {"GATEPOST_NAMESPACES": "true"}
LINE = (
    "add() { echo $(( $1 + $2 )); }; for i in 1 2; do add $i 1; done; python3 -c 'print(5)'; cat <<<six; ls /srv /home"
)


def test_a_line_of_bash_runs_in_the_room(tmp_path: Path) -> None:
    with running_world(tmp_path, IN_ROOMS) as world:
        place = new_project(world, allowed_extra=[], network=False, profile="workbench")
        asked = {"project_id": place, "command": LINE}
        answer = world.ask("ann", "POST", "/api/agent/execute", asked).json()
        assert answer["stdout"] == "2\n3\n5\nsix\n"
        assert (answer["rule"], answer["risk_level"], answer["protection"]) == ("allow.bash", "moderate", "L3")
        refused = world.ask("ann", "POST", "/api/agent/execute", {**asked, "command": "eval 'sudo ls'"})
        assert (refused.status_code, refused.json()["rule"]) == (400, "blocked.sudo")
