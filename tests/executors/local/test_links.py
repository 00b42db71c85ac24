"""Where paths lead: the same as the library says, but with the kernel's bound of links, and with one of time."""

import itertools
import os
from pathlib import Path
from random import Random

import pytest

from backend.core.decisions import Decision
from backend.executors.local.links import LINK_TIME, LinkReader, TooLong
from backend.executors.local.workspace import FolderView

NAMES = ("a", "b", "c", "d")


def reader(step: float = 0.0) -> LinkReader:
    """One for which every look at its clock takes `step` seconds."""
    times = itertools.count()
    return LinkReader(lambda: next(times) * step, LINK_TIME)


def fill(folder: Path, random: Random) -> None:
    """Folders, files and links to each other, to nothing and out of the folder."""
    places = [folder]
    for _ in range(12):
        place = random.choice(places) / random.choice(NAMES)
        if os.path.lexists(place):
            continue
        match random.randrange(4):
            case 0:
                place.mkdir()
                places.append(place)
            case 1:
                place.touch()
            case _:
                place.symlink_to(words(random) if random.randrange(4) else folder / words(random))


def words(random: Random) -> str:
    return "/".join(random.choice((*NAMES, "..", ".")) for _ in range(random.randrange(1, 5)))


@pytest.mark.parametrize("seed", range(40))
def test_it_is_what_the_library_says(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    fill(tmp_path, random)
    for _ in range(60):
        path = f"{tmp_path}/{words(random)}"
        try:
            found = reader().resolve(path)
        except OSError:
            with pytest.raises(OSError, match=r"symbolic links|No such file|Not a directory"):
                os.stat(path)
        else:
            assert found == os.path.realpath(path), path


def test_a_long_chain_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l0").touch()
    for number in range(1, 3001):
        (tmp_path / f"l{number}").symlink_to(f"l{number - 1}")
    view = FolderView(tmp_path)
    assert view.check(("l20",), view.root) is None
    for name in ("l100", "l3000"):
        refusal = view.check((name,), view.root)
        assert refusal
        assert (refusal.rule, "symbolic links" in refusal.reason) == ("path.link", True)
        entered = view.enter(name)
        assert isinstance(entered, Decision)
        assert entered.rule == "path.link"


def test_links_to_what_does_not_exist_are_followed_as_far(tmp_path: Path) -> None:
    for number in range(1, 101):
        (tmp_path / f"l{number}").symlink_to(f"l{number - 1}")
    with pytest.raises(OSError, match="symbolic links"):
        reader().resolve(f"{tmp_path}/l100")
    assert reader().resolve(f"{tmp_path}/l20") == f"{tmp_path}/l0"


def test_a_path_of_many_missing_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="too long"):
        reader().resolve(f"{tmp_path}{'/x' * 500}")


def test_the_time_of_a_line_is_for_all_its_paths(tmp_path: Path) -> None:
    links = reader(LINK_TIME / 10)
    for _ in range(10):
        links.resolve(str(tmp_path))
    with pytest.raises(TooLong):
        links.resolve(str(tmp_path))
    with pytest.raises(TooLong):
        links.exists(str(tmp_path))


def test_links_that_take_long_are_refused(tmp_path: Path) -> None:
    """Each name makes the kernel walk through tens of thousands of folders."""
    (tmp_path / "d").mkdir()
    # A mount somewhere lets the kernel walk a path again, and it counts the links of both walks to its 40.
    for number in range(19):
        (tmp_path / f"k{number}").symlink_to("d/../" * 640 + f"k{number + 1}")
    (tmp_path / "k19").touch()
    view = FolderView(tmp_path).for_line()
    refusal = view.check(("k0",) * 1000, view.root)
    assert refusal
    assert refusal.rule == "limits.links"
    assert FolderView(tmp_path).check(("k19",), view.root) is None
