"""The protection told is the one that is there."""

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from backend.executors.local import self_test as protection
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.process_spec import Applied, Launched, Owner, RoomEntrance, Stage
from backend.executors.local.self_test import Protection, SelfTest, can_enter, probe
from tests.executors.local.caged import ROOT, RUN_AS, Cage, copied, folder

FULL = Applied("L2", ("session", "rlimits", "uid:65534", "no_new_privs", "landlock:7", "seccomp"))


def test_everything_holds(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = probe(CageLauncher(tmp_path, RUN_AS))
    assert time.monotonic() - begin < 20
    assert [test for test in found.tests if not test.passed] == []
    assert len(found.tests) == 9
    assert found.level == "L2"
    assert found.landlock_abi >= 3
    assert found.uid == (RUN_AS[0] if RUN_AS else os.getuid())
    assert found.meets("L2")
    assert not found.meets("L3")


def test_it_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = CageLauncher(tmp_path, RUN_AS)
    with folder() as place:
        monkeypatch.setattr("tempfile.tempdir", str(place))
        Cage(launcher, place).run(["true"])  # the server of the cage stays
        before = os.listdir("/proc/self/fd")
        assert probe(launcher).level == "L2"
        assert os.listdir("/proc/self/fd") == before
        assert list(place.iterdir()) == []


@pytest.mark.skipif(not ROOT, reason="only root must not run commands")
def test_as_root_the_level_is_the_lowest(tmp_path: Path) -> None:
    found = probe(CageLauncher(tmp_path, None))
    assert (found.level, found.uid) == ("L0", 0)
    assert not found.meets("L1")


def test_a_cage_that_does_not_start(tmp_path: Path) -> None:
    class Broken(CageLauncher):
        def start(
            self, stages: Sequence[Stage], room: RoomEntrance | None = None, user: Owner | None = None
        ) -> Launched:
            raise OSError("no more processes")

    found = probe(Broken(tmp_path, RUN_AS))
    assert found.level == "L0"
    assert {test.detail for test in found.tests} == {"could not be tried: no more processes"}


def test_a_missing_cage_is_reported_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.executors.local.cage_binary.FOLDER", copied(tmp_path / "service"))
    (tmp_path / "service" / f"cage-{os.uname().machine}").unlink()
    monkeypatch.setattr("backend.executors.local.cage_binary.COMPILERS", ())
    found = probe(CageLauncher(tmp_path / "cache", RUN_AS))
    assert found.level == "L0"
    assert all("install a C compiler" in test.detail for test in found.tests)


def test_a_cage_that_does_not_confine_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers are applied, but they permit everything."""
    everything = [("/", (1 << 15) - 1, 1)]
    monkeypatch.setattr("backend.executors.local.launcher.landlock_rules", lambda bounds, in_room: everything)
    found = probe(replace(CageLauncher(tmp_path, RUN_AS)))
    assert found.level == "L1"
    failed = {test.name for test in found.tests if not test.passed}
    assert {"read a file outside", "write a file outside"} <= failed


def test_a_filter_that_permits_sockets_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    permits = bytes.fromhex("06000000 0000ff7f")
    monkeypatch.setattr("backend.executors.local.launcher.syscall_filter", lambda network, guarded, in_room: permits)
    found = probe(CageLauncher(tmp_path, RUN_AS))
    assert "seccomp" in found.layers
    assert found.level == "L0"
    assert [test.name for test in found.tests if not test.passed] == ["send by UDP"]


@pytest.mark.parametrize(
    ("applied", "failed", "level"),
    [
        ("L2", [], "L2"),
        ("L1", [], "L1"),
        ("L2", ["L2"], "L1"),
        ("L2", ["L1"], "L0"),
        ("L2", ["L0"], "L0"),
        ("L1", ["L2"], "L1"),
    ],
)
def test_a_failed_test_lowers_the_level(applied: str, failed: list[str], level: str) -> None:
    tests = [SelfTest("name", need, False, "it worked") for need in failed]
    found = protection._protection(replace(FULL, level=applied), tests)
    assert found.level == level


def test_gaps_are_told() -> None:
    mine = Applied("L1", ("session", "rlimits", f"uid:{os.geteuid()}", "no_new_privs", "seccomp"))
    gaps = " ".join(protection._protection(mine, []).gaps)
    for word in ("signals", "mode and times", "ordinary permissions"):
        assert word in gaps


def test_it_can_be_told_in_json_and_in_words() -> None:
    tests = (SelfTest("read", "L2", True, "Permission denied"), SelfTest("send by UDP", "L1", False, "it worked"))
    found = Protection("L0", 7, FULL.layers, 65534, tests, ("names can be asked for",))
    told = json.loads(json.dumps(found.as_json()))
    assert told["tests"][1]["passed"] is False
    assert told["layers"][0] == "session"
    table = found.table()
    assert "NOT HELD: it worked" in table
    assert "names can be asked for" in table


def test_why_there_are_no_namespaces_is_a_test_that_did_not_pass() -> None:
    found = Protection("L2", 7, FULL.layers, 65534, (), ()).without_namespaces("Operation not permitted")
    assert found.meets("L2")
    assert found.failures() == "  run in namespaces: Operation not permitted\n"


def test_whether_commands_can_enter_a_workspace(tmp_path: Path) -> None:
    with folder() as workspace:
        launcher = CageLauncher(tmp_path, RUN_AS)
        assert can_enter(launcher, str(workspace))
        workspace.chmod(0)
        assert not can_enter(launcher, str(workspace))
        assert not can_enter(launcher, str(workspace / "missing"))
