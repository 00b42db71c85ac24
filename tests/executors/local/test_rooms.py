"""Rooms: what of the machine exists in one, what its commands share, and that nothing of it is left."""

import asyncio
import os
import pwd
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from backend.core.policy.files import TEMPORARY
from backend.executors.local import rooms as module
from backend.executors.local.ending import Ending
from backend.executors.local.homes import make_temporary
from backend.executors.local.launcher import CageLimits
from backend.executors.local.process_spec import Bounds, RoomEntrance, Stage
from backend.executors.local.rooms import Room, RoomPlan, Rooms, make_room, plan_room
from tests.executors.local.caged import BOUND, ROOT, RUN_AS, Cage, folder, give, program, read_all, roomy, shell, wait
from tests.needs import need
from tests.serving import wait_until

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def cage(cache: Path) -> Iterator[Cage]:
    with roomy(cache) as cage:
        yield cage


def wanted(*names: str) -> None:
    for name in names:
        need(os.path.exists(program(name)), name)


def script(cage: Cage, name: str, text: str) -> None:
    (cage.root / name).write_text(text)


@asynccontextmanager
async def entered(rooms: Rooms, bounds: list[Bounds]) -> AsyncIterator[RoomEntrance | None]:
    """The room of these programs, for a while."""
    async with Ending() as leaving:
        yield await rooms.enter(bounds, leaving)


