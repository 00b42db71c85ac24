"""The hints that name a verb."""

from pathlib import Path

import pytest

from backend.runtime import command_line


def test_where_run_py_is_installed_it_is_named() -> None:
    assert command_line.verb("user list") == "python3 run.py user list"


def test_elsewhere_the_module_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command_line, "FOLDER", tmp_path)
    assert command_line.verb("user list") == "python -m backend user list"
