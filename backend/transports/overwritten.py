"""Lines that were overwritten after a carriage return, as a terminal shows them: of each the text that remains. No I/O.

Lines are the inside of a JSON array of strings, as they are stored.
"""

import json
import re
from contextlib import suppress
from json.encoder import encode_basestring

from backend.core.recording.batches import split_items
from backend.core.recording.native import output

RETURN = b"\\r"
OVERWRITTEN = re.compile(rb"\\(?:r|u001b\[[0-9]{0,4}[GK])")  # in JSON
OVERWRITE = re.compile(r"\r|\x1b\[[01]?G")
ERASE = re.compile(r"\x1b\[(?:[0-2]?K|[0-9]{1,4}G)")  # or go on at a column


def shown_lines(items: bytes) -> bytes:
    """The lines as they are shown. Raises ValueError for what is no array of strings."""
    if output:
        with suppress(ValueError):  # lines that were encoded in another way than ours
            return output.shown_lines(items)
    return shown_in_python(items)


def shown_in_python(items: bytes) -> bytes:
    """The same by way of the decoded texts."""
    lines = (_shown(line) if OVERWRITTEN.search(line.removesuffix(RETURN)) else line for line in split_items(items))
    return b'"%b"' % b'","'.join(lines)


def _shown(line: bytes) -> bytes:
    """What remains to be read of a line that was overwritten; both are the inside of a JSON string."""
    versions = [ERASE.sub("", text) for text in OVERWRITE.split(json.loads(b'"' + line + b'"'))]
    text = next((text for text in reversed(versions) if text.strip()), "")
    return encode_basestring(text)[1:-1].encode()


def overwritten_in_python(items: bytes) -> bool:
    """Whether something of encoded lines seems to be overwritten."""
    return OVERWRITTEN.search(items) is not None


is_overwritten = output.is_overwritten if output else overwritten_in_python
