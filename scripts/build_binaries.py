"""Build what is written in C for every machine: `python3 scripts/build_binaries.py [cage] [output]`.

`cage` is the program that confines commands, `output` the module that encodes and searches what they write. Needs gcc for
x86-64 and for aarch64, and the headers of Python. Writes the binaries and a manifest next to the source. With `--check`
nothing is written: the files there must be those of the manifest, and what this machine can build must have the same
bytes. Another compiler than the one in the manifest may generate other code, so there only a build without warnings that
works is required. Standard library only.
"""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BACKEND = Path(__file__).resolve().parent.parent / "backend"
WARNINGS = ("-Wall", "-Wextra", "-Werror")
# Everything that distributions set differently is stated; no build id, no names of compilers, nothing of this machine.
NAMELESS = ("-fno-asynchronous-unwind-tables", "-fno-ident", "-Wl,--build-id=none", "-Wl,-z,noexecstack")
MACHINES = {
    "x86_64": ("-march=x86-64", "-mtune=generic", "-fcf-protection=none"),
    "aarch64": ("-march=armv8-a", "-mtune=generic", "-mbranch-protection=none"),
}


@dataclass(frozen=True)
class Product:
    """Something that is built from one source. `file` is its place for a machine; `tried` runs it and says its version."""

    source: Path
    version: str
    file: str
    flags: tuple[str, ...]
    tried: Callable[[Path], str]
    includes: tuple[str, ...] = ()

    @property
    def manifest(self) -> Path:
        return self.source.with_name("manifest.json")

    def binary(self, machine: str) -> Path:
        return self.source.parent / self.file.format(machine=machine)

    def all_flags(self, machine: str) -> tuple[str, ...]:
        return (*self.flags, *NAMELESS, *MACHINES[machine])


def version_of_cage(program: Path) -> str:
    return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout.strip()


def version_of_module(module: Path) -> str:
    name = module.name.partition(".")[0]
    program = f"import sys; sys.path.insert(0, {str(module.parent)!r}); import {name}; print({name}.VERSION)"
    return subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()


PRODUCTS = {
    "cage": Product(
        BACKEND / "executors/local/cage/cage.c",
        "cage 8",  # what the program prints, and how each spec begins
        "cage-{machine}",
        ("-O2", "-s", "-static", "-nostdlib", "-ffreestanding", "-fno-stack-protector", "-fno-pie", "-no-pie"),
        version_of_cage,
    ),
    "output": Product(
        BACKEND / "core/recording/native/output.c",
        "output 3",
        "{machine}/_output.abi3.so",
        ("-O3", "-s", "-shared", "-fPIC", "-nostdlib", "-fno-stack-protector"),
        version_of_module,
        (f"-I{sysconfig.get_path('include')}",),
    ),
}


def main() -> None:
    """Build, or check what is there; ends with status 1 and what is wrong."""
    parser = argparse.ArgumentParser(description="Build what is written in C for every machine.")
    parser.add_argument("products", nargs="*", metavar="PRODUCT", help="cage, output; both if none is named")
    parser.add_argument("--check", action="store_true", help="compare with the files in the repository, write nothing")
    options = parser.parse_args()
    if unknown := set(options.products) - set(PRODUCTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PRODUCTS)}")
    wanted = [PRODUCTS[name] for name in options.products or PRODUCTS]
    work = check if options.check else build
    if problems := [problem for product in wanted for problem in work(product)]:
        sys.exit("\n".join(problems))


def build(product: Product) -> list[str]:
    """Write all binaries and the manifest; returns what is missing for that."""
    missing = [
        f"There is no gcc for {machine} (Debian: {package(machine)})." for machine in MACHINES if not gcc(machine)
    ]
    if missing:
        return missing
    binaries = {machine: compiled(product, machine) for machine in MACHINES}
    for machine, data in binaries.items():
        target = product.binary(machine)
        target.parent.mkdir(exist_ok=True)
        target.unlink(missing_ok=True)  # it may be running
        target.write_bytes(data)
        target.chmod(0o755)
    product.manifest.write_text(json.dumps(manifest(product, binaries), indent=2) + "\n")
    return []


def manifest(product: Product, binaries: dict[str, bytes]) -> dict[str, Any]:
    """What is known about the binaries."""
    about = {
        machine: {"sha256": digest(data), "compiler": compiler(machine), "flags": product.all_flags(machine)}
        for machine, data in binaries.items()
    }
    source = digest(product.source.read_bytes())
    return {"version": product.version, "licence": "MIT", "source_sha256": source, "binaries": about}


def check(product: Product) -> list[str]:
    """What differs from the manifest, or from what is built here."""
    known = json.loads(product.manifest.read_text())
    same = known["source_sha256"] == digest(product.source.read_bytes())
    problems = [] if same else [f"{product.source.name} was changed after the build."]
    for machine in MACHINES:
        about = known["binaries"][machine]
        shipped = digest(product.binary(machine).read_bytes())
        if about["flags"] != list(product.all_flags(machine)) or about["sha256"] != shipped:
            problems.append(f"{shown(product, machine)} or its flags are not those of the manifest.")
    buildable = [machine for machine in MACHINES if gcc(machine)]
    if platform.machine() not in buildable:
        problems.append(f"There is no gcc for this machine ({platform.machine()}), so nothing could be compared.")
    problems += [line for machine in buildable for line in compare(product, machine, known["binaries"][machine])]
    return [*problems, "Run scripts/build_binaries.py and commit what it writes."] if problems else []


def compare(product: Product, machine: str, about: dict[str, Any]) -> list[str]:
    """Build again and compare, byte for byte where the compiler is the one that built the shipped binary."""
    data, name = compiled(product, machine), shown(product, machine)
    if compiler(machine) != about["compiler"]:
        print(f"{name}: built, not compared. Made by {about['compiler']}, here is {compiler(machine)}.")
        return []
    if digest(data) != about["sha256"]:
        return [f"{name} is not what {about['compiler']} builds from {product.source.name}."]
    print(f"{name}: the same bytes as built by {about['compiler']}.")
    return []


def shown(product: Product, machine: str) -> str:
    return str(product.binary(machine).relative_to(product.source.parent))


def compiled(product: Product, machine: str) -> bytes:
    """The binary of a machine. Raises CalledProcessError where the source does not compile without warnings."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, product.binary(machine).name)
        flags = (*product.all_flags(machine), *product.includes, *WARNINGS)
        subprocess.run([gcc(machine) or "gcc", *flags, str(product.source), "-o", str(made)], check=True)
        if machine == platform.machine():
            said = product.tried(made)
            assert said == product.version, f"{product.source.name} is {said}, this script builds {product.version}"
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
