"""The contract of the cage."""

import errno
import json
import os
import platform
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from backend.executors.local import confinement, launcher
from backend.executors.local.cage_server import CageServer, numbered
from backend.executors.local.cgroups import Groups
from backend.executors.local.launcher import BAD_SPEC, cage_environment
from backend.executors.local.process_spec import Bounds, Ports, Stage
from tests.executors.local.caged import (
    BOUND,
    ROOT,
    RUN_AS,
    Cage,
    give,
    marked,
    program,
    read_all,
    shell,
    wait,
)
from tests.needs import need
from tests.serving import wait_until

REPOSITORY = Path(__file__).parents[3]
KILLS = 50
as_root = pytest.mark.skipif(not ROOT, reason="commands have a user of their own only under root")
# Children that left their session and their parent; their ids are told.
AWAY = (
    "x=$(setsid sh -c 'sleep {mark} >/dev/null & echo $!; sleep {mark} >/dev/null & echo $!');"
    "(sleep {mark} & echo $!); echo $x ready; sleep {mark}"
)


def status(text: str) -> dict[str, str]:
    """/proc/self/status as a mapping."""
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def test_exit_codes(cage: Cage) -> None:
    assert cage.run(["true"]).codes == [0]
    assert cage.run(shell("exit 7")).codes == [7]


def test_an_end_by_a_signal_is_negative(cage: Cage) -> None:
    assert cage.run(shell("kill -TERM $$")).codes == [-signal.SIGTERM]


def test_errors_of_execution(cage: Cage) -> None:
    for name, content, mode, error in (
        ("plain", "x", 0o644, errno.EACCES),
        ("nonsense", "x", 0o755, errno.ENOEXEC),
        ("lost", "#!/nowhere/at/all\n", 0o755, errno.ENOENT),
    ):
        path = cage.root / name
        path.write_text(content)
        path.chmod(mode)
        end = cage.run([str(path)]).report.ends[0]
        assert (end.code, end.error) == (127, error), name
    assert cage.run(["/nowhere/at/all"]).report.ends[0].error == errno.ENOENT
    assert cage.run(["true"], cwd="/nowhere/at/all").report.ends[0].error == errno.ENOENT


def test_one_program_of_a_pipeline_may_fail_to_start(cage: Cage) -> None:
    done = cage.run(shell("echo a"), ["/nowhere/at/all"], ["wc", "-l"])
    assert [end.error for end in done.report.ends] == [0, errno.ENOENT, 0]
    assert done.text.strip() == "0"


def test_a_pipeline(cage: Cage) -> None:
    done = cage.run(["printf", "b\\na\\nb\\n"], ["sort", "-u"], ["wc", "-l"])
    assert (done.text.strip(), done.codes) == ("2", [0, 0, 0])


def test_a_writer_without_a_reader_gets_sigpipe(cage: Cage) -> None:
    assert cage.run(["yes"], ["head", "-n", "1"]).codes == [-signal.SIGPIPE, 0]


def test_programs_get_three_descriptors_and_no_more(cage: Cage) -> None:
    foreign = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(foreign, True)
    try:
        assert cage.run(["ls", "/proc/self/fd"]).text.split() == ["0", "1", "2", "3"]  # the last is the folder listed
    finally:
        os.close(foreign)


def test_streams_can_be_opened_by_name(cage: Cage) -> None:
    assert cage.run(shell("echo a > /dev/stdout; echo b > /dev/stderr")).text == "a\nb\n"
    assert cage.run(["echo", "x"], ["cat", "/dev/stdin"]).text == "x\n"


def test_the_environment_is_the_one_given(cage: Cage) -> None:
    cage.environment = {"WITH": "a=b\nc", "EMPTY": ""}
    told = dict(item.split("=", 1) for item in cage.run(["env", "-0"]).text.split("\0") if item)
    assert told["WITH"] == "a=b\nc"
    assert told["EMPTY"] == ""
    assert set(told) == {"PATH", "WITH", "EMPTY", *cage_environment("/work")}


