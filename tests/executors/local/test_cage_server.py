"""The server of the cage: it holds nothing of a command, its end harms none, and what fails is an error of one command."""

import errno
import fcntl
import os
import resource
import select
import signal
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from backend.executors.local import cgroups, confinement, launcher
from backend.executors.local.cage_server import CageServer, find_server
from backend.executors.local.launcher import CageLauncher
from backend.executors.local.process_spec import Bounds, Launched, Stage
from tests.executors.local.caged import BOUND, RUN_AS, Cage, folder, program, read_all, shell, wait
from tests.executors.local.test_cage import FILTER
from tests.needs import need
from tests.serving import wait_until

REPOSITORY = Path(__file__).parents[3]
OWN = {"0", "1", "2"}  # its descriptors: the socket twice, signals


def server_of(cage: Cage) -> CageServer:
    """The one that its commands are started by; it runs."""
    cage.run(["true"])
    server = find_server(cage.launcher.usable_cage())
    assert server.pid
    return server


def end(launched: Launched, output: int) -> None:
    launched.kill()
    wait(launched.ended)
    os.close(output)
    launched.finish()


def is_gone(pid: int) -> bool:
    """Whether it has ended, reaped or not."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_it_holds_nothing_of_a_command(cage: Cage) -> None:
    server = server_of(cage)
    launched, output = cage.start(shell("echo ready; sleep 1000"), shell("cat; sleep 1000"))
    wait(output)
    wait_until(lambda: set(os.listdir(f"/proc/{server.pid}/fd")) == OWN, "the server to close what it was given")
    assert not Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text()  # they are ours
    supervisor = Path(f"/proc/{launched._pid}/cmdline")  # type: ignore[attr-defined]
    assert b"command" in supervisor.read_bytes().split(b"\0")  # and can be told from the server
    end(launched, output)


def test_what_runs_goes_on_when_it_is_killed_and_the_next_command_gets_another(cage: Cage) -> None:
    server = server_of(cage)
    first = server.pid
    reading, writing = os.pipe()
    launched, output = cage.start(shell("echo ready; read -r line; exit 3"), stdin=f"/proc/self/fd/{reading}")
    wait(output)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: is_gone(first), "the end of the server")
    assert cage.run(["echo", "x"]).text == "x\n"
    assert server.pid not in {0, first}
    assert not Path(f"/proc/{first}").exists()  # and reaped
    assert not select.select([launched.ended], [], [], 0)[0]
    os.write(writing, b"go on\n")
    wait(launched.ended)
    for descriptor in (output, reading, writing):
        os.close(descriptor)
    assert launched.finish().ends[0].code == 3


def test_what_it_never_read_is_an_error_of_that_command(cage: Cage) -> None:
    server = server_of(cage)
    first = server.pid
    os.kill(first, signal.SIGSTOP)
    wait_until(lambda: ") T " in Path(f"/proc/{first}/stat").read_text(), "the server to stop")
    launched, output = cage.start(["touch", "ran"], ["touch", "ran"])
    os.kill(first, signal.SIGKILL)
    wait(launched.ended)
    os.close(output)
    report = launched.finish()
    assert [(end.code, end.error) for end in report.ends] == [(127, errno.EAGAIN)] * 2
    assert not (cage.root / "ran").exists()
    assert cage.run(["touch", "ran"]).codes == [0]


def test_one_that_hangs_is_ended_by_a_command_that_gives_up(cage: Cage) -> None:
    server = server_of(cage)
    first = server.pid
    runs, text = cage.start(shell("echo ready; sleep 1000"))
    wait(text)
    runs.give_up()
    assert server.pid == first  # since it has begun that one
    os.kill(first, signal.SIGSTOP)
    launched, output = cage.start(["touch", "ran"])
    launched.kill()
    launched.give_up()
    wait(launched.ended)
    os.close(output)
    assert launched.finish().ends[0].error == errno.EAGAIN
    assert not (cage.root / "ran").exists()
    assert cage.run(["touch", "ran"]).codes == [0]
    end(runs, text)


def test_when_it_gets_no_descriptors_that_is_an_error_of_that_command(cage: Cage) -> None:
    server = server_of(cage)
    usual = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (7, usual[1]))
    assert cage.run(["touch", "ran"]).report.ends[0].error == errno.EMFILE
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, usual)
    assert set(os.listdir(f"/proc/{server.pid}/fd")) == OWN
    assert not (cage.root / "ran").exists()
    assert cage.run(["true"]).codes == [0]


def test_when_it_cannot_fork_that_is_an_error_of_that_command(cage: Cage) -> None:
    server = server_of(cage)
    branch = next((each for each in cgroups.detect_groups().branches if "pids" in each.controllers), None)
    if branch is None:
        pytest.skip("no control group limits processes here")
    need(branch.version == 1, "control groups of version 1, where a process can be moved by its number alone")
    group = branch.create("server", cgroups.TRIAL_LIMITS)
    assert group
    home = Path(f"/proc/{server.pid}/cgroup").read_text()
    (group.path / "cgroup.procs").write_text(str(server.pid))
    (group.path / "pids.max").write_text("1")
    assert cage.run(["touch", "ran"]).report.ends[0].error == errno.EAGAIN
    (branch.folder.parent / "cgroup.procs").write_text(str(server.pid))
    assert Path(f"/proc/{server.pid}/cgroup").read_text() == home
    group.path.rmdir()
    assert not (cage.root / "ran").exists()
    assert cage.run(["true"]).codes == [0]


def test_what_is_no_request_starts_nothing(cage: Cage) -> None:
    server = server_of(cage)
    first = server.pid
    assert server._process
    (reading, writing), null = os.pipe(), os.open(os.devnull, os.O_RDONLY)
    server._process.asked.send(b"x" * 1000)
    for descriptors in ([], [null], [null] * 3, [writing] * 4, [writing, writing, null, null], [writing] * 200):
        server._process.ask(descriptors)
    os.close(writing)
    os.close(null)
    reported = read_all(reading).splitlines()  # to its end: nobody has kept the other one
    pids = [int(line.split()[1]) for line in reported if line.startswith(b"pid ")]
    for pid in pids:  # those that had what a request has, but no spec
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == launcher.BAD_SPEC
    assert len(pids) == 3
    assert cage.run(["echo", "x"]).text == "x\n"
    assert server.pid == first


SERVICE = """
import os, sys
from pathlib import Path
from backend.executors.local.cage_server import find_server
from backend.executors.local.launcher import CageLauncher
from tests.executors.local.caged import Cage, RUN_AS
launcher = CageLauncher(Path(sys.argv[1]), RUN_AS)
Cage(launcher, Path(sys.argv[2])).run(["true"])
print(find_server(launcher.usable_cage()).pid, flush=True)
os.read(0, 1)
"""


@pytest.mark.parametrize("killed", [True, False])
def test_it_ends_with_the_service(cache: Path, killed: bool) -> None:
    with folder() as workspace:
        command = [sys.executable, "-c", SERVICE, str(cache), str(workspace)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as service:
            assert service.stdout
            wait(service.stdout.fileno(), 3 * BOUND)
            server = int(service.stdout.readline())
            if killed:
                service.kill()
            else:
                service.communicate(b"x", timeout=3 * BOUND)
        wait_until(lambda: is_gone(server), "the end of the server")


def test_its_memory_and_descriptors_are_closed_to_commands_and_signals_do_not_reach_it(cage: Cage) -> None:
    server = server_of(cage)
    first = server.pid
    attempts = [f"cat /proc/{first}/{name}" for name in ("environ", "mem", "maps", "fd/0", "auxv")]
    attempts += [f"kill -{name} {first}" for name in ("KILL", "STOP", "HUP", "0")]
    for attempt in attempts:
        assert cage.run(shell(f"{attempt} && echo it worked")).codes != [0], attempt
    assert server.pid == first
    assert not is_gone(first)


def test_the_filter_gets_its_pid(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that no other layer gives shows that the filter recognised the pid."""
    compared = (confinement.JUMP_IF_EQUAL, 0, 1, confinement.SERVER_PID)
    program = b"".join(struct.pack("<HBBI", *each) for each in [FILTER[0], compared, *FILTER[2:]])
    with folder() as workspace:
        cage = Cage(CageLauncher(cache, RUN_AS), workspace)
        server = server_of(cage)
    with folder() as workspace:
        monkeypatch.setattr(launcher, "syscall_filter", lambda network, guarded, in_room: program)
        cage = Cage(cage.launcher, workspace)
        assert os.strerror(errno.ENOANO) in cage.run(shell(f"kill -0 {server.pid}")).text


