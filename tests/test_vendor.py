"""The vendored files are those of the table beside them, and nothing points to another host."""

import hashlib
import re
from pathlib import Path

import pytest

FRONTEND = Path(__file__).parent.parent / "frontend"
ROWS = re.findall(
    r"^\| `([^`]+)` \| (\S+) \| (\S+) \| `([0-9a-f]{64})` \|$", (FRONTEND / "vendor/README.md").read_text(), re.M
)


def test_every_vendored_file_is_listed() -> None:
    assert {path.name for path in (FRONTEND / "vendor").iterdir()} == {row[0] for row in ROWS} | {"README.md"}


@pytest.mark.parametrize(("name", "package", "licence", "digest"), ROWS)
def test_a_vendored_file_has_its_hash(name: str, package: str, licence: str, digest: str) -> None:
    assert hashlib.sha256((FRONTEND / "vendor" / name).read_bytes()).hexdigest() == digest
    assert re.search(r"@\d+\.\d+\.\d+$", package)
    assert licence == "MIT"


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for path in [*FRONTEND.glob("*.html"), *FRONTEND.glob("*.js"), *FRONTEND.glob("*.css")]:
        assert not re.search(r"(src|href|from|import|url\()\s*[=(]?\s*[\"']?https?:", path.read_text()), path.name


def test_output_never_becomes_html() -> None:
    for path in FRONTEND.glob("*.js"):
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), (
            path.name
        )