def test_words_arrive_as_given(cage: Cage) -> None:
    words = ["", " ", "a\nb", "\u4e2d", "$HOME", "*"]
    assert cage.run(["printf", "%s\\0", *words]).text.split("\0")[:-1] == words


def test_signals_privileges_and_mask_are_clean(cage: Cage) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        told = status(cage.run(["cat", "/proc/self/status"]).text)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert [int(told[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt", "CapEff", "CapPrm", "CapInh")] == [0] * 6
    assert (told["NoNewPrivs"], told["Seccomp"], told["Umask"]) == ("1", "2", "0022")
    assert cage.run(["cat", "/proc/self/oom_score_adj"]).text.strip() == "500"


def test_nothing_runs_as_root(cage: Cage) -> None:
    told = status(cage.run(["cat", "/proc/self/status"]).text)
    assert "0" not in told["Uid"].split()
    if ROOT:
        assert told["Uid"].split() == told["Gid"].split() == ["65534"] * 4
        assert told["Groups"] == ""


def test_a_process_group_of_its_own(cage: Cage) -> None:
    launched, output = cage.start(*[shell("cut -d' ' -f5 /proc/$$/stat >&2; read -r line || true")] * 2)
    groups = read_all(output).split()
    wait(launched.ended)
    launched.finish()
    assert len(groups) == 2
    assert len(set(groups)) == 1
    assert int(groups[0]) != os.getpgrp()


def test_limits(cage: Cage) -> None:
    text = cage.limited(cpu_seconds=9, memory=1 << 28, file_size=4096, processes=99, open_files=77).run(
        ["cat", "/proc/self/limits"]
    )
    limits = {line[:26].strip(): line[26:].split()[:2] for line in text.text.splitlines()}
    assert limits["Max cpu time"] == ["9", "10"]
    counted = "cgroup:memory" in text.report.applied.layers  # for the whole command, whose group is to be met first
    assert limits["Max data size"] == [str(1 << 28 << counted)] * 2
    assert limits["Max file size"] == ["4096"] * 2
    soft, hard = map(int, limits["Max processes"])
    assert soft == hard
    assert 99 <= soft < 99 + len(os.listdir("/proc")) * 64  # beside those that the user has now
    assert limits["Max open files"] == ["77"] * 2
    assert limits["Max core file size"] == ["1"] * 2  # at which no dump is piped to a program either


def test_a_file_too_large(cage: Cage) -> None:
    done = cage.limited(file_size=4096).run(["cp", "--sparse=never", "/dev/zero", "big"])
    assert done.codes == [-signal.SIGXFSZ]
    assert (cage.root / "big").stat().st_size == 4096


def test_a_program_that_wants_too_much_memory(cage: Cage) -> None:
    done = cage.limited(memory=64 << 20).run(["tail"], stdin="/dev/zero")
    assert done.codes == [1]
    assert done.report.usage.peak_memory < 192 << 20


@as_root
def test_a_fork_bomb_is_bounded_and_ended(cage: Cage) -> None:
    launched, output = cage.limited(processes=64).start(shell("f() { f | f & }; f; f; f; f; f; f; wait; wait"))
    wait(output)  # the shell's complaint that it cannot fork
    launched.kill()
    wait(launched.ended)
    os.close(output)
    launched.finish()


def test_a_flood_is_ended(cage: Cage) -> None:
    launched, output = cage.start(["yes"])
    wait(output)
    launched.kill()
    wait(launched.ended)
    os.close(output)
    assert launched.finish().ends[0].code == -signal.SIGKILL


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_all(cage: Cage, number: signal.Signals) -> None:
    launched, output = cage.start(
        shell("echo ready; exec sleep 1000"), shell("read -r line; echo $line; exec sleep 1000")
    )
    wait(output)
    if number is signal.SIGTERM:
        launched.terminate()
    else:
        launched.signal(number)
    wait(launched.ended)
    os.close(output)
    assert [end.code for end in launched.finish().ends] == [-number, -number]


def test_who_ignores_sigterm_is_killed(cage: Cage) -> None:
    launched, output = cage.start(shell("trap '' TERM; echo ready; while :; do sleep 1000; done"))
    wait(output)
    launched.terminate()
    launched.kill()
    wait(launched.ended)
    os.close(output)
    assert launched.finish().ends[0].code == -signal.SIGKILL


def test_after_a_kill_nothing_is_left(cage: Cage) -> None:
    need(os.path.exists(program("setsid")), "setsid")
    left = 0
    for number in range(KILLS):
        mark = f"1000.{os.getpid()}{number}"
        launched, output = cage.start(shell(AWAY.format(mark=mark)))
        wait(output)
        launched.kill()
        wait(launched.ended)
        left += len(marked(mark))
        os.close(output)
        assert launched.finish().ends[0].code == -signal.SIGKILL
    print(f"{left} processes left after {KILLS} kills")
    assert left == 0


THREADS = """
import ctypes, os, sys, threading, time
def go_on():
    with open(f"/proc/self/task/{os.getpid()}/stat") as leader:
        while ") Z " not in leader.read():
            leader.seek(0)
            time.sleep(0.001)
    os.write(1, b"ready\\n")
    while True:
        time.sleep(1)
threading.Thread(target=go_on).start()
ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)  # the end of this thread alone
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_whose_first_thread_has_ended_is_reached_too(cage: Cage, number: signal.Signals) -> None:
    need(os.path.exists("/usr/bin/python3"), "python3 for commands")
    launched, output = cage.start(["/usr/bin/python3", "-c", THREADS])
    wait(output)
    try:
        launched.signal(number)
        wait(launched.ended)
    finally:
        os.close(output)
    assert launched.finish().ends[0].code == -number


def test_at_the_end_nothing_is_left(cage: Cage) -> None:
    need(os.path.exists(program("setsid")), "setsid")
    mark = f"2000.{os.getpid()}"
    launched, output = cage.start(shell(f"setsid sleep {mark} & (sleep {mark} &) ; echo ready"))
    wait(launched.ended)
    assert marked(mark) == []
    assert read_all(output) == b"ready\n"
    assert launched.finish().ends[0].code == 0


SERVER = """
import os, sys
from pathlib import Path
from backend.executors.local.launcher import CageLauncher
from tests.executors.local.caged import Cage, RUN_AS, shell
cage = Cage(CageLauncher(Path(sys.argv[1]), RUN_AS), Path(sys.argv[2]))
launched, output = cage.start(shell(sys.argv[3]))
told = b""
while b"ready" not in told:
    told += os.read(output, 100)
print(told.decode().replace("\\n", " "), flush=True)
os.read(0, 1)
"""


def test_when_the_service_is_killed_nothing_is_left(cage: Cage) -> None:
    need(os.path.exists(program("setsid")), "setsid")
    mark = f"3000.{os.getpid()}"
    arguments = [str(cage.launcher.cache), str(cage.root), AWAY.format(mark=mark)]
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *arguments], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout
        wait(server.stdout.fileno())
        *pids, ready = server.stdout.readline().split()
        assert ready == b"ready"
        pidfds = [os.pidfd_open(int(pid)) for pid in pids]
        assert len(pidfds) == 3
        server.kill()
    for pidfd in pidfds:
        wait(pidfd)
        os.close(pidfd)
    wait_until(lambda: not marked(mark), "the rest to go")


def test_the_cage_is_out_of_reach_of_its_programs(cage: Cage) -> None:
    done = cage.run(shell("kill -9 $PPID && echo it worked; kill -TERM $PPID; kill -STOP $PPID; exit 3"))
    assert "it worked" not in done.text
    assert done.codes == [3]


def test_the_report(cage: Cage) -> None:
    launched, output = cage.start(
        shell("head -c 1000000 /dev/zero > file; i=0; while [ $i -lt 9999 ]; do i=$((i+1)); done")
    )
    wait(launched.ended)
    applied = launched.applied()
    os.close(output)
    report = launched.finish()
    assert report.applied == applied
    assert report.applied.level == ("L2" if cage.rooms is None else "L3")
    layers = set(report.applied.layers)
    assert (cage.rooms is not None) == ({"namespaces", "loopback"} <= layers)
    assert {"session", "rlimits", "no_new_privs", "seccomp"} < layers
    assert any(layer.startswith("landlock:") for layer in layers)
    assert (f"uid:{RUN_AS[0]}" if RUN_AS else f"uid:{os.getuid()}") in layers
    assert 0 < report.usage.cpu_seconds < BOUND
    assert report.usage.peak_memory > 100_000
    assert report.usage.read_bytes >= 0
    assert report.usage.written_bytes >= min(1_000_000, written_by_us(cage.root / "ours"))


def written_by_us(path: Path) -> int:
    """What the kernel counts for a file of 1 MB, which is nothing in memory."""
    before = Path("/proc/self/io").read_text()
    path.write_bytes(bytes(1_000_000))
    counted = [int(text.split("\nwrite_bytes: ")[1].split()[0]) for text in (before, Path("/proc/self/io").read_text())]
    return counted[1] - counted[0]


def test_without_a_workspace_nothing_is_executed(cage: Cage) -> None:
    cage.root = cage.root / "absent"
    if cage.rooms is None:
        assert cage.run(["true"], cwd="/").report.ends[0].error == errno.ENOENT
    else:
        with pytest.raises(FileNotFoundError):
            cage.run(["true"], cwd="/")


HIDDEN = """
import ctypes, json, os, struct, sys
from dataclasses import replace
from pathlib import Path
from backend.executors.local import launcher, self_test as protection
from tests.executors.local.caged import Cage, RUN_AS
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[2] == "hide":
    refuse = [(0x20, 0, 0, 0), (0x35, 0, 2, 444), (0x25, 1, 0, 446), (6, 0, 0, 0x50026), (6, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("<HBBI", *each) for each in refuse))
    program = (ctypes.c_uint64 * 2)(len(refuse), ctypes.addressof(code))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(22, 2, ctypes.c_ulong(ctypes.addressof(program)), 0, 0) == 0
made = launcher.CageLauncher(Path(sys.argv[1]), RUN_AS)
workspace = Path(sys.argv[4])
if sys.argv[3] == "same":
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
    made = replace(made, run_as=None, cache=workspace)
told = {}
try:
    told["start"] = Cage(made, workspace).run(["true"]).report.applied.level
except OSError as error:
    told["start"] = error.errno
launcher.CageLauncher.usable_cage = lambda self: self.cage
told["cage"] = Cage(made, workspace).run(["true"]).report.ends[0].error
told["lower"] = Cage(replace(made, minimum="L1"), workspace).run(["true"]).report.applied.level
told["probe"] = protection.probe(made).as_json()
print(json.dumps(told))
"""


def hidden(cage: Cage, *how: str) -> dict[str, object]:
    told = subprocess.run(
        [sys.executable, "-c", HIDDEN, str(cage.launcher.cache), *how, str(cage.root)],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=BOUND,
        check=False,
    )
    assert told.stdout, told.stderr.decode()
    found: dict[str, object] = json.loads(told.stdout)
    return found


def test_without_landlock_nothing_is_executed_unless_that_is_permitted(cage: Cage) -> None:
    told = hidden(cage, "hide", "other")
    assert told["start"] == errno.ENOSYS
    assert told["cage"] == errno.EPERM  # also where the launcher did not look
    assert told["lower"] == "L1"
    probed = told["probe"]
    assert isinstance(probed, dict)
    assert (probed["level"], probed["landlock_abi"]) == ("L1", 0)
    failed = [test["name"] for test in probed["tests"] if not test["passed"]]
    assert "read a file outside" in failed
    assert "connect by TCP" not in failed


@as_root
@pytest.mark.parametrize("landlock", ["hide", "show"])
def test_programs_of_the_same_user(cage: Cage, landlock: str) -> None:
    told = hidden(cage, landlock, "same")
    probed = told["probe"]
    assert isinstance(probed, dict)
    assert told["lower"] == ("L2" if landlock == "show" else "L1")
    assert probed["level"] == told["lower"]
    failed = [test["name"] for test in probed["tests"] if not test["passed"]]
    assert "signal the service" not in failed
    assert "signal the cage" not in failed
    assert bool(failed) == (landlock == "hide")


def test_a_file_of_another_stays_closed(cage: Cage) -> None:
    secret = cage.root.parent / "secret"
    secret.write_text("canary")
    secret.chmod(0o666)
    give(secret)
    done = cage.run(["cat", str(secret)])
    assert "canary" not in done.text
    assert done.codes == [1]


FILTER = [
    (confinement.LOAD_WORD, 0, 0, confinement.ARGUMENTS),
    (confinement.JUMP_IF_EQUAL, 0, 1, confinement.SUPERVISOR_PID),
    (confinement.RETURN, 0, 0, confinement.SECCOMP_RET_ERRNO | errno.ENOANO),
    (confinement.RETURN, 0, 0, confinement.SECCOMP_RET_ALLOW),
]


def test_the_filter_gets_the_pid_of_the_cage(cage: Cage, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that no other layer gives shows that the filter recognised the pid."""
    program = b"".join(struct.pack("<HBBI", *each) for each in FILTER)
    monkeypatch.setattr(launcher, "syscall_filter", lambda network, guarded, in_room: program)
    cage.run(*[["true"]] * 20)  # in a room the first pids are also numbers of descriptors
    assert os.strerror(errno.ENOANO) in cage.run(shell("kill -0 $PPID; kill -0 $$")).text


def test_only_comparisons_get_the_pid(cage: Cage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask of the same value stays: with a pid in its place, the load below would be another one."""
    mask = (confinement.MASK_WITH, 0, 0, confinement.SUPERVISOR_PID)
    equals = (confinement.JUMP_IF_EQUAL, 0, 1, confinement.SUPERVISOR_PID & 0xFFFF)
    program = b"".join(struct.pack("<HBBI", *each) for each in [FILTER[0], mask, equals, *FILTER[2:]])
    monkeypatch.setattr(launcher, "syscall_filter", lambda network, guarded, in_room: program)
    attempt = f"kill -0 {confinement.SUPERVISOR_PID & 0xFFFF}"
    assert os.strerror(errno.ENOANO) in cage.run(shell(attempt)).text


UNREADABLE_IO = """
import os, sys
from pathlib import Path
from backend.executors.local.launcher import CageLauncher
from tests.executors.local.caged import Cage
launcher = CageLauncher(Path(sys.argv[1]), None)
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
object.__setattr__(launcher, "cage", Path(sys.argv[2]))
done = Cage(launcher, Path(sys.argv[3])).run(["cat", "/proc/version"])
print(done.codes, done.report.usage.read_bytes, done.report.usage.written_bytes)
"""


@as_root
def test_without_its_own_io_figures_a_command_runs(cage: Cage) -> None:
    """Of a program that its user may not read, the kernel closes the entries in /proc to that user."""
    assert isinstance(cage.launcher.cage, Path)
    unreadable = cage.root.parent / "cage"
    shutil.copy(cage.launcher.cage, unreadable)
    unreadable.chmod(0o711)
    assert in_process(UNREADABLE_IO, cage.launcher.cache, unreadable, cage.root) == "[0] 0 0"


NO_PROC = """
import ctypes, os, sys
from pathlib import Path
from backend.executors.local import launcher
from tests.executors.local.caged import Cage, RUN_AS
cage = Cage(launcher.CageLauncher(Path(sys.argv[1]), RUN_AS), Path(sys.argv[2]))
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None):
    sys.exit("no mount namespace")
if sys.argv[3] == "empty":
    assert libc.mount(b"none", b"/proc", b"tmpfs", 0, None) == 0
else:
    assert libc.umount2(b"/proc", 2) == 0
try:
    cage.start(["touch", "ran"])
except OSError as error:
    print(error.errno, end=" ")
launcher.CageLauncher.usable_cage = lambda self: self.cage
launcher._process_count = lambda uid: 0
done = cage.run(["touch", "ran"], ["touch", "ran too"])
print(*[end.error for end in done.report.ends], os.listdir(cage.root))
"""


@as_root
@pytest.mark.parametrize("how", ["empty", "unmounted"])
def test_without_proc_nothing_is_started(cage: Cage, how: str) -> None:
    """What was started could not be found again, and so not be ended."""
    reported = in_process(NO_PROC, cage.launcher.cache, cage.root, how)
    if reported == "no mount namespace":
        pytest.skip(reported)
    assert reported == f"{errno.ENOSYS} {errno.ENOSYS} {errno.ENOSYS} []"


def in_process(script: str, *arguments: object) -> str:
    """What a script prints in a Python of its own, or why it ended."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=BOUND, check=False)
    return (done.stdout or done.stderr).strip()


@dataclass
class Feeder:
    """Feeds specs to the cage, whose only program would create the file `ran`."""

    cage: Cage
    spec: bytes
    server: CageServer
    status: int
    status_write: int
    control: int
    null: int

    def feed(self, spec: bytes) -> tuple[int, bytes]:
        """The exit status of the cage and what it reported; fails where it does not end."""
        file = os.memfd_create("spec")
        os.write(file, spec)
        ended, life = os.pipe()
        self.server.start([self.status_write, life, self.control, file, self.null])
        for descriptor in (file, life):
            os.close(descriptor)
        wait(self.status)
        try:
            wait(ended)
        finally:
            os.close(ended)
            first, _, reported = os.read(self.status, 65536).partition(b"\n")
            pid = int(first.removeprefix(b"pid "))
            os.kill(pid, signal.SIGKILL)  # nothing, where it has ended
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return code, reported

    def refuses(self, spec: bytes) -> bool:
        """Whether the spec is refused as a whole."""
        return self.feed(spec) == (BAD_SPEC, b"") and not (self.cage.root / "ran").exists()


@pytest.fixture
def feeder(cage: Cage) -> Iterator[Feeder]:
    (control_read, control), (status, status_write) = os.pipe(), os.pipe()
    os.set_blocking(status, False)
    null = os.open(os.devnull, os.O_RDWR)
    bounds = Bounds(str(cage.root), Ports((443, 8443), names=True))
    touch = Stage("touch", program("touch"), ("touch", "ran"), {"A": "b"}, str(cage.root), null, null, null, bounds)
    group = Groups().acquire(1, 1)
    spec = cage.launcher._spec([touch], cage.launcher.run_as, numbered([null]), group)
    server = CageServer(cage.launcher.usable_cage())
    yield Feeder(cage, spec, server, status, status_write, control_read, null)
    server.close()
    for descriptor in (control_read, control, status, status_write, null):
        os.close(descriptor)


def fields(spec: bytes) -> list[tuple[int, int]]:
    """Where the fields of a spec begin, and the length of their content."""
    found, at = [], 0
    while at < len(spec):
        length = int.from_bytes(spec[at : at + 4], "little")
        found.append((at, length))
        at += 4 + length + 1
    assert at == len(spec)
    return found


def test_a_whole_spec_is_run(feeder: Feeder) -> None:
    code, reported = feeder.feed(feeder.spec)
    assert (code, b"\nend 0 0\n" in reported) == (0, True), reported
    assert (feeder.cage.root / "ran").exists()


def test_a_spec_that_is_cut_is_refused(feeder: Feeder) -> None:
    at = {start + more for start, length in fields(feeder.spec) for more in (0, 3, 4, 4 + length // 2, 4 + length)}
    accepted = [end for end in sorted(at) if not feeder.refuses(feeder.spec[:end])]
    assert accepted == []


def test_a_spec_that_goes_on_is_refused(feeder: Feeder) -> None:
    last = feeder.spec[fields(feeder.spec)[-1][0] :]
    for more in (b"\0", b"x", b"\0" * 5, b"\0" * 4096, last, feeder.spec):
        assert feeder.refuses(feeder.spec + more), more[:20]


def test_a_wrong_length_is_refused(feeder: Feeder) -> None:
    accepted = []
    random = Random(1)
    for start, length in fields(feeder.spec):
        for wrong in {length + 1, length - 1, length + 256, 0xFFFFFFFF, 0xFFFFFFFB, random.randrange(1 << 12)} - {
            length
        }:
            header = (wrong & 0xFFFFFFFF).to_bytes(4, "little")
            if not feeder.refuses(feeder.spec[:start] + header + feeder.spec[start + 4 :]):
                accepted.append((start, length, wrong))
    assert accepted == []


@pytest.mark.parametrize(
    "wrong", [b"", b"-", b" 1", b"1 ", b"0x1", b"1\0", b"1\0005", b"9" * 19, b"9" * 40, b"-2", b"a"]
)
def test_what_is_no_number_is_refused(feeder: Feeder, wrong: bytes) -> None:
    accepted = []
    for start, length in fields(feeder.spec):
        end = start + 4 + length
        content = feeder.spec[start + 4 : end]
        if content.removeprefix(b"-").isdigit():
            changed = len(wrong).to_bytes(4, "little") + wrong
            if not feeder.refuses(feeder.spec[:start] + changed + feeder.spec[end:]):
                accepted.append((start, content))
    assert accepted == []


def test_a_field_that_does_not_end_with_nul_is_refused(feeder: Feeder) -> None:
    accepted = []
    for start, length in fields(feeder.spec):
        end = start + 4 + length
        if not feeder.refuses(feeder.spec[:end] + b"x" + feeder.spec[end + 1 :]):
            accepted.append((start, length))
    assert accepted == []


def test_a_number_that_overflows_is_refused(feeder: Feeder) -> None:
    """In 64 bits it would be the number that was there."""
    accepted = []
    for start, length in fields(feeder.spec):
        end = start + 4 + length
        content = feeder.spec[start + 4 : end]
        if content.isdigit():
            changed = str((1 << 64) + int(content)).encode()
            header = len(changed).to_bytes(4, "little")
            if not feeder.refuses(feeder.spec[:start] + header + changed + feeder.spec[end:]):
                accepted.append((start, content))
    assert accepted == []


def test_a_text_that_holds_a_nul_is_refused(feeder: Feeder) -> None:
    """The kernel would take it as ended there: what ran would be another command than the one judged."""
    for word in (b"touch", b"ran", b"A=b", os.fsencode(feeder.cage.root)):
        field = len(word).to_bytes(4, "little") + word + b"\0"
        assert field in feeder.spec
        for wrong in (word + b"\0", b"\0" + word[1:], word[:1] + b"\0" + word[1:]):
            changed = len(wrong).to_bytes(4, "little") + wrong + b"\0"
            assert feeder.refuses(feeder.spec.replace(field, changed)), wrong


UNNEEDED = """
io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents io_uring_setup io_uring_enter io_uring_register sync
syncfs memfd_secret process_mrelease process_madvise mbind set_mempolicy set_mempolicy_home_node lsm_set_self_attr
move_pages migrate_pages mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr statmount listmount
shmget semget msgget userfaultfd bpf perf_event_open keyctl add_key request_key
"""
TRY_EACH = """
import ctypes, errno, json, sys
libc = ctypes.CDLL(None, use_errno=True)
told = {}
for name, number in json.loads(sys.argv[1]).items():
    failed = libc.syscall(number, *[ctypes.c_long(-1)] * 6)
    told[name] = errno.errorcode[ctypes.get_errno()] if failed == -1 else "worked"
print(json.dumps(told))
"""


def test_calls_that_no_command_needs_are_refused(cage: Cage) -> None:
    """By the filter: without it, these arguments would fail for another reason."""
    column = confinement.ARCHITECTURES[platform.machine()][0]
    numbers = confinement._numbers(confinement.REFUSED + confinement.LASTING + confinement.UNSEEN, column)
    tried = {name: numbers[name] for name in UNNEEDED.split()}
    told = json.loads(cage.run([program("python3"), "-c", TRY_EACH, json.dumps(tried)]).text)
    hidden = {"statmount", "listmount"}  # libraries fall back on /proc
    assert told == {name: "ENOSYS" if name in hidden else "EPERM" for name in tried}
