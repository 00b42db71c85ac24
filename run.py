"""Set up and run Gatepost with nothing but Python: `python3 run.py`, `python3 run.py test`.

Standard library only. Creates `.venv` next to this file, installs the pinned requirements into it when they or Python
have changed, and continues in `.venv/bin/python`.
"""

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
CORE, TEST = ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt"
OLDEST = (3, 11)
WORKERS = ["-n", "4"]  # of the tests, many of which wait; `test -n 0` runs them in one process
DEBIAN = "On Debian and Ubuntu: apt-get install python3-venv, then run this again."
SHOWN_LINES = 15  # of what pip said when it failed

USAGE = """\
usage: python3 run.py [serve] [OPTION ...]   set up and serve (see `python3 run.py serve --help`)
       python3 run.py test [ARGUMENT ...]    set up and run the tests; arguments go to pytest
       python3 run.py setup [--test]         set up only, with --test for the tests too
       python3 run.py VERB [ARGUMENT ...]    agent, host, runner, policy, protection, user, token, audit, schedule, notification, hook: `python3 run.py VERB --help`
       python3 run.py --version
"""


class SetupError(Exception):
    """The setup failed; the message says what to do."""


def main(arguments: Sequence[str]) -> int:
    """Set up, then become the program that was asked for."""
    verb, rest = (arguments[0], list(arguments[1:])) if arguments else ("serve", [])
    if verb in {"-h", "--help"}:
        print(USAGE, end="")
        return 0
    try:
        check_python(sys.version_info[:2])
        set_up([CORE, TEST] if verb == "test" or rest == ["--test"] else [CORE])
    except SetupError as error:
        print(f"run.py: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"run.py: {where}{error.strerror}. The setup writes to {ROOT}, which needs free space.", file=sys.stderr)
        return 1
    match verb:
        case "setup":
            return 0
        case "test":
            return become(["-m", "pytest", *WORKERS, *rest])
        case _ if verb.startswith("-") and verb != "--version":
            return become(["-m", "backend", "serve", verb, *rest])
        case _:
            return become(["-m", "backend", verb, *rest])


def check_python(version: tuple[int, ...]) -> None:
    """Refuse a Python that is too old."""
    if version < OLDEST:
        found, oldest = (".".join(map(str, each)) for each in (version, OLDEST))
        raise SetupError(f"Python {oldest} or newer is needed, this is {found}. Try `python3.11 run.py`.")


def set_up(requirements: list[Path]) -> None:
    """Bring `.venv` up to date; does nothing when it is. Only one run.py at a time gets here."""
    with alone(ROOT / ".venv.lock"):
        for file in requirements:
            stamp = VENV / f".installed-{file.parent.name if file == TEST else 'core'}"
            current = fingerprint(file)
            if stamp.exists() and stamp.read_text() == current and python_of(VENV).exists():
                continue
            make_venv()
            install(file)
            stamp.write_text(current)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock; a second run.py waits and says so."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Waiting for another run.py to finish setting up ...", file=sys.stderr, flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fingerprint(file: Path) -> str:
    """What an installation of `file` depends on.

    Not where Python is, which is another place when `.venv` runs this, nor which build of a version it is: packages fit
    all of them, and a machine may have several.
    """
    version = ".".join(map(str, sys.version_info[:2]))
    python = (sys.implementation.name, version, sysconfig.get_platform(), sysconfig.get_config_var("SOABI"))
    return " ".join(map(str, (*python, hashlib.sha256(file.read_bytes()).hexdigest())))


def python_of(venv: Path) -> Path:
    """The interpreter in a virtual environment."""
    return venv / "bin" / "python"


def make_venv() -> None:
    """Create `.venv`, again if it is incomplete or of another Python."""
    if works(python_of(VENV)):
        return
    print(f"Making {VENV.name} with Python {'.'.join(map(str, sys.version_info[:3]))} ...", file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", "--clear", str(VENV)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SetupError(f"making {VENV.name} failed:\n{tail(done.stdout + done.stderr)}\n{DEBIAN}")


def works(python: Path) -> bool:
    """Whether an interpreter is there and is of the running version."""
    check = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    try:
        return subprocess.run([python, "-c", check], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def install(file: Path) -> None:
    """Install pinned requirements and say how long it took."""
    shown = file.relative_to(ROOT)
    print(f"Installing {shown} ...", file=sys.stderr, flush=True)
    begun = time.monotonic()
    failure = ""
    for installer in installers():
        command = [*installer, "--quiet", "-r", file]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if not done.returncode:
            print(f"Installed {shown} in {time.monotonic() - begun:.0f} s.", file=sys.stderr, flush=True)
            return
        failure = tail(done.stdout)
    raise SetupError(
        f"installing {shown} failed:\n{failure}\n"
        "Check the network and the settings of pip, then run this again; it goes on where it stopped."
    )


def installers() -> Iterator[list[str | Path]]:
    """What installs into `.venv`: uv where it is there; then pip, because a mirror in the settings of pip is unknown to uv."""
    if uv := shutil.which("uv"):
        yield [uv, "pip", "install", "--python", python_of(VENV)]
    yield pip()


def pip() -> list[str | Path]:
    """The pip that comes with Python, which is not installed itself."""
    if not (found := importlib.util.find_spec("ensurepip")) or not found.origin:
        raise SetupError(f"pip is missing.\n{DEBIAN}")
    places = (Path(found.origin).parent / "_bundled", Path("/usr/share/python-wheels"))  # the second is Debian's
    wheels = [wheel for place in places for wheel in place.glob("pip-*.whl")]
    if not wheels:
        raise SetupError(f"pip is missing.\n{DEBIAN}")
    return [python_of(VENV), wheels[0] / "pip", "install", "--disable-pip-version-check"]


def tail(text: str) -> str:
    """The last lines of what a program printed."""
    return "\n".join(text.strip().splitlines()[-SHOWN_LINES:])


def become(arguments: list[str]) -> int:
    """Replace this process by the interpreter of `.venv`, in the project's folder."""
    os.chdir(ROOT)
    python = str(python_of(VENV))
    if sys.stdout:  # None if it is closed
        sys.stdout.flush()
    os.execv(python, [python, *arguments])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
