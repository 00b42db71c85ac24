"""Control groups bound a whole command where they can be had, and are told only where they do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend.core.dataclasses import dataclass
from backend.executors.local import cgroups
from backend.executors.local.cgroups import Group, Groups, Member, own_groups
from backend.executors.local.launcher import LANDLOCK_ABI_FOR_L2, CageLauncher, CageLimits, landlock_abi
from backend.executors.local.process_spec import Launched
from tests.executors.local.caged import BOUND, ROOT, RUN_AS, Cage, folder, give, marked, program, shell, wait
from tests.needs import need

REPOSITORY = Path(__file__).parents[3]
MINIMUM = "L2" if landlock_abi() >= LANDLOCK_ABI_FOR_L2 else "L1"
MIB = 1 << 20
as_root = pytest.mark.skipif(not ROOT, reason="for root only")
KILLS = {1: "memory.oom_control", 2: "memory.events"}
PEAK = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}
# Four that hold 40 MB each, since nobody reads what they write.
GREEDY = "one() { head -c 40000000 /dev/zero | tail -n 1; }; one & one & one & one & wait"


@pytest.fixture
def cage(cache: Path) -> Iterator[Cage]:
    if not cgroups.detect_groups().branches:
        pytest.skip("no control group is available here")
    with folder() as workspace:
        yield Cage(CageLauncher(cache, RUN_AS, minimum=MINIMUM), workspace)


def want(*controllers: str) -> None:
    had = {each for branch in cgroups.detect_groups().branches for each in branch.controllers}
    if not had.issuperset(controllers):
        pytest.skip(f"of the control groups only {', '.join(had)} can be had here")


def layers(cage: Cage) -> set[str]:
    """Of control groups, as told by a command that ended well."""
    done = cage.run(["echo", "x"])
    assert (done.text, done.codes) == ("x\n", [0])
    return {layer for layer in done.report.applied.layers if layer.startswith("cgroup:")}


def offered() -> set[str]:
    return {f"cgroup:{each}" for branch in cgroups.detect_groups().branches for each in branch.controllers}


def group_of(launched: Launched) -> Group:
    group = getattr(launched, "_group", None)
    assert isinstance(group, Group)
    return group


def part(launched: Launched, controller: str) -> tuple[Path, int]:
    return next((each.path, each.version) for each in group_of(launched).parts if controller in each.limits)


def counted(path: Path, name: str) -> int:
    return next((int(line.split()[1]) for line in path.read_text().splitlines() if line.split()[0] == name), 0)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + BOUND
    while not true():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.01)


def end(launched: Launched, output: int) -> None:
    launched.kill()
    wait(launched.ended)
    os.close(output)
    launched.finish()


def test_they_are_told(cage: Cage) -> None:
    assert layers(cage) == offered()
    done = cage.run(["true"], ["true"])
    assert set(done.report.applied.layers) > offered()


def test_memory_is_bounded_for_all_processes_together(cage: Cage) -> None:
    want("memory")
    launched, output = cage.limited(memory=64 * MIB, memory_total=96 * MIB).start(shell(GREEDY))
    path, version = part(launched, "memory")
    until(lambda: counted(path / KILLS[version], "oom_kill") > 0)
    if (path / PEAK[version]).exists():
        assert 64 * MIB < int((path / PEAK[version]).read_text()) <= 96 * MIB
    end(launched, output)


def test_a_program_beyond_the_bound_is_killed_and_reported(cage: Cage) -> None:
    want("memory")
    done = cage.limited(memory=1 << 30, memory_total=64 * MIB).run(["tail"], stdin="/dev/zero")
    assert done.codes == [-signal.SIGKILL]
    assert 32 * MIB < done.report.usage.peak_memory < 80 * MIB  # with what it shares with others


@dataclass(frozen=True, slots=True)
class Few(Groups):
    """Limits processes more tightly than their user is limited."""

    def acquire(self, processes: int, memory: int) -> Group:
        return Groups.acquire(self, 8, memory)


def few(cage: Cage) -> Cage:
    found = cgroups.detect_groups()
    return replace(cage, launcher=replace(cage.launcher, groups=Few(found.branches, numbers=found.numbers)))


def test_processes_are_bounded_for_each_command(cage: Cage) -> None:
    want("pids")
    forks = shell("for i in 1 2 3 4 5 6; do sleep 1000 & done; echo ready; wait")
    running = [few(cage).start(forks) for _ in range(2)]  # of one user, each with a count of its own
    for _, output in running:
        wait(output)
        assert os.read(output, 100) == b"ready\n"
    launched, output = few(cage).start(shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo ready; wait"))
    wait(output)
    assert b"ready" not in os.read(output, 1000)
    for each in [*running, (launched, output)]:
        end(*each)


@as_root
def test_processes_of_root_are_bounded_too(cage: Cage) -> None:
    want("pids")
    cage.launcher = replace(cage.launcher, run_as=None, minimum="L0", limits=CageLimits(processes=20))
    forks = shell("i=0; while [ $i -lt 30 ]; do sleep 1000 & i=$((i+1)); done; echo ready")
    for groups, started in ((cgroups.detect_groups(), False), (Groups(), True)):
        launched, output = replace(cage, launcher=replace(cage.launcher, groups=groups)).start(forks)
        wait(output)
        assert (b"ready" in os.read(output, 1000)) == started
        end(launched, output)


def test_a_limit_that_was_met_is_reported_once(cage: Cage) -> None:
    want("memory")
    want("pids")
    small = cage.limited(memory_total=64 * MIB)
    eats = ["tail", "/dev/zero"]
    done = small.run(eats)
    assert (done.codes, done.report.limits_met) == ([-9], frozenset({"memory"}))
    assert small.run(["true"]).report.limits_met == frozenset()
    forks = shell("for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; wait")
    launched, output = few(cage).start(forks)
    wait(output)
    launched.kill()
    wait(launched.ended)
    os.close(output)
    assert launched.finish().limits_met == {"pids"}


def test_the_group_is_met_before_the_limits_of_a_process(cage: Cage) -> None:
    """These are met without a report."""
    want("memory", "pids")
    forks = shell("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 0.1 & done; wait")
    assert cage.limited(processes=8).run(forks).report.limits_met == {"pids"}
    small = cage.limited(memory=32 * MIB, memory_total=32 * MIB)
    assert small.run(["tail", "/dev/zero"]).report.limits_met == {"memory"}


def test_a_group_is_used_again_once_nothing_is_in_it(cage: Cage) -> None:
    launched, output = cage.start(["true"])
    paths = [part.path for part in group_of(launched).parts]
    wait(launched.ended)
    os.close(output)
    launched.finish()
    assert all(path.exists() and (path / "cgroup.procs").read_text() == "" for path in paths)
    idle = _idle_paths()
    launched, output = cage.start(["true"])
    assert [part.path for part in group_of(launched).parts] in [paths, *idle]
    wait(launched.ended)
    os.close(output)
    launched.finish()
    assert len(cgroups.detect_groups().idle) <= cgroups.IDLE


def _idle_paths() -> list[list[Path]]:
    return [[part.path for part in group.parts] for group in cgroups.detect_groups().idle]


def test_a_group_that_files_stay_charged_to_is_not_used_again(cage: Cage) -> None:
    want("memory")
    launched, output = cage.limited(memory_total=64 * MIB).start(["head", "-c", "30000000", "/dev/zero"])
    paths = [part.path for part in group_of(launched).parts]
    end(launched, output)
    assert all(path.exists() for path in paths)  # what was written into a pipe is gone
    launched, output = cage.limited(memory_total=64 * MIB).start(shell("head -c 30000000 /dev/zero > file"))
    paths = [part.path for part in group_of(launched).parts]
    wait(launched.ended)
    charged = int((part(launched, "memory")[0] / cgroups.CURRENT[part(launched, "memory")[1], "memory"]).read_text())
    os.close(output)
    launched.finish()
    assert [path.exists() for path in paths] == [charged <= 8 * MIB] * len(paths)


def test_what_a_killed_cage_leaves_is_killed(cage: Cage) -> None:
    need(os.path.exists(program("setsid")), "setsid")
    mark = f"4000.{os.getpid()}"
    launched, output = cage.start(shell(f"setsid sleep {mark} & setsid sleep {mark} & echo ready; wait"))
    wait(output)
    until(lambda: len(marked(mark)) == 2)
    paths = [part.path for part in group_of(launched).parts]
    os.kill(launched._pid, signal.SIGKILL)  # type: ignore[attr-defined]
    wait(launched.ended)
    launched.finish()
    os.close(output)
    until(lambda: marked(mark) == [])
    cage.run(["true"])
    assert not any(path.exists() for path in paths)


def test_a_group_that_cannot_be_joined_is_not_told(cage: Cage, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(self: cgroups.Part) -> Member:
        return Member(os.open("/", os.O_RDONLY), cgroups.JOIN[self.version], "cgroup:memory,cgroup:pids", True, True)

    monkeypatch.setattr(cgroups.Part, "open", nowhere)
    assert layers(cage) == set()
    limit = cage.limited(memory=1 << 28).run(["grep", "data size", "/proc/self/limits"]).text.split()[3]
    assert limit == str(1 << 28), "as where there are no groups"


def test_a_bound_that_cannot_be_written_is_not_told(cage: Cage, monkeypatch: pytest.MonkeyPatch) -> None:
    want("memory", "pids")
    cage.launcher = replace(
        cage.launcher, groups=Groups(cgroups.detect_groups().branches, numbers=cgroups.detect_groups().numbers)
    )
    for version in (1, 2):
        monkeypatch.setitem(cgroups.FILES, (version, "pids"), ("no.such.file",))
    assert layers(cage) == {"cgroup:memory"}


def test_groups_that_cannot_be_made_are_not_told(cage: Cage, tmp_path: Path) -> None:
    branches = tuple(replace(branch, folder=tmp_path / "absent") for branch in cgroups.detect_groups().branches)
    assert layers(replace(cage, launcher=replace(cage.launcher, groups=Groups(branches)))) == set()


@pytest.mark.parametrize("same_user", [pytest.param(True, marks=as_root), False])
def test_programs_cannot_write_to_them(cage: Cage, same_user: bool) -> None:
    if same_user:
        need(landlock_abi() >= LANDLOCK_ABI_FOR_L2, "Landlock")
        cage.launcher = replace(cage.launcher, run_as=None, minimum="L0")
    cage.run(["true"])  # its group is used again
    files = [file for part in cgroups.detect_groups().idle[0].parts for file in part.path.iterdir() if file.is_file()]
    assert len(files) > 5
    script = "for f; do (echo 1 > $f) 2>/dev/null && echo $f; done; :"
    written = cage.run(["sh", "-c", script, "sh", *map(str, files)]).text.split()
    assert [name for name in written if not name.endswith("cgroup.event_control")] == []
    assert same_user or MINIMUM < "L2" or written == []


SERVICE = """
import os, select, sys
from pathlib import Path
for path in sys.argv[3:]:
    Path(path, "cgroup.procs").write_text("0")
