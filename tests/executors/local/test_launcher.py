"""What the cage is given to permit, and what it is asked."""

import errno
import os
import struct
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from backend.executors.local import launcher as module
from backend.executors.local.cage_binary import MissingCage
from backend.executors.local.confinement import syscall_filter
from backend.executors.local.launcher import CageLauncher, cage_environment, landlock_abi
from backend.executors.local.process_spec import Bounds, Stage
from tests.executors.local.caged import ROOT, RUN_AS, Cage, folder, program, read_all, wait


@pytest.fixture
def cage(tmp_path: Path) -> Iterator[Cage]:
    with folder() as workspace:
        yield Cage(CageLauncher(tmp_path, RUN_AS), workspace)


def test_without_a_cage_nothing_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_cage", lambda cache: MissingCage("install it again"))
    launchers = [CageLauncher(tmp_path, RUN_AS, minimum=minimum) for minimum in ("L2", "L0")]
    before = os.listdir("/proc/self/fd")
    for launcher in launchers:
        with folder() as workspace, pytest.raises(OSError, match="install it again"):
            Cage(launcher, workspace).run(["true"])
    assert set(os.listdir("/proc/self/fd")) <= set(before)  # what an earlier test left may be closed meanwhile


def test_a_spec_that_the_cage_refuses_is_an_error_of_every_program(cage: Cage) -> None:
    report = cage.run(["echo", "a\0b"], ["cat"]).report
    assert [(end.code, end.error) for end in report.ends] == [(127, errno.EINVAL)] * 2


def test_starting_does_not_wait(cage: Cage) -> None:
    begin = time.monotonic()
    launched, output = cage.start(["sleep", "1000"])
    launched.applied()
    assert time.monotonic() - begin < 30
    launched.kill()
    wait(launched.ended)
    os.close(output)
    launched.finish()


def test_the_protection_is_told_before_the_end(cage: Cage) -> None:
    launched, output = cage.start(["yes"])
    wait(output)
    applied = launched.applied()
    assert applied
    assert applied.level == "L2"
    launched.kill()
    wait(launched.ended)
    os.close(output)
    assert launched.finish().applied == applied


def test_nothing_is_left_open(cage: Cage) -> None:
    cage.run(["true"])  # the server of the cage stays, and the control groups that are used again
    before = os.listdir("/proc/self/fd")
    cage.run(["true"], ["cat"])
    with pytest.raises(OSError):
        replace(cage, launcher=replace(cage.launcher, minimum="L3")).run(["true"])
    assert os.listdir("/proc/self/fd") == before


def test_standard_streams_may_be_handed_on(cage: Cage) -> None:
    reading, writing = os.pipe()
    saved = os.dup(0)
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        stage = Stage("echo", program("echo"), ("echo", "x"), {}, "/", 0, writing, writing, Bounds(str(cage.root)))
        launched = cage.launcher.start([stage])
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(writing)
    assert read_all(reading) == b"x\n"
    wait(launched.ended)
    launched.finish()


def test_more_can_be_made_readable(cage: Cage) -> None:
    other = cage.root.parent / "other"
    other.write_text("content")
    reading, writing = os.pipe()
    null = os.open(os.devnull, os.O_RDONLY)
    bounds = Bounds(str(cage.root), readable=(str(other), "/nowhere"))
    stage = Stage("cat", program("cat"), ("cat", str(other)), {}, "/", null, writing, writing, bounds)
    launched = cage.launcher.start([stage])
    os.close(writing)
    os.close(null)
    assert read_all(reading) == b"content"
    wait(launched.ended)
    launched.finish()


@pytest.mark.skipif(not ROOT, reason="only root must not run commands")
def test_as_root_nothing_runs_without_a_user(tmp_path: Path) -> None:
    for run_as in (None, (0, 0)):
        with folder() as workspace, pytest.raises(OSError) as refused:
            Cage(CageLauncher(tmp_path, run_as, minimum="L1"), workspace).run(["true"])
        assert refused.value.errno == errno.EPERM


@pytest.mark.skipif(ROOT, reason="root may become anybody")
def test_another_user_cannot_be_taken_without_root(cage: Cage) -> None:
    cage.launcher = replace(cage.launcher, run_as=(os.getuid() + 1, os.getgid()))
    assert cage.run(["true"]).report.ends[0].error == errno.EPERM


def test_a_level_out_of_reach_is_refused(cage: Cage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "landlock_abi", lambda: 2)
    with pytest.raises(OSError) as refused:
        cage.run(["true"])
    assert refused.value.errno == errno.ENOSYS
    monkeypatch.undo()
    cage.launcher = replace(cage.launcher, minimum="L3")
    with pytest.raises(OSError):
        cage.run(["true"])


def test_the_version_of_landlock_is_the_one_that_the_cage_applies(cage: Cage) -> None:
    layers = cage.run(["true"]).report.applied.layers
    assert [layer for layer in layers if layer.startswith("landlock:")] == [f"landlock:{landlock_abi()}"]


def filter_on(machine: str, network: bool, guarded: int | None, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The filter for another machine than this one."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    syscall_filter.cache_clear()
    try:
        return syscall_filter(network, guarded)
    finally:
        syscall_filter.cache_clear()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("guarded", [None, os.getpid()], ids=["nothing", "us"])
def test_the_filter_fits(machine: str, network: bool, guarded: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    program = filter_on(machine, network, guarded, monkeypatch)
    assert len(program) % 8 == 0
    assert 100 < len(program) // 8 < 4096
    assert program.endswith(bytes.fromhex("06000000 0000ff7f"))


def verdict(program: bytes, architecture: int, call: int, *arguments: int) -> int:
    """What the kernel would make of a call: the filter, run."""
    data = struct.pack("<IIQ6Q", call, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    at = value = 0
    while True:
        code, yes, no, number = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x06:
                return int(number)
            case 0x20:
                value = int.from_bytes(data[number : number + 4], "little")
            case 0x54:
                value &= number
            case 0x15:
                at += yes if value == number else no
            case 0x25:
                at += yes if value > number else no
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize(
    ("machine", "architecture", "write", "limits"), [("x86_64", 0xC000003E, 1, 302), ("aarch64", 0xC00000B7, 64, 261)]
)
def test_what_is_not_known_is_refused(
    machine: str, architecture: int, write: int, limits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = filter_on(machine, False, None, monkeypatch)
    permitted, killed, missing, invalid = 0x7FFF0000, 0x80000000, 0x50000 | errno.ENOSYS, 0x50000 | errno.EINVAL
    assert verdict(program, architecture, write) == permitted
    assert verdict(program, 0x40000003, write) == killed  # the calls of 32 bits
    for unknown in (470, 600, 0x40000000 | write, 0xFFFFFFFF):
        assert verdict(program, architecture, unknown) == missing
    core, files, high = 4, 7, 1 << 32
    assert verdict(program, architecture, limits, 0, core, 0) == permitted
    assert verdict(program, architecture, limits, 0, files, high) == permitted
    for pointer in (8, high):
        assert verdict(program, architecture, limits, 0, core, pointer) == invalid


def test_variables_that_tools_need() -> None:
    assert cage_environment()["GIT_CONFIG_NOSYSTEM"] == "1"
    assert "HOME" not in cage_environment()
    assert cage_environment("/work")["HOME"] == "/work"
