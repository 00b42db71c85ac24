"""Output as data: text, colours and what stays inside a line pass, everything else that a terminal would act on is removed.

What passes: plain text, TAB, LF, CR, BS, SGR sequences (CSI with digits, `;` and `:` up to `m`), and what progress
indicators redraw their line with: erasing in the line (`CSI K`, with 0, 1 or 2) and moving to a column (`CSI G`, with up to
four digits). They can change no other line, and nothing that CR and blanks could not change.

What is removed: control strings with their content (OSC, DCS, APC, PM, SOS), every other CSI sequence, escape sequences,
C1 controls, the other C0 controls and DEL, and the bidirectional controls that reorder a line on the screen, the marks
U+200E and U+200F among them: next to digits and punctuation they reorder too. Bytes that are not UTF-8 become U+FFFD; those
of them that an 8-bit terminal treats as C1 controls are removed.
"""

import codecs
import re

from backend.core.recording.native import output

PASSING = bytes(range(0x20, 0x7F)) + b"\t\n\r\b"
STRING_LIMIT = 4096  # characters of an unterminated control string that are removed before output resumes
SEQUENCE_LIMIT = 256  # parameters of one sequence; real ones have a few dozen at most
BIDI = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"

# Undecodable bytes are read as U+DC80..U+DCFF (surrogateescape).
_STRING = rf"[^\x07\x18\x1a\x1b\x80-\x9f]{{0,{STRING_LIMIT}}}"
_CSI = rf"[0-?]{{0,{SEQUENCE_LIMIT}}}[ -/]{{0,{SEQUENCE_LIMIT}}}"
_PASSING_CSI = rf"[0-9:;]{{0,{SEQUENCE_LIMIT}}}m|[012]?K|[0-9]{{0,4}}G"
_ESCAPE = rf"[ -/]{{0,{SEQUENCE_LIMIT}}}"
_STRING_END = r"(?:\x07|\x1b\\|\x9c)?"
# It begins with a set of characters because `re` searches for those several times faster than for anything else.
_ACTIVE = re.compile(
    rf"[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f{BIDI}\udc80-\udc9f]"
    rf"(?:(?<=\x1b)(?:\[(?!{_PASSING_CSI}){_CSI}[@-~]?|[\]PX^_]{_STRING}{_STRING_END}"
    rf"|(?!\[){_ESCAPE}[0-~]?)"
    rf"|(?<=[\x90\x98\x9d-\x9f]){_STRING}{_STRING_END}|(?<=\x9b){_CSI}[@-~]?"
    rf"|(?<![\x1b\x90\x98\x9b\x9d-\x9f])[\x00-\x07\x0b\x0c\x0e-\x1a\x1c-\x1f\x7f]*)"
)
_UNFINISHED = re.compile(
    rf"[\x1b\x90\x98\x9b\x9d-\x9f]"
    rf"(?:(?<=\x1b)(?:\[{_CSI}|[\]PX^_]{_STRING}\x1b?|{_ESCAPE})|(?<=\x9b){_CSI}|(?<=[\x90\x98\x9d-\x9f]){_STRING}\x1b?)\Z"
)
_LONGEST = STRING_LIMIT + 3  # characters of an unfinished sequence: its start, the string, the ESC of its end
_UNDECODABLE = re.compile("[\udc80-\udcff]")


class TerminalFilter:
    """The filter of one stream. It holds back incomplete sequences and characters, never plain text."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Add a read; returns what may pass."""
        passed, self._held = _filter(self._held + data if self._held else data, False)
        return passed

    @property
    def held(self) -> bool:
        """Whether an incomplete sequence or character is held back."""
        return self._held != b""

    def release(self) -> bytes:
        """Nothing: what is held back is not complete."""
        return b""

    def finish(self) -> bytes:
        """The stream has ended: return what may pass of the incomplete rest."""
        passed, self._held = _filter(self._held, True)
        return passed


def filter_in_python(data: bytes, final: bool) -> tuple[bytes, bytes]:
    """What may pass, and the incomplete sequence or character at the end, which is held back unless it is `final`."""
    if not data.translate(None, PASSING):
        return data, b""
    text, decoded = codecs.utf_8_decode(data, "surrogateescape", final)
    unfinished = None if final else _UNFINISHED.search(text, max(0, len(text) - _LONGEST))
    end = unfinished.start() if unfinished else len(text)
    return _passing(text[:end]), text[end:].encode("utf-8", "surrogateescape") + data[decoded:]


def _passing(text: str) -> bytes:
    passed = _ACTIVE.sub("", text)
    try:
        return passed.encode()
    except UnicodeEncodeError:
        return _UNDECODABLE.sub("\ufffd", passed).encode()


_filter = output.filter_output if output else filter_in_python