from backend.executors.local import cgroups
from tests.executors.local.caged import Cage, CageLauncher, RUN_AS, shell
launcher = CageLauncher(Path(sys.argv[1]), RUN_AS, minimum="L1")
launched, output = Cage(launcher, Path(sys.argv[2])).start(shell("sleep 1000 & echo ready; wait"))
os.read(output, 100)
print(*(branch.folder for branch in cgroups.detect_groups().branches), flush=True)
os.read(0, 1)
launched.kill()
select.select([launched.ended], [], [])
launched.finish()
"""


@pytest.fixture
def places() -> Iterator[list[Path]]:
    """Groups in which a service can be started."""
    made = [branch.folder / "test" for branch in cgroups.detect_groups().branches]
    for path in made:
        path.mkdir()
    yield made
    for path in made:
        for left in path.glob("gatepost-*"):
            cgroups._remove_tree(left)
        until(lambda path=path: cgroups._remove(path))  # type: ignore[misc]


def service(cage: Cage, places: list[Path]) -> tuple["subprocess.Popen[bytes]", list[Path]]:
    """One that runs a command, and its folders."""
    arguments = [str(cage.launcher.cache), str(cage.root), *map(str, places)]
    server = subprocess.Popen(
        [sys.executable, "-c", SERVICE, *arguments], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdout
    wait(server.stdout.fileno())
    return server, [Path(word.decode()) for word in server.stdout.readline().split()]


def test_nothing_is_left_by_a_service_that_ended(cage: Cage, places: list[Path]) -> None:
    server, folders = service(cage, places)
    with server:
        assert len(folders) == len(places)
        assert all(path.exists() for path in folders)
        server.communicate(b"x", timeout=BOUND)
    assert server.returncode == 0
    # Under version 2 the service itself was in one until it had ended.
    assert [left.name for path in folders for left in path.glob("*/")] in ([], [cgroups.SERVICE])


def test_what_a_killed_service_left_is_removed_at_the_next_start(cage: Cage, places: list[Path]) -> None:
    server, folders = service(cage, places)
    with server:
        server.kill()
    assert all(path.exists() for path in folders)

    def swept() -> bool:
        for path in places:
            cgroups.sweep(path)
        return not any(path.exists() for path in folders)

    until(swept)  # at once, unless its command is dying still


def test_what_a_service_has_that_lives_stays(cage: Cage, places: list[Path]) -> None:
    server, folders = service(cage, places)
    with server:
        for path in places:
            cgroups.sweep(path)
        assert all(path.exists() for path in folders)
        server.communicate(b"x", timeout=BOUND)
    assert server.returncode == 0


READ_ONLY = """
import ctypes, sys
from pathlib import Path
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x20000) or libc.mount(None, b"/", None, 0x44000, None):
    sys.exit("no mount namespace")
