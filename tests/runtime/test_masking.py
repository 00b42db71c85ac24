"""What is masked in events of the audit and in lines of the logs."""

from typing import Any

import pytest

from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from backend.runtime.masking import masked, masked_line

SECRET = "a-secret-of-the-service"
TOKEN = "gl_" + "a1" * 20
MASK = Masks.of((SECRET,), DEFAULT_PATTERNS).text


@pytest.mark.parametrize("secret", [SECRET, TOKEN])
@pytest.mark.parametrize("mask", [masked, masked_line])
def test_texts_are_masked_wherever_they_are(secret: str, mask: Any) -> None:
    value = {
        "path": f"/api/{secret}/x",
        "names": [secret, "ann"],
        "more": {"deep": (secret,)},
        "status": 404,
        "none": None,
    }
    assert mask(value, MASK) == {
        "path": "/api/[masked]/x", "names": ["[masked]", "ann"], "more": {"deep": ["[masked]"]}, "status": 404, "none": None,
    }  # fmt: skip


def test_a_line_without_a_secret_stays_as_it_is() -> None:
    line = {"event": "ended", "duration_ms": 12, "address": "127.0.0.1"}
    assert masked_line(line, MASK) is line
