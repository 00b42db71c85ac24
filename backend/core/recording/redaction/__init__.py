"""Secrets masked: in the output of a command, wherever its reads are cut, and in texts for the audit and the logs.

There are two kinds of secrets. A value is a secret known in full; it is found as it is and in the forms that programs
give it (base64, percent-encoded, JSON). A pattern is a regular expression that describes what secrets look like.

How patterns are matched. A pattern is matched against one line at a time, as UTF-8 bytes, without its line end and
without its colours. It is written in ASCII, its sets and classes mean ASCII, and its repeats count bytes. A match of up
to LONGEST_MATCH bytes is found wherever the reads are cut and however long the line is; in a line of up to LINE_HELD
bytes, a longer one too. A group named `secret` masks only that group. A match of nothing is ignored.

What is held back. `feed` returns complete lines and holds the line that has not ended, which is not shown to anyone
yet. `release` returns the part of it which cannot be the start of a secret. For a pattern that is a plain sequence of
characters, sets and repeats, such as `tok_[a-z0-9]{20,}`, the end of the line decides; for any other pattern the line
is held until it ends, or is longer than LINE_HELD. One or two characters are released even if they may be a start:
they reveal next to nothing, and prompts end like that.
"""

from backend.core.recording.redaction.masks import Masks
from backend.core.recording.redaction.patterns import DEFAULT_PATTERNS, LONGEST_MATCH
from backend.core.recording.redaction.private_keys import KEY_LINES
from backend.core.recording.redaction.stream import LINE_HELD

__all__ = ["DEFAULT_PATTERNS", "KEY_LINES", "LINE_HELD", "LONGEST_MATCH", "Masks"]
