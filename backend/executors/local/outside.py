"""Programs that are not part of the machine's own: their command lines, and what they alone get."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from functools import lru_cache
from pathlib import Path

from backend.core.dataclasses import dataclass
from backend.executors.local.confinement import RUNNABLE
from backend.executors.local.homes import Homes
from backend.executors.local.process_spec import Ports

SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin"
SEARCHED = SEARCH_PATH.split(":")
STANDARD = {
    "PATH": SEARCH_PATH,
    "LC_CTYPE": "C.UTF-8",  # not LANG: loading all categories takes a fifth of the time of `echo`
    "TERM": "xterm-256color",
    "PYTHONUNBUFFERED": "1",
    "GIT_EDITOR": "true",  # an editor would wait for a terminal for ever
}
SHEBANG_LENGTH = 256  # bytes; the kernel reads no more
MOST_HOPS = 40  # links; the kernel follows no more
OF_PYTHON = ("bin", "lib", "lib64")  # the folders of an installed Python; its prefix may hold anything else


@dataclass(frozen=True, slots=True)
class OutsideProgram:
    """A program with a command line of its own: words put before the arguments, and what it alone gets.

    Those are variables, a part of the network, further folders to read, and with `homes` a new home for each command.
    """

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    network: Ports | None = None
    readable: tuple[str, ...] = ()
    homes: Homes | None = None


@lru_cache(maxsize=256)
def of_machine(name: str) -> OutsideProgram:
    """One of the machine's own, by its name or path."""
    return OutsideProgram((name,))


def find_program(name: str) -> str | None:
    """The file that a program's name or path stands for; the search path is fixed."""
    for path in (name,) if "/" in name else [f"{folder}/{name}" for folder in SEARCHED]:
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def program_folders(command: Iterable[str]) -> tuple[str, ...]:
    """What a command line needs to read: the folders of the files it names, the links that lead to them and, if one of
    them is or starts with the Python of a virtual environment, the environment and the Python that it was made from."""
    first, *rest = command
    named = [word for word in rest if os.path.isabs(word) and os.path.isfile(word)]
    found = find_program(first)
    paths = dict.fromkeys(path for file in (found, *named) if file for path in _folders_of(Path(file)))
    needed = [path for path in paths if path.is_dir() or path.parent not in paths]
    return tuple(str(path) for path in needed if not _is_open_to_all(path))


def _folders_of(file: Path) -> Iterator[Path]:
    yield file.parent
    yield from _hops(file)
    real = file.resolve()
    yield real.parent
    for interpreter in (file, real, *_interpreter(real)):
        yield interpreter.parent
        yield from _virtual_environment(interpreter)


def _hops(file: Path) -> Iterator[Path]:
    """What each link leads to, as it is written: in a room exist the names that are listed, and not others for the same."""
    for _ in range(MOST_HOPS):
        if not file.is_symlink():
            return
        file = Path(os.path.normpath(file.parent / os.readlink(file)))
        if file.exists():
            yield file


def _interpreter(script: Path) -> Iterator[Path]:
    """The program that a script starts with: what its first line names."""
    try:
        with script.open("rb") as file:
            line = file.readline(SHEBANG_LENGTH)
    except OSError:
        return
    if line.startswith(b"#!/"):
        yield Path(os.fsdecode(line[2:].split()[0]))


def _virtual_environment(interpreter: Path) -> Iterator[Path]:
    """The virtual environment that an interpreter belongs to, and the Python that this was made from."""
    environment = interpreter.parent.parent
    try:
        lines = (environment / "pyvenv.cfg").read_text(errors="replace").splitlines()
    except OSError:
        return
    yield environment
    values = {name.strip().lower(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    pythons = [Path(values["home"])] if "home" in values else []
    for binaries in (*pythons, interpreter.resolve().parent):
        yield from (binaries.parent / name for name in OF_PYTHON if (binaries.parent / name).is_dir())


def _is_open_to_all(folder: Path) -> bool:
    """Whether every command may read it anyway."""
    return any(folder.resolve().is_relative_to(os.path.realpath(open_folder)) for open_folder in RUNNABLE)
