"""Which cage is executed, and that the shipped ones are those of the manifest."""

import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest

from backend.executors.local import cage_binary
from backend.executors.local.cage_binary import COMPILER_PATH, COMPILERS, FOLDER, MissingCage, find_cage
from backend.executors.local.cage_call import VERSION
from backend.executors.local.launcher import CageLauncher
from tests.executors.local.caged import RUN_AS, Cage, copied, folder
from tests.needs import need

REPOSITORY = Path(__file__).parents[3]
MANIFEST = json.loads((FOLDER / "manifest.json").read_text())
MACHINE = os.uname().machine
ELF_MACHINES = {"x86_64": 62, "aarch64": 183}
LOAD, STACK = 1, 0x6474E551
EXECUTABLE, WRITABLE = 1, 2


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cage of this machine in a copy of its folder."""
    place = copied(tmp_path / "service")
    monkeypatch.setattr(cage_binary, "FOLDER", place)
    return place / f"cage-{MACHINE}"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cage_binary, "COMPILERS", ())


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def works(cage: Path | MissingCage, cache: Path) -> bool:
    """Whether a command runs in it; the cage must be the one that the launcher finds."""
    with folder() as workspace:
        launcher = CageLauncher(cache, RUN_AS)
        return launcher.cage == cage and Cage(launcher, workspace).run(["echo", "x"]).text == "x\n"


def test_the_source_is_the_one_that_was_built() -> None:
    assert digest(FOLDER / "cage.c") == MANIFEST["source_sha256"], "run scripts/build_binaries.py"
    assert MANIFEST["version"] == VERSION
    assert MANIFEST["licence"] == "MIT"


@pytest.mark.parametrize("machine", MANIFEST["binaries"])
def test_a_binary_is_the_one_of_the_manifest_and_static(machine: str) -> None:
    path = FOLDER / f"cage-{machine}"
    data = path.read_bytes()
    assert digest(path) == MANIFEST["binaries"][machine]["sha256"]
    assert data[:6] == b"\x7fELF\x02\x01"
    assert struct.unpack_from("<H", data, 18) == (ELF_MACHINES[machine],)
    offset, size, count = (*struct.unpack_from("<Q", data, 32), *struct.unpack_from("<HH", data, 54))
    segments = [struct.unpack_from("<II", data, offset + size * index) for index in range(count)]
    assert {kind for kind, _ in segments} == {LOAD, STACK}  # no interpreter, no note with a build id
    assert [flags for _, flags in segments if flags & EXECUTABLE and flags & WRITABLE] == []
    assert str(REPOSITORY).encode() not in data


def test_nothing_else_is_shipped() -> None:
    names = {"cage.c", "manifest.json", *(f"cage-{machine}" for machine in MANIFEST["binaries"])}
    assert {path.name for path in FOLDER.iterdir()} == names


def test_the_distribution_contains_them() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["backend.executors.local"]
    files = [str(path.relative_to(FOLDER.parent)) for path in FOLDER.iterdir()]
    assert [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_the_repository_has_the_binaries_with_their_mode() -> None:
    need(shutil.which("git"), "git")
    listed = subprocess.run(
        ["git", "ls-files", "-s", str(FOLDER)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is not a checkout")
    modes = {Path(line.split("\t")[1]).name: line.split()[0] for line in listed.stdout.splitlines()}
    assert {name for name, mode in modes.items() if mode == "100755"} == {f"cage-{each}" for each in ELF_MACHINES}


def build_check(repository: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repository / "scripts/build_binaries.py"), "--check", "cage"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_build_gives_what_is_shipped_and_a_change_is_found(tmp_path: Path) -> None:
    need(shutil.which("gcc"), "gcc")
    done = build_check(REPOSITORY)
    assert (done.returncode, done.stderr) == (0, "")
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts/build_binaries.py", tmp_path / "scripts")
    place = tmp_path / FOLDER.relative_to(REPOSITORY)
    shutil.copytree(FOLDER, place)
    assert build_check(tmp_path).returncode == 0  # the folder leaves no trace in the binary
    with (place / "cage.c").open("a") as file:
        file.write("/* changed */\n")
    done = build_check(tmp_path)
    assert (done.returncode, "cage.c was changed" in done.stderr) == (1, True)
    (place / "cage.c").write_bytes((FOLDER / "cage.c").read_bytes())
    with (place / f"cage-{MACHINE}").open("ab") as file:
        file.write(b"x")
    done = build_check(tmp_path)
    assert (done.returncode, f"cage-{MACHINE} or its flags" in done.stderr) == (1, True)


def test_a_forged_pair_of_binary_and_digest_is_found(tmp_path: Path) -> None:
    """Where the compiler is the one of the manifest."""
    need(shutil.which("gcc"), "gcc")
    if "same bytes" not in build_check(REPOSITORY).stdout:
        pytest.skip("another compiler made the shipped binary")
    (tmp_path / "scripts").mkdir()
    shutil.copy(REPOSITORY / "scripts/build_binaries.py", tmp_path / "scripts")
    place = tmp_path / FOLDER.relative_to(REPOSITORY)
    shutil.copytree(FOLDER, place)
    with (place / f"cage-{MACHINE}").open("ab") as file:
        file.write(b"x")
    text = (place / "manifest.json").read_text()
    forged = text.replace(MANIFEST["binaries"][MACHINE]["sha256"], digest(place / f"cage-{MACHINE}"))
    (place / "manifest.json").write_text(forged)
    done = build_check(tmp_path)
    assert (done.returncode, f"cage-{MACHINE} is not what" in done.stderr) == (1, True)


def test_the_shipped_cage_is_executed_where_it_is(shipped: Path, cache: Path, no_compiler: None) -> None:
    assert find_cage(cache) == shipped
    assert not cache.exists()
    assert works(shipped, cache)


def damage_mode(path: Path) -> None:
    path.chmod(0o644)


def damage_trust(path: Path) -> None:
    path.chmod(0o777)


def damage_folder(path: Path) -> None:
    path.parent.chmod(0o777)


@pytest.mark.parametrize("damage", [damage_mode, damage_trust, damage_folder])
def test_one_that_lost_its_mode_or_that_others_may_write_to_is_copied(
    damage: Callable[[Path], None], shipped: Path, cache: Path, no_compiler: None
) -> None:
    damage(shipped)
    copy = find_cage(cache)
    assert isinstance(copy, Path)
    assert copy.parent == cache
    assert (stat.S_IMODE(copy.stat().st_mode), stat.S_IMODE(cache.stat().st_mode)) == (0o755, 0o700)
    assert digest(copy) == MANIFEST["binaries"][MACHINE]["sha256"]
    about = copy.stat()
    assert works(copy, cache)
    assert copy.stat() == about  # not copied again
    assert list(cache.iterdir()) == [copy]


def test_an_altered_one_is_never_executed(shipped: Path, cache: Path, no_compiler: None) -> None:
    shipped.write_text(f"#!/bin/sh\ntouch {cache}-ran\necho {VERSION}\n")
    found = find_cage(cache)
    assert isinstance(found, MissingCage)
    for word in (shipped.name, str(cache), "install"):
        assert word in found.problem
    assert not Path(f"{cache}-ran").exists()


def test_a_missing_one_is_built_once(shipped: Path, cache: Path) -> None:
    need([name for name in COMPILERS if shutil.which(name, path=COMPILER_PATH)], "a C compiler")
    shipped.unlink()
    built = find_cage(cache)
    assert isinstance(built, Path)
    assert built.parent == cache
    about = built.stat()
    assert works(built, cache)
    assert built.stat() == about
    assert list(cache.iterdir()) == [built]


def test_a_built_one_that_others_may_write_to_is_replaced(shipped: Path, cache: Path) -> None:
    need([name for name in COMPILERS if shutil.which(name, path=COMPILER_PATH)], "a C compiler")
    shipped.unlink()
    built = find_cage(cache)
    assert isinstance(built, Path)
    built.write_text(f"#!/bin/sh\necho {VERSION}\n")
    built.chmod(0o777)
    assert find_cage(cache) == built
    assert built.read_bytes().startswith(b"\x7fELF")


def test_without_a_usable_cache_there_is_none(shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shipped.chmod(0o644)
    found = find_cage(tmp_path / "file" / "cache")
    assert isinstance(found, MissingCage)


def test_another_machine_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    found = find_cage(cache)
    assert isinstance(found, MissingCage)
    assert "this machine is riscv64" in found.problem


def test_without_a_manifest_there_is_none(shipped: Path, cache: Path) -> None:
    (shipped.parent / "manifest.json").unlink()
    found = find_cage(cache)
    assert isinstance(found, MissingCage)
    assert "manifest.json cannot be read" in found.problem
