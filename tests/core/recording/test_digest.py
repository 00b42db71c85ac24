"""The digest of a recording, as events contain it."""

import pytest

from backend.core.recording.digest import RecordingDigest


def test_it_is_read_as_it_was_written() -> None:
    digest = RecordingDigest(12, "ab" * 32)
    assert RecordingDigest.read(digest.as_json()) == digest


@pytest.mark.parametrize("found", [None, [], {}, {"bytes": -1, "sha256": "ab"}, {"bytes": "1", "sha256": "ab"}])
def test_anything_else_is_refused(found: object) -> None:
    with pytest.raises(ValueError, match="not the digest of a recording"):
        RecordingDigest.read(found)