class TestFiles:
    def test_of_the_machine_only_programs_and_settings_exist(self, cage: Cage) -> None:
        found = cage.run(
            shell("for f in /*; do echo $f; done; for f in /etc/shadow /root /home /var /data; do ls -d $f; done")
        )
        assert "/usr" not in found.text  # the root cannot be listed
        assert cage.run(shell("test -d /usr -a -d /etc -a -d /proc -a -d /tmp -a -c /dev/null")).codes == [0]
        for gone in ("/root", "/home", "/var", "/boot", "/run", "/srv", "/opt"):
            assert cage.run(["test", "-e", gone]).codes == [1], gone

    def test_another_workspace_can_neither_be_seen_nor_changed(self, cage: Cage) -> None:
        """Its user is the same, and so the permissions of the files would allow both."""
        with folder() as other:
            (other / "secret").write_text("canary")
            give(other / "secret")
            for attempt in ("stat", "cat", "chmod 777", "touch -d 1970-01-01", "ls -d"):
                for path in (other, other / "secret"):
                    done = cage.run(shell(f"{attempt} {path}"))
                    assert done.codes != [0], attempt
                    assert "No such file" in done.text, attempt
            assert (other / "secret").stat().st_mode & 0o777 == 0o644

    def test_the_system_is_read_only_even_for_who_owns_it(self, cage: Cage) -> None:
        for path in ("/usr/x", "/etc/x", "/x", "/proc/sys/kernel/hostname", "/dev/x", "/sys/devices/system/cpu/x"):
            assert cage.run(shell(f"echo x > {path}")).codes != [0], path

    def test_the_user_of_a_workspace_has_a_name(self, cage: Cage) -> None:
        """Without one os.userInfo() of node and getpass of Python fail."""
        owned = 2_000_000_001 if ROOT else os.getuid()
        os.chown(cage.root, owned, -1)
        cage.launcher = replace(cage.launcher, run_as=(owned, 65534) if ROOT else None)
        known = "gatepost" if ROOT else pwd.getpwuid(owned).pw_name
        assert cage.run(["id", "-un"]).text == f"{known}\n"
        assert cage.run(["head", "-n", "1", "/etc/group"]).codes == [0]
        assert "root:" in cage.run(["cat", "/etc/passwd"]).text
        assert cage.run(shell("echo x >> /etc/passwd; chmod 777 /etc/passwd")).codes != [0]

    def test_the_memory_is_what_a_command_may_have(self, cache: Path) -> None:
        wanted("free")
        names = [line.partition(":")[0] for line in Path("/proc/meminfo").read_text().splitlines()]
        with roomy(cache, CageLimits(memory_total=64 << 20)) as cage:
            shown = dict(line.split(":", 1) for line in cage.run(["cat", "/proc/meminfo"]).text.splitlines())
            assert list(shown) == names
            assert shown["MemTotal"].split() == shown["MemAvailable"].split() == ["65536", "kB"]
            assert cage.run(["free", "-b"]).text.splitlines()[1].split()[1:3] == [str(64 << 20), "0"]
            assert cage.run(shell("echo x > /proc/meminfo")).codes != [0]
        with roomy(cache, CageLimits(memory_total=1 << 60)) as cage:
            assert cage.run(["grep", "MemTotal", "/proc/meminfo"]).text in Path("/proc/meminfo").read_text()

    def test_what_is_in_memory_is_shared_in_a_room_and_bounded(self, cage: Cage) -> None:
        assert cage.run(shell("echo kept > /tmp/x; echo kept > /dev/shm/x")).codes == [0]
        assert cage.run(["cat", "/tmp/x", "/dev/shm/x"]).text == "kept\nkept\n"
        assert not Path("/tmp/x").exists()
        assert "No space left" in cage.run(shell("head -c 64M /dev/zero > /tmp/full")).text

    def test_tmp_is_the_folder_of_the_workspace_that_lines_mean_by_it(self, cache: Path) -> None:
        with roomy(cache, parent="/var/tmp") as cage:
            make_temporary(str(cage.root), RUN_AS)
            assert cage.run(shell("echo mine > /tmp/x; ls /tmp; test -w /tmp")).text == "x\n"
            assert (cage.root / TEMPORARY / "x").read_text() == "mine\n"
            assert not Path("/tmp/x").exists()
            assert cage.run(shell("rm -r .tmp; mkdir .tmp; echo again > .tmp/y; cat /tmp/y")).text == "again\n"

    def test_tmp_is_in_memory_where_something_is_shown_below_it(self) -> None:
        plan = RoomPlan("/var/tmp/x/workspace", ((1, 2),), False)
        assert (plan.temporary, plan.in_memory) == (True, ("/dev/shm",))
        for below in (
            replace(plan, root="/tmp/w"),
            replace(plan, readable=("/tmp/t",)),
            replace(plan, homes=("/tmp/h",)),
        ):
            assert (below.temporary, below.in_memory) == (False, ("/tmp", "/dev/shm"))

    def test_the_workspace_has_its_own_path_and_stays(self, cage: Cage) -> None:
        assert cage.run(shell("pwd; echo x > made")).text.strip() == str(cage.root)
        assert (cage.root / "made").read_text() == "x\n"

    def test_a_workspace_that_is_made_again_is_another_room(self, cage: Cage) -> None:
        cage.run(shell("echo old > /tmp/x; rm -rf *"))
        cage.root.rename(cage.root.with_name("gone"))
        cage.root.mkdir()
        give(cage.root)
        assert cage.run(["cat", "/tmp/x"]).codes == [1]
        assert cage.run(shell("echo x > made")).codes == [0]

    def test_a_planted_link_leads_nowhere(self, cage: Cage) -> None:
        """A room that is made for a workspace in which a link takes the place of a folder shows nothing else."""
        outside = cage.root.parent / "outside"
        outside.mkdir()
        (outside / "secret").write_text("canary")
        (cage.root / "link").symlink_to(outside)
        assert "canary" not in cage.run(["cat", "link/secret"]).text