def test_threads_may_start_commands_at_the_same_time(cage: Cage) -> None:
    server_of(cage)
    cage.entrance(Bounds(str(cage.root)))
    with ThreadPoolExecutor(8) as pool:
        texts = list(pool.map(lambda number: cage.run(["echo", str(number)]).text, range(24)))
    assert texts == [f"{number}\n" for number in range(24)]


@pytest.mark.parametrize("least", [3, 200])
def test_a_further_descriptor_has_its_number_in_the_program_too(cage: Cage, least: int) -> None:
    need(os.path.exists(program("bash")), "bash")
    file = os.memfd_create("kept")
    kept = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, least)
    reading, writing = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    words = ["bash", "-c", f"echo written >&{kept}; ls /proc/self/fd"]  # other shells know the numbers below 10 alone
    bounds = Bounds(str(cage.root))
    environment = {"PATH": "/usr/bin:/bin"}
    stage = Stage("bash", program("bash"), tuple(words), environment, "/", null, writing, writing, bounds, kept)
    launched = cage.launcher.start([stage], cage.entrance(bounds))
    for descriptor in (writing, null):
        os.close(descriptor)
    numbers = sorted(map(int, read_all(reading).split()))  # with that of the folder listed
    assert numbers == sorted({0, 1, 2, kept, 3 if kept > 3 else 4})
    assert os.pread(file, 100, 0) == b"written\n"
    wait(launched.ended)
    launched.finish()
    os.close(file)
    os.close(kept)