for line in Path("/proc/self/mountinfo").read_text().splitlines():
    if " - cgroup" in line and libc.mount(None, line.split()[4].encode(), None, 0x1021, None):
        sys.exit("no mount can be made read-only")
from tests.executors.local.caged import Cage, CageLauncher, RUN_AS
launcher = CageLauncher(Path(sys.argv[1]), RUN_AS, minimum="L1")
done = Cage(launcher, Path(sys.argv[2])).run(["echo", "x"])
print(done.text.strip(), done.codes[0], *done.report.applied.layers)
"""


@as_root
def test_a_read_only_tree_changes_nothing_but_the_report(cage: Cage) -> None:
    arguments = [str(cage.launcher.cache), str(cage.root)]
    told = subprocess.run(
        [sys.executable, "-c", READ_ONLY, *arguments], cwd=REPOSITORY, capture_output=True, timeout=BOUND, check=False
    )
    if told.stderr.startswith(b"no mount"):
        pytest.skip(told.stderr.decode().strip())
    usual = cage.run(["echo", "x"]).report.applied.layers
    kept = [layer for layer in usual if not layer.startswith("cgroup:")]
    assert told.stdout.decode().split() == ["x", "0", *kept], told.stderr.decode()


@pytest.mark.parametrize(
    ("joined", "mounts", "found"),
    [
        ("0::/a/b", "30 1 0:2 / {at} rw - cgroup2 cgroup2 rw", [(2, "a/b", ("memory", "pids"))]),
        ("0::/docker/x", "30 1 0:2 /docker/x {at} ro - cgroup2 cgroup rw", [(2, "", ())]),
        ("0::/elsewhere", "30 1 0:2 /docker/x {at} ro - cgroup2 cgroup rw", []),
        ("4:memory:/m\n0::/", "30 1 0:2 / {at} rw shared:1 - cgroup cgroup rw,memory", [(1, "m", ("memory",))]),
        ("3:cpu,pids:/docker/x/y", "1 1 0:2 /docker/x {at} rw - cgroup c rw,cpu,pids", [(1, "y", ("pids",))]),
        ("1:name=systemd:/", "30 1 0:2 / {at} rw - cgroup cgroup rw,name=systemd", [(1, "", ())]),
        ("4:memory:/", "30 1 0:2 / /mnt\\040x rw - ext4 /dev/x rw", []),
    ],
)
def test_our_own_group(joined: str, mounts: str, found: list[tuple[int, str, tuple[str, ...]]], tmp_path: Path) -> None:
    mount = tmp_path / "a b"
    (mount / "a" / "b").mkdir(parents=True)
    (mount / "a" / "b" / "cgroup.controllers").write_text("cpu io memory pids\n")
    (tmp_path / "cgroup").write_text(joined + "\n")
    (tmp_path / "mountinfo").write_text(mounts.format(at=str(mount).replace(" ", "\\040")) + "\n")
    assert own_groups(tmp_path) == [(version, mount / path, names) for version, path, names in found]


@pytest.mark.parametrize("version", [1, 2])
def test_an_ordinary_folder_is_none_and_stays_as_it_is(
    version: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path / "absent")
    before = os.listdir("/proc/self/fd")
    assert cgroups.open_branch(tmp_path, version, ("memory", "pids")) is None
    assert list(tmp_path.iterdir()) == []
    assert os.listdir("/proc/self/fd") == before


def test_where_systemd_has_not_handed_over_nothing_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(tmp_path)
    monkeypatch.setattr(cgroups, "SYSTEMD", tmp_path)
    monkeypatch.setattr(cgroups, "sweep", lambda own: pytest.fail("it was"))
    assert cgroups.open_branch(tmp_path, 2, ("memory",)) is None