class TestProcesses:
    def test_each_may_read_its_own_entry(self, cage: Cage) -> None:
        assert cage.run(
            shell("sh -c 'cat /proc/self/stat' && (cat /proc/self/status) && cat /proc/$$/cmdline")
        ).codes == [0]

    def test_node_below_npm_reads_its_memory(self, cage: Cage) -> None:
        wanted("npm", "node")
        script(cage, "m.js", "console.log(process.memoryUsage().rss > 0)")
        script(cage, "package.json", '{"scripts": {"m": "node m.js"}}')
        assert "true" in cage.run(["npm", "run", "m"]).text.split()

    def test_ps_sees_the_room_alone(self, cage: Cage) -> None:
        wanted("ps", "pkill")
        launched, output = cage.start(shell("echo ready; sleep 1234"))
        assert os.read(output, 100) == b"ready\n"

        def listed() -> list[str]:
            seen = cage.run(["ps", "ax", "-o", "args"]).text.splitlines()
            return seen if "sleep 1234" in seen else []

        seen = wait_until(listed, "the other command")
        assert len(seen) < 10
        assert not any("pytest" in line for line in seen)
        assert cage.run(["pkill", "-f", "^sleep 1234$"]).codes == [0]
        wait(launched.ended)
        os.close(output)
        launched.finish()

    def test_who_keeps_them_cannot_be_killed(self, cage: Cage) -> None:
        """Neither the first process of the room nor the supervisor of a command, its own or another's."""
        launched, output = cage.start(shell("echo ready; sleep 1235"))
        assert os.read(output, 100) == b"ready\n"
        cage.run(shell("for p in /proc/[0-9]*; do [ ${p#/proc/} = $$ ] || kill -9 ${p#/proc/}; done"))
        wait(launched.ended)
        assert launched.finish().ends[0].code == -signal.SIGKILL  # the command, of the same project
        os.close(output)
        assert cage.rooms is not None
        assert not any(room.ended for room in cage.rooms.values())
        assert cage.run(["true"]).codes == [0]

    def test_nothing_outlives_its_command(self, cage: Cage) -> None:
        wanted("setsid")
        cage.run(shell("setsid sh -c 'sleep 1236 & sleep 1236 &' ; (sleep 1236 &)"))
        assert cage.rooms is not None
        assert [room.processes() for room in cage.rooms.values()] == [[]]

    def test_a_room_that_is_closed_leaves_nothing(self, cage: Cage) -> None:
        launched, output = cage.start(shell("echo ready; sleep 1237"))
        assert os.read(output, 100) == b"ready\n"
        assert cage.rooms is not None
        for room in list(cage.rooms.values()):
            room.close()
        cage.rooms.clear()
        wait(launched.ended)
        launched.finish()
        os.close(output)

    def test_a_service_that_dies_takes_its_rooms_along(self, cage: Cage) -> None:
        dying = (
            "import os, signal, sys\n"
            "from pathlib import Path\n"
            "from backend.executors.local.process_spec import Bounds\n"
            "from backend.executors.local.rooms import make_room, plan_room\n"
            "room = make_room(Path(sys.argv[1]), plan_room([Bounds(sys.argv[2])]))\n"
            "print(room._first, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        command = [sys.executable, "-c", dying, str(cage.launcher.usable_cage()), str(cage.root)]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=BOUND, check=False)
        first = Path(f"/proc/{int(done.stdout)}")
        wait_until(lambda: not first.exists() or "Z" in (first / "stat").read_text(), "the end of the room")


class TestNetwork:
    def test_a_server_of_one_command_is_reached_by_the_next(self, cage: Cage) -> None:
        wanted("python3")
        script(
            cage,
            "serve.py",
            "import http.server\n"
            "server = http.server.HTTPServer(('127.0.0.1', 8123), http.server.SimpleHTTPRequestHandler)\n"
            "print('ready', flush=True)\n"
            "server.handle_request()\n",
        )
        launched, output = cage.start(["python3", "serve.py"])
        assert os.read(output, 100) == b"ready\n"
        get = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8123/serve.py').status)"
        assert cage.run(["python3", "-c", get]).text.endswith("200\n")
        wait(launched.ended)
        launched.finish()
        read_all(output)

    def test_nobody_else_reaches_it(self, cache: Path, cage: Cage) -> None:
        wanted("python3")
        listening = (
            "import socket; s = socket.create_server(('127.0.0.1', 8124)); print('ready', flush=True); s.accept()"
        )
        launched, output = cage.start(["python3", "-c", listening])
        assert os.read(output, 100) == b"ready\n"
        connect = "import socket; socket.create_connection(('127.0.0.1', 8124), 2)"
        here = subprocess.run(
            [sys.executable, "-c", connect], capture_output=True, text=True, timeout=BOUND, check=False
        )
        assert "ConnectionRefusedError" in here.stderr
        with roomy(cache) as other:
            assert "ConnectionRefusedError" in other.run(["python3", "-c", connect]).text
        launched.kill()
        wait(launched.ended)
        launched.finish()
        os.close(output)

    def test_the_interfaces_are_its_loopback(self, cage: Cage) -> None:
        wanted("node")
        told = cage.run(["node", "-p", "JSON.stringify(Object.keys(require('os').networkInterfaces()))"]).text
        assert told == '["lo"]\n'

    def test_with_the_network_the_machine_s_is_there(self, cage: Cage) -> None:
        wanted("python3")
        with socket.create_server(("127.0.0.1", 0)) as server:
            connect = (
                f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2); print('ok')"
            )
            assert cage.run(["python3", "-c", connect], network=True).text == "ok\n"
            assert "ok" not in cage.run(["python3", "-c", connect]).text


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_mask_of_the_service_closes_no_way(cage: Cage, mask: int) -> None:
    before = os.umask(mask)
    try:
        room = cage.run(["cat", "/proc/self/mounts"])
    finally:
        os.umask(before)
    assert str(cage.root) in room.text
    assert cage.run(["pwd"]).text.strip() == str(cage.root)
    assert cage.run(["ls", str(cage.root.parent)]).codes != [0]  # the way to the workspace can be passed, not listed


