"""Private keys: the one kind of secret that spans lines."""

import re

from backend.core.recording.redaction.patterns import PRIVATE_KEY, SecretPattern
from backend.core.recording.redaction.spans import Span

KEY_LINES = 1024  # lines of a private key; the largest in use have 300
KEY_MARKER = b"PRIVATE KEY-----"

_BEGIN = re.compile(PRIVATE_KEY.encode())
_END = re.compile(rb"-----END [A-Z0-9 ]*PRIVATE KEY-----")
_LINE = re.compile(rb"\W*|\W*[A-Za-z0-9+/]+=*\W*|[\w-]+: .*|.*[A-Za-z0-9+/]{32,}.*")
_BEGIN_PATTERN = SecretPattern.of(PRIVATE_KEY)


def possible_key_start(text: bytes) -> int:
    """Where a key begins, or may begin, in a line that has not ended; the length of `text` if there is none."""
    key = _BEGIN.search(text)
    return key.start() if key else _BEGIN_PATTERN.possible_start(text)


def key_spans(text: bytes, lines: int) -> tuple[list[Span], int]:
    """The keys in a text. One ends with its END line, or before the first line that cannot be part of it.

    `lines` is how many lines of a key may follow, before and after this text.
    """
    spans, at = [], 0
    while at < len(text):
        begin = at
        if not lines:
            found = _BEGIN.search(text, at)
            if not found:
                break
            begin, at, lines = found.start(), found.end(), KEY_LINES
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        if last := _END.search(text, at, end):
            end, lines = last.end(), 0
        elif begin == at and not _LINE.fullmatch(text, at, end):
            lines = 0
            continue
        else:
            lines -= 1
        spans.append((begin, end))
        at = end + (text[end : end + 1] == b"\n")
    return [span for span in spans if span[0] < span[1]], lines
