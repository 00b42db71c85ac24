"""A project with the profile `workbench`: bash runs the whole line in the room of the project."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.world import World, new_project, running_world
from tests.serving import processes_of

IN_ROOMS = {"GATEPOST_NAMESPACES": "true"}
LINE = (
    "add() { echo $(( $1 + $2 )); }; for i in 1 2; do add $i 1; done; python3 -c 'print(5)'; cat <<<six; ls /srv /home"
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server whose project `project` has the profile."""
    with running_world(tmp_path_factory.mktemp("server"), IN_ROOMS) as world:
        world.project = new_project(world, allowed_extra=[], network=False, profile="workbench")
        yield world


def test_a_line_of_bash_runs_in_the_room(bench: World) -> None:
    answer = bench.execute("ann", LINE).json()
    assert answer["stdout"] == "2\n3\n5\nsix\n"
    assert (answer["rule"], answer["risk_level"], answer["protection"]) == ("allow.bash", "moderate", "L3")
    refused = bench.execute("ann", "eval 'sudo ls'")
    assert (refused.status_code, refused.json()["rule"]) == (400, "blocked.sudo")


def test_a_session_keeps_the_folder_and_what_was_exported(bench: World) -> None:
    def run(line: str) -> Any:
        return bench.execute("ann", line, session="s.1").json()

    first = run("mkdir -p a/b; cd a/b; export X='1\n2' PATH=$PWD:$PATH BASH_ENV=x LD_A=y; y=2; set -eux; false")
    assert (first["exit_code"], first["session_dir"]) == (1, "a/b")
    second = run('pwd; echo "$X"; echo ${PATH%%:*} ${y-none} ${BASH_ENV-none} ${LD_A-none}; cd ..; unset X')
    assert re.fullmatch(r"(/.*/a/b)\n1\n2\n\1 none none none\n", second["stdout"])
    assert (second["session_dir"], second["stderr"]) == ("a", "")
    assert run("echo ${X-gone}; (cd b; export Z=1); cd /usr")["stdout"] == "gone\n"
    assert run("echo ${Z-none}; exec pwd")["session_dir"] == "."
    assert "65536 bytes" in run("cd a; export Z=$(printf %70000s)")["stderr"]
    assert run("echo ${#Z}")["stdout"] == "0\n"


def test_what_a_line_leaves_is_out_of_reach_of_others(bench: World) -> None:
    """The other runs as the same user, in the same room at the same time."""
    victim = bench.start("ann", "export A=own; touch began; until [ -e tried ]; do sleep 0.05; done", session="s.2")
    attempt = (
        "until [ -e began ]; do sleep 0.05; done; for file in /proc/[0-9]*/fd/*; do"
        ' case $file in /proc/self/* | /proc/$$/*) ;; *) { printf "/usr\\0A=forged\\0" > $file; } 2>/dev/null && echo $file;; esac;'
        " done; touch tried"
    )
    assert bench.execute("ann", attempt).json()["stdout"] == ""
    assert bench.ended(victim) == "succeeded"
    assert bench.execute("ann", "echo $A", session="s.2").json()["stdout"] == "own\n"


def test_no_process_outlives_its_line(bench: World) -> None:
    mark = "outlives-its-line"
    hidden = [
        f"(setsid nohup bash -c 'exec -a {mark} sleep 600' > /dev/null 2>&1 &)",
        f"(trap '' TERM HUP; exec -a {mark} sleep 600) & disown -a",
        f"exec -a {mark} sleep 600 &",
        f"coproc exec -a {mark} sleep 600",
    ]
    answer = bench.execute("ann", "\n".join([*hidden, f"until [ $(pgrep -fc '^{mark}') = 4 ]; do sleep 0.05; done"]))
    assert answer.json()["exit_code"] == 0
    assert processes_of(bench.server, mark) == []
