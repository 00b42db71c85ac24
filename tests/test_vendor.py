"""The vendored files are those of the table beside them, and nothing points to another host."""

import hashlib
import re
from pathlib import Path

import pytest

FRONTEND = Path(__file__).parent.parent / "frontend"
ROWS = re.findall(
    r"^\| `([^`]+)` \| (\S+) \| (\S+) \| `([0-9a-f]{64})` \|$", (FRONTEND / "vendor/README.md").read_text(), re.M
)
# Ours: everything that is not vendored.
OWN_FILES = [
    path
    for path in FRONTEND.rglob("*")
    if path.suffix in {".html", ".js", ".css"} and path.relative_to(FRONTEND).parts[0] != "vendor"
]

LICENCES = {"MIT": "Permission is hereby granted, free of charge", "Apache-2.0": "Apache License"}


def test_every_vendored_file_is_listed() -> None:
    assert {path.name for path in (FRONTEND / "vendor").iterdir()} == {row[0] for row in ROWS} | {"README.md"}


@pytest.mark.parametrize(("name", "package", "licence", "digest"), ROWS)
def test_a_vendored_file_has_its_hash(name: str, package: str, licence: str, digest: str) -> None:
    assert hashlib.sha256((FRONTEND / "vendor" / name).read_bytes()).hexdigest() == digest
    assert re.search(r"@\d+\.\d+\.\d+$", package)
    assert licence in LICENCES


@pytest.mark.parametrize("package", sorted({row[1] for row in ROWS}))
def test_a_package_brings_the_text_of_its_licence(package: str) -> None:
    rows = [row for row in ROWS if row[1] == package]
    (text,) = [(FRONTEND / "vendor" / row[0]).read_text() for row in rows if row[0].startswith("LICENSE-")]
    assert LICENCES[rows[0][2]] in text
    if rows[0][2] == "Apache-2.0":  # section 4 (d) wants the notice too
        assert any(row[0].startswith("NOTICE-") for row in rows)


def test_no_vendored_file_points_to_a_source_map() -> None:
    for path in (FRONTEND / "vendor").iterdir():
        assert "sourceMappingURL=" not in path.read_text().replace("`", "")[-300:], path.name


def test_the_page_loads_nothing_from_elsewhere() -> None:
    assert {path.suffix for path in OWN_FILES} == {".html", ".js", ".css"}
    for path in OWN_FILES:
        assert not re.search(r"(src|href|from|import|url\()\s*[=(]?\s*[\"']?https?:", path.read_text()), path.name


def test_output_never_becomes_html() -> None:
    for path in OWN_FILES:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", path.read_text()), (
            path.name
        )