def test_a_folder_of_one_program_below_tmp_is_closed_to_the_others(cage: Cage) -> None:
    """A right to /tmp would be one to all that is shown below it."""
    home = cage.root.parent / "home"
    home.mkdir()
    (home / "secret").write_text("secret")
    for path in (home, home / "secret"):
        give(path)
    room = make_room(cage.launcher.usable_cage(), plan_room([Bounds(str(cage.root), home=str(home))]))
    assert room.entrance.scratch == ("/dev/shm",)
    reading, writing = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    words = ("cat", str(home / "secret"))
    stage = Stage("cat", program("cat"), words, {}, "/", null, writing, writing, Bounds(str(cage.root)))
    launched = cage.launcher.start([stage], room.entrance)
    os.close(writing)
    os.close(null)
    assert b"Permission denied" in read_all(reading)
    wait(launched.ended)
    launched.finish()
    room.close()


def test_files_can_be_watched(cage: Cage) -> None:
    """No file of others has a name in a room."""
    wanted("node")
    script(cage, "w.js", "require('fs').watch('.', (e, f) => { console.log(f); process.exit() }); console.log('ready')")
    launched, output = cage.start(["node", "w.js"])
    assert os.read(output, 100) == b"ready\n"
    (cage.root / "changed").write_text("x")
    assert b"changed" in read_all(output)
    wait(launched.ended)
    launched.finish()


