"""Build the cage for every machine: `python3 scripts/build_cage.py`. Needs gcc for x86-64 and for aarch64.

Writes the binaries and the manifest in backend/executors/local/cage. With `--check` nothing is written: the files there
must be those of the manifest, and what this machine can build must have the same bytes. Another compiler than the one in
the manifest may generate other code, so there only a build without warnings that runs is required. Standard library only.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CAGE = Path(__file__).resolve().parent.parent / "backend/executors/local/cage"
SOURCE, MANIFEST = CAGE / "cage.c", CAGE / "manifest.json"
VERSION = "cage 6"  # what the program prints, and how each spec begins
WARNINGS = ("-Wall", "-Wextra", "-Werror")
# Everything that distributions set differently is stated; no build id, no names of compilers, nothing of this machine.
COMMON = (
    *("-O2", "-s", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie"),
    *("-fno-asynchronous-unwind-tables", "-fno-ident", "-Wl,--build-id=none", "-Wl,-z,noexecstack"),
)
FLAGS = {
    "x86_64": (*COMMON, "-march=x86-64", "-mtune=generic", "-fcf-protection=none"),
    "aarch64": (*COMMON, "-march=armv8-a", "-mtune=generic", "-mbranch-protection=none"),
}


def main() -> None:
    """Build, or check what is there; ends with status 1 and what is wrong."""
    parser = argparse.ArgumentParser(description="Build the cage for every machine.")
    parser.add_argument("--check", action="store_true", help="compare with the files in the repository, write nothing")
    problems = check() if parser.parse_args().check else build()
    if problems:
        sys.exit("\n".join(problems))


def build() -> list[str]:
    """Write all binaries and the manifest; returns what is missing for that."""
    missing = [f"There is no gcc for {machine} (Debian: {package(machine)})." for machine in FLAGS if not gcc(machine)]
    if missing:
        return missing
    binaries = {machine: compiled(machine) for machine in FLAGS}
    for machine, data in binaries.items():
        target = CAGE / f"cage-{machine}"
        target.write_bytes(data)
        target.chmod(0o755)
    MANIFEST.write_text(json.dumps(manifest(binaries), indent=2) + "\n")
    return []


def manifest(binaries: dict[str, bytes]) -> dict[str, Any]:
    """What is known about the binaries."""
    about = {
        machine: {"sha256": digest(data), "compiler": compiler(machine), "flags": FLAGS[machine]}
        for machine, data in binaries.items()
    }
    return {"version": VERSION, "licence": "MIT", "source_sha256": digest(SOURCE.read_bytes()), "binaries": about}


def check() -> list[str]:
    """What differs from the manifest, or from what is built here."""
    known = json.loads(MANIFEST.read_text())
    problems = [] if known["source_sha256"] == digest(SOURCE.read_bytes()) else ["cage.c was changed after the build."]
    for machine, flags in FLAGS.items():
        about = known["binaries"][machine]
        if about["flags"] != list(flags) or about["sha256"] != digest((CAGE / f"cage-{machine}").read_bytes()):
            problems.append(f"cage-{machine} or its flags are not those of the manifest.")
    buildable = [machine for machine in FLAGS if gcc(machine)]
    if platform.machine() not in buildable:
        problems.append(f"There is no gcc for this machine ({platform.machine()}), so nothing could be compared.")
    problems += [problem for machine in buildable for problem in compare(machine, known["binaries"][machine])]
    return [*problems, "Run scripts/build_cage.py and commit what it writes."] if problems else []


def compare(machine: str, about: dict[str, Any]) -> list[str]:
    """Build again and compare, byte for byte where the compiler is the one that built the shipped binary."""
    data = compiled(machine)
    if compiler(machine) != about["compiler"]:
        print(f"cage-{machine}: built, not compared. Made by {about['compiler']}, here is {compiler(machine)}.")
        return []
    if digest(data) != about["sha256"]:
        return [f"cage-{machine} is not what {about['compiler']} builds from cage.c."]
    print(f"cage-{machine}: the same bytes as built by {about['compiler']}.")
    return []


def compiled(machine: str) -> bytes:
    """The binary of a machine. Raises CalledProcessError where the source does not compile without warnings."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, "cage")
        command = [gcc(machine) or "gcc", *FLAGS[machine], *WARNINGS, str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True)
        if machine == platform.machine():
            said = subprocess.run([made, "--version"], check=True, capture_output=True, text=True).stdout
            assert said.strip() == VERSION, f"cage.c is {said.strip()}, this script builds {VERSION}"
        return made.read_bytes()


def gcc(machine: str) -> str | None:
    """The compiler for a machine, by the name that distributions give it; any gcc for this machine itself."""
    native = "gcc" if machine == platform.machine() else ""
    return shutil.which(f"{machine}-linux-gnu-gcc") or (shutil.which(native) if native else None)


def compiler(machine: str) -> str:
    """The versions of compiler and linker, without the names that they were called by."""
    command = gcc(machine) or "gcc"
    linker = subprocess.run([command, "-print-prog-name=ld"], check=True, capture_output=True, text=True).stdout.strip()
    return ", ".join(version(program) for program in (command, linker))


def version(program: str) -> str:
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    called, _, first = said.splitlines()[0].partition(" ")
    return f"gcc {first}" if called.endswith("gcc") else f"{called} {first}"


def package(machine: str) -> str:
    return f"gcc-{machine.replace('_', '-')}-linux-gnu with libc6-dev for it"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main()
