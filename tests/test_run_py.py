"""run.py: setting up once, handing over, saying what is wrong. The environment it makes is a stand-in here."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import run


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment: what the first of them costs, the others need not."""
    place = tmp_path_factory.mktemp("environment") / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    return place


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose requirements are empty files, so that a real pip has nothing to fetch."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "requirements.txt").write_text("")
    (tmp_path / "tests/requirements.txt").write_text("-r ../requirements.txt\n")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(run, "CORE", tmp_path / "requirements.txt")
    monkeypatch.setattr(run, "TEST", tmp_path / "tests/requirements.txt")
    return tmp_path


def test_a_python_that_is_too_old_is_told_which_is_needed() -> None:
    with pytest.raises(run.SetupError, match=r"Python 3\.11 or newer is needed, this is 3\.9"):
        run.check_python((3, 9))
    run.check_python((3, 11))
    run.check_python((3, 14))


def test_setting_up_happens_once_and_again_after_a_change(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (project / ".venv/bin").mkdir(parents=True)
    (project / ".venv/bin/python").write_text("broken")  # a half made environment is made again
    run.set_up([run.CORE])
    assert "Installed requirements.txt" in capfd.readouterr().err
    assert run.works(run.python_of(run.VENV))
    run.set_up([run.CORE])
    assert capfd.readouterr().err == ""
    run.CORE.write_text("# changed\n")
    run.set_up([run.CORE, run.TEST])
    said = capfd.readouterr().err
    assert "Making" not in said
    assert said.count("Installed") == 2


def test_the_interpreter_of_the_environment_finds_nothing_to_install(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed: list[Path] = []
    monkeypatch.setattr(run, "install", installed.append)
    run.set_up([run.CORE])
    monkeypatch.setattr(sys, "executable", str(run.python_of(run.VENV)))
    monkeypatch.setattr(sys, "version", "3.11 of another build")  # /usr/bin/python3 next to one of pyenv, for example
    run.set_up([run.CORE])
    assert installed == [run.CORE]


def test_an_environment_whose_python_is_gone_is_made_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "install", lambda _: None)
    run.set_up([run.CORE])
    run.python_of(run.VENV).unlink()
    run.set_up([run.CORE])
    assert capfd.readouterr().err.count("Making") == 2


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [("sys", "version_info", (3, 99, 0)), ("sysconfig", "get_platform", lambda: "linux-z80")],
    ids=["version", "platform"],
)
def test_another_python_installs_again(
    project: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str, value: object
) -> None:
    before = run.fingerprint(run.CORE)
    monkeypatch.setattr(f"{module}.{name}", value)
    assert run.fingerprint(run.CORE) != before


def test_what_pip_says_is_shown_when_it_fails(project: Path, environment: Path) -> None:
    run.VENV.symlink_to(environment)
    run.CORE.write_text("this is no requirement\n")
    with pytest.raises(run.SetupError, match=r"installing requirements\.txt failed:[\s\S]*this is no requirement"):
        run.set_up([run.CORE])
    run.CORE.write_text("")
    run.set_up([run.CORE])


def test_uv_installs_where_it_is_there(
    project: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = tmp_path / "said"
    (tmp_path / "uv").write_text(f'#!/bin/sh\necho "$@" > {said}\n')
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    run.VENV.symlink_to(environment)
    run.CORE.write_text("# for uv\n")
    run.set_up([run.CORE])
    assert said.read_text().split() == [
        *("pip", "install", "--python", str(run.python_of(run.VENV))),
        *("--quiet", "-r", str(run.CORE)),
    ]


def test_pip_installs_where_uv_cannot(
    project: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "uv").write_text("#!/bin/sh\necho no index; exit 2\n")
    (tmp_path / "uv").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    run.VENV.symlink_to(environment)
    run.CORE.write_text("# for pip\n")
    run.set_up([run.CORE])
    assert "Installed requirements.txt" in capfd.readouterr().err


def test_where_pip_is_missing_it_is_told_how_to_get_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(run.SetupError, match=r"pip is missing\.\nOn Debian and Ubuntu: apt-get install python3-venv"):
        run.pip()


def test_a_second_one_waits_for_the_first(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = []
    holding = threading.Event()

    def second() -> None:
        holding.wait()
        with run.alone(project / "lock"):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with run.alone(project / "lock"):
        holding.set()
        while "Waiting" not in capsys.readouterr().err:
            pass
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("given", "becomes", "files"),
    [
        ([], ["-m", "backend", "serve"], 1),
        (["--port", "1"], ["-m", "backend", "serve", "--port", "1"], 1),
        (["serve", "--port", "1"], ["-m", "backend", "serve", "--port", "1"], 1),
        (["test", "-k", "x"], ["-m", "pytest", *run.WORKERS, "-k", "x"], 2),
        (["policy", "check", "ls"], ["-m", "backend", "policy", "check", "ls"], 1),
        (["setup"], None, 1),
        (["setup", "--test"], None, 2),
    ],
)
def test_verbs_are_handed_over(
    monkeypatch: pytest.MonkeyPatch, given: list[str], becomes: list[str] | None, files: int
) -> None:
    seen: list[object] = []

    def become(arguments: list[str]) -> int:
        seen.append(arguments)
        return 0

    monkeypatch.setattr(run, "set_up", lambda requirements: seen.append(len(requirements)))
    monkeypatch.setattr(run, "become", become)
    assert run.main(given) == 0
    assert seen == [files, becomes] if becomes else [files]


def test_a_folder_that_cannot_be_written_to_is_named_in_one_line(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / ".venv.lock").mkdir()
    assert run.main(["setup"]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run.py: {project / '.venv.lock'}: Is a directory. ")


def test_it_hands_over_with_standard_output_closed(project: Path) -> None:
    words = "import run; run.python_of = lambda _: '/bin/echo'; run.become(['handed over'])"
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, words],
        cwd=Path(run.__file__).parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr


def test_it_tells_how_to_use_it() -> None:
    done = subprocess.run([sys.executable, run.__file__, "--help"], capture_output=True, text=True, check=True)
    assert "python3 run.py test" in done.stdout
