"""Files that the service opens in a workspace: by the kernel's own check, and by the walk that takes its place."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.executors.local import openat2 as files
from backend.executors.local.openat2 import open_inside

OWNER = (65534, 65534)


@pytest.fixture(params=["openat2", "walk"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    if request.param == "walk":
        monkeypatch.setattr(files, "_openat2", lambda *_: None)
    (tmp_path / "root/sub").mkdir(parents=True)
    (tmp_path / "outside").write_text("secret")
    return tmp_path / "root"


def opened(root: Path, target: str, operator: str = "<", owner: tuple[int, int] | None = None) -> str:
    descriptor = open_inside(str(root), str(root), target, operator, owner)
    with os.fdopen(descriptor, "r" if operator == "<" else "w") as file:
        if operator == "<":
            return file.read()
        file.write("written")
    return ""


@pytest.mark.parametrize("operator", ["<", ">", ">>"])
@pytest.mark.parametrize("target", ["../outside", "/etc/passwd", "link", "folder/outside", "sub/../../outside", "loop"])
def test_nothing_outside_is_opened(root: Path, target: str, operator: str) -> None:
    (root / "link").symlink_to("../outside")
    (root / "folder").symlink_to("..")
    (root / "loop").symlink_to("loop")
    with pytest.raises(OSError) as caught:
        opened(root, target, operator)
    assert caught.value.filename == target
    assert (root.parent / "outside").read_text() == "secret"


def test_files_are_made_emptied_continued_and_read(root: Path) -> None:
    opened(root, "sub/f", ">")
    opened(root, f"{root}/sub/f", ">>")
    assert opened(root, "sub/f") == "writtenwritten"
    opened(root, "sub/f", ">")
    assert opened(root, "sub/f") == "written"
    assert opened(root, "/dev/null") == ""


def test_only_ordinary_files(root: Path) -> None:
    os.mkfifo(root / "pipe")
    for target, operator in (("sub", "<"), ("pipe", "<"), ("pipe", ">"), ("sub", ">")):
        with pytest.raises(OSError):
            opened(root, target, operator)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root opens for others")
def test_files_belong_to_whoever_runs_the_programs(root: Path) -> None:
    opened(root, "new", ">", OWNER)
    assert (root / "new").stat().st_uid == OWNER[0]
    opened(root, "new", ">", OWNER)
    (root / "roots").write_text("kept")
    with pytest.raises(PermissionError):
        opened(root, "roots", ">", OWNER)
    assert (root / "roots").read_text() == "kept"


def test_no_descriptor_is_left(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for target in ("sub", "missing", "../outside", "sub/x/y"):
        with pytest.raises(OSError):
            opened(root, target)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def swapper(root: Path) -> Iterator[None]:
    """Exchanges a folder for a link that leads outside and back, as fast as it can."""
    real, link, name = root / "real", root / "out", root / "swapped"
    real.mkdir()
    (real / "outside").write_text("harmless")
    link.symlink_to("..")
    going = threading.Event()
    going.set()

    def swap() -> None:
        while going.is_set():
            for source in (real, link):
                os.rename(source, name)
                os.rename(name, source)

    thread = threading.Thread(target=swap)
    thread.start()
    yield
    going.clear()
    thread.join()


def test_what_is_exchanged_meanwhile_leads_nowhere(root: Path, swapper: None) -> None:
    seen = set()
    for _ in range(5000):
        try:
            seen.add(opened(root, "swapped/outside"))
        except OSError:
            seen.add("refused")
    assert "secret" not in seen
    assert "refused" in seen