class TestKeeping:
    """How long a room is there."""

    @pytest.fixture
    def bounds(self) -> Iterator[list[Bounds]]:
        with folder() as workspace:
            yield [Bounds(str(workspace))]

    @pytest.fixture
    def rooms(self, cage: Cage) -> Rooms:
        return Rooms(partial(make_room, cage.launcher.usable_cage()))

    async def test_it_is_the_same_for_the_next_command(self, rooms: Rooms, bounds: list[Bounds]) -> None:
        async with entered(rooms, bounds) as first:
            pass
        async with entered(rooms, bounds) as second:
            assert second == first
        await rooms.close()

    async def test_one_is_made_for_all_who_come_at_once(self, cage: Cage, bounds: list[Bounds]) -> None:
        made: list[Room] = []

        def counted(plan: module.RoomPlan) -> Room:
            made.append(make_room(cage.launcher.usable_cage(), plan))
            return made[-1]

        rooms = Rooms(counted)

        async def enter() -> None:
            async with entered(rooms, bounds):
                pass

        await asyncio.gather(*(enter() for _ in range(20)))
        assert len(made) == 1
        await rooms.close()
        assert made[0].ended

    async def test_it_is_forgotten_after_a_while(
        self, rooms: Rooms, bounds: list[Bounds], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "KEPT_FOR", 0.01)
        async with entered(rooms, bounds) as first:
            pass
        async with asyncio.timeout(BOUND):
            while rooms._kept or rooms._closing:
                await asyncio.sleep(0.005)
        assert first is not None
        await rooms.close()

    async def test_one_that_has_died_is_made_again(self, rooms: Rooms, bounds: list[Bounds]) -> None:
        async with entered(rooms, bounds) as first:
            assert first is not None
            signal.pidfd_send_signal(first.descriptor, signal.SIGKILL)
            wait(first.descriptor)
        async with entered(rooms, bounds) as second:
            assert second is not None
            assert not module._is_readable(second.descriptor, 0)
        await rooms.close()

    async def test_few_are_kept_unused(
        self, cage: Cage, rooms: Rooms, bounds: list[Bounds], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "MOST_UNUSED", 2)
        for number in range(4):
            workspace = cage.root / str(number)
            workspace.mkdir()
            async with entered(rooms, [Bounds(str(workspace))]):
                pass
        assert [Path(plan.root).name for plan in rooms._kept] == ["2", "3"]
        await rooms.close()

    async def test_without_a_workspace_there_is_none(self, rooms: Rooms) -> None:
        with pytest.raises(FileNotFoundError):
            async with entered(rooms, [Bounds("/nowhere/at/all")]):
                pass

    async def test_without_a_thread_it_is_an_error_as_others(
        self, rooms: Rooms, bounds: list[Bounds], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_thread(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        async with entered(rooms, bounds) as room:
            monkeypatch.setattr(asyncio, "to_thread", no_thread)
            with pytest.raises(BlockingIOError):
                async with entered(rooms, [Bounds(bounds[0].root, network=True)]):
                    pass
            assert room
        [kept] = rooms._kept.values()
        await rooms.close()
        assert not Path(f"/proc/{kept.making.result()._first}").exists()

    async def test_it_leaves_no_descriptor(self, rooms: Rooms, bounds: list[Bounds]) -> None:
        await asyncio.to_thread(len, "")
        before = len(os.listdir("/proc/self/fd"))
        async with entered(rooms, bounds):
            pass
        await rooms.close()
        assert len(os.listdir("/proc/self/fd")) == before


AS_NOBODY = """
import os, sys
from pathlib import Path
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.self_test import probe
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
print(probe(CageLauncher(Path(sys.argv[1]), None), in_room=True).table())
"""


@pytest.mark.skipif(not ROOT, reason="only root becomes another user")
def test_a_service_that_is_not_root_has_them_too(tmp_path: Path) -> None:
    """Where the kernel gives a user namespaces of its own."""
    tmp_path.chmod(0o777)
    command = [sys.executable, "-c", AS_NOBODY, str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=BOUND, check=False)
    if "no namespaces" in done.stderr:
        pytest.skip("the kernel gives users no namespaces")
    assert done.stdout.splitlines()[0].split() == ["level", "L3"], done.stdout + done.stderr


def test_a_plan_is_that_of_the_workspace(cage: Cage) -> None:
    assert plan_room([Bounds(str(cage.root))]) == plan_room([Bounds(str(cage.root)), Bounds(str(cage.root))])
    assert plan_room([Bounds(str(cage.root), True)]) != plan_room([Bounds(str(cage.root))])
    assert RUN_AS is None or plan_room([Bounds(str(cage.root))]).root == str(cage.root)
