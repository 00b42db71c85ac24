"""Finds the cage program: the one shipped for this machine, or one built from its source.

scripts/build_binaries.py makes the shipped ones; `cage/manifest.json` has their digests. Normally the shipped file is executed
where it is. The cache folder is used only for a copy, where the file lost its mode or others may write to it, or for a
build, where it is missing or altered.
"""

import hashlib
import json
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from backend.core.dataclasses import dataclass

FOLDER = Path(__file__).parent / "cage"
COMPILERS = ("cc", "gcc", "clang")
COMPILER_PATH = "/usr/local/bin:/usr/bin:/bin"
BUILD_BOUND = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class MissingCage:
    """There is no cage that this machine can execute, so no command runs."""

    problem: str  # and what to do about it


def find_cage(cache: Path) -> Path | MissingCage:
    """The program to execute. `cache` is a folder for this service alone; it is created only where it is needed."""
    machine = platform.machine()
    manifest = _read(FOLDER / "manifest.json")
    if not manifest:
        return MissingCage(f"{FOLDER / 'manifest.json'} cannot be read: install Gatepost again")
    version, binaries = json.loads(manifest)["version"], json.loads(manifest)["binaries"]
    if machine not in binaries:
        return MissingCage(f"the cage supports {' and '.join(binaries)}, this machine is {machine}")
    shipped, about = FOLDER / f"cage-{machine}", binaries[machine]
    found = _shipped(shipped, about["sha256"], version, cache) or _built(about["flags"], version, cache)
    return found or MissingCage(
        f"{shipped.name} is missing, altered or cannot be executed, and none could be built in {cache}:"
        " install Gatepost again, or install a C compiler with the kernel's headers, then restart"
    )


def _shipped(path: Path, digest: str, version: str, cache: Path) -> Path | None:
    """The shipped program, or a copy of it in `cache`; None where it is not the one of the manifest."""
    data = _read(path)
    if _digest(data) != digest:
        return None
    if _runs(path, version):
        return path
    return _cached(cache / f"cage-{digest[:16]}", version, lambda target: target.write_bytes(data))


def _built(flags: list[str], version: str, cache: Path) -> Path | None:
    """A program built from the source; None where there is no compiler, or it does not build."""
    found = (shutil.which(name, path=COMPILER_PATH) for name in COMPILERS)
    compiler = next((path for path in found if path), None)
    if compiler is None:
        return None
    source = _read(FOLDER / "cage.c")
    path = cache / f"cage-{_digest(' '.join([compiler, *flags]).encode() + source)[:16]}"
    return _cached(path, version, lambda target: _compile(compiler, flags, target))


def _compile(compiler: str, flags: list[str], target: Path) -> None:
    command = [compiler, *flags, "-x", "c", str(FOLDER / "cage.c"), "-o", str(target)]
    environment = {"PATH": COMPILER_PATH, "TMPDIR": str(target.parent)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=BUILD_BOUND)


def _cached(path: Path, version: str, write: Callable[[Path], Any]) -> Path | None:
    """The file, created unless it is there and can be executed; None where it still cannot be."""
    if _runs(path, version) or (_make(path, write) and _runs(path, version)):
        return path
    return None


def _make(path: Path, write: Callable[[Path], Any]) -> bool:
    """Create the file under another name and rename it, since several servers may do so at the same time."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write(part)
        part.chmod(0o755)
        part.replace(path)
    except (OSError, subprocess.SubprocessError):
        return False
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return True


def _runs(path: Path, version: str) -> bool:
    """Whether it can be executed here and only root or this user can have written it."""
    if not _is_trusted(path):
        return False
    try:
        done = subprocess.run([path, "--version"], env={}, capture_output=True, timeout=BUILD_BOUND, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.stdout.strip() == version.encode()


def _is_trusted(path: Path) -> bool:
    try:
        found = [path.lstat(), path.parent.stat()]
    except OSError:
        return False
    return all(each.st_uid in (0, os.geteuid()) and not each.st_mode & 0o022 for each in found)


def _read(path: Path) -> bytes:
    """Nothing where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
