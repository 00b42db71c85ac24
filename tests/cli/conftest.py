"""The folder and the account that the tests of verbs start with."""

from pathlib import Path

import pytest

from backend.cli.main import main
from backend.runtime.settings import env_names


@pytest.fixture
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of this machine holds, and the data folder is the test's own."""
    for name in env_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ann(own_folder: None) -> None:
    """The account ann in a folder of its own."""
    assert main(["user", "add", "ann", "--no-password"]) == 0
