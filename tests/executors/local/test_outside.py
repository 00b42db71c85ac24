"""The folders that a command line needs to read."""

import subprocess
import sys
from pathlib import Path

import pytest

from backend.executors.local.outside import find_program, program_folders


def _file(path: Path, text: str = "", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """A Python outside /usr."""
    (tmp_path / "python/lib").mkdir(parents=True)
    (tmp_path / "python/private").mkdir()
    return _file(tmp_path / "python/bin/python3")


@pytest.fixture
def venv(tmp_path: Path, python: Path) -> Path:
    """A virtual environment of it."""
    (tmp_path / "venv/bin").mkdir(parents=True)
    (tmp_path / "venv/bin/python").symlink_to(python)
    (tmp_path / "venv/pyvenv.cfg").write_text(f"include-system-site-packages = false\nhome = {python.parent}\n")
    return tmp_path / "venv"


def needed(*command: str | Path) -> set[str]:
    return set(program_folders(map(str, command)))


def environment(venv: Path) -> set[str]:
    python = venv.parent / "python"
    return {str(folder) for folder in (venv, venv / "bin", python / "bin", python / "lib")}


def test_programs_of_the_machine_need_nothing() -> None:
    assert needed("env") == needed("no-such-program") == needed("/usr/bin/env", "x") == set()


def test_the_interpreter_of_a_virtual_environment_needs_it_and_its_python(venv: Path) -> None:
    assert needed(venv / "bin/python", "-m", "tool") == environment(venv)


def test_a_script_of_a_virtual_environment_does_too(venv: Path) -> None:
    script = _file(venv / "bin/tool", f"#!{venv}/bin/python -I\n")
    assert needed(script) == environment(venv)


def test_a_script_elsewhere_is_followed_to_its_environment(venv: Path, tmp_path: Path) -> None:
    script = _file(tmp_path / "tools/tool", f"#!{venv}/bin/python\n")
    assert needed(script) == {*environment(venv), str(tmp_path / "tools")}
    (tmp_path / "links").mkdir()
    (tmp_path / "links/tool").symlink_to(script)
    assert needed(tmp_path / "links/tool") == {*environment(venv), str(tmp_path / "tools"), str(tmp_path / "links")}


def test_a_python_that_is_a_link_is_followed(venv: Path, python: Path, tmp_path: Path) -> None:
    (tmp_path / "real/lib").mkdir(parents=True)
    (tmp_path / "real/bin").mkdir()
    python.rename(tmp_path / "real/bin/python3.99")
    python.symlink_to(tmp_path / "real/bin/python3.99")
    real = {str(tmp_path / "real/bin"), str(tmp_path / "real/lib")}
    assert needed(venv / "bin/python") == environment(venv) | real


def test_a_link_on_the_way_is_needed_but_not_what_is_next_to_it(tmp_path: Path, python: Path) -> None:
    for name in ("first", "private"):
        (tmp_path / name).mkdir()
    (tmp_path / "private/python").symlink_to("../python/bin/python3")
    (tmp_path / "first/tool").symlink_to(tmp_path / "private/python")
    expected = {tmp_path / "first", tmp_path / "private/python", python.parent}
    assert needed(tmp_path / "first/tool") == {str(path) for path in expected}


def test_files_that_are_named_need_their_folders(tmp_path: Path) -> None:
    script = _file(tmp_path / "app/cli.py", mode=0o644)
    assert needed("python3", script, "--config", tmp_path) == {str(tmp_path / "app")}


@pytest.mark.parametrize("text", ["", "#!", "#!/", "#! \n", "\0\xff#!", "#!relative\n"])
def test_any_first_line_is_read(text: str, tmp_path: Path) -> None:
    assert str(tmp_path) in needed(_file(tmp_path / "tool", text))


def test_an_environment_without_a_home_is_read_alone(tmp_path: Path, venv: Path) -> None:
    (venv / "pyvenv.cfg").write_bytes(b"\xff\n= =\nhome\n")
    assert str(venv) in needed(venv / "bin/python")


def test_a_real_environment(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "made"], check=True)
    folders = needed(tmp_path / "made/bin/python")
    assert str(tmp_path / "made") in folders
    base = Path(sys.base_prefix, "lib")
    assert str(base) in folders or base.is_relative_to("/usr")


def test_a_program_is_found_by_name_or_path(tmp_path: Path) -> None:
    assert find_program("env") == "/usr/bin/env"
    assert find_program(str(_file(tmp_path / "x"))) == str(tmp_path / "x")
    assert find_program(str(tmp_path)) is find_program("no-such-program") is None
