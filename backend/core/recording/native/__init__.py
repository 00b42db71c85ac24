"""What a read of output costs the most, written in C: `output` is None on machines that nothing was built for.

Each function has a twin in Python that gives the same bytes. `scripts/build_binaries.py` makes the binaries, whose digests
are in the manifest.
"""

from importlib import import_module
from platform import machine
from typing import NamedTuple, Protocol, cast

Search = object  # needles, compiled


class Needle(NamedTuple):
    """A text that is searched for, with what is known of what is around it.

    A set is 32 bytes, a bit for each byte in it. `before` are rows of sets, none of which may precede the text: each
    a number of sets and these. `after` has to follow: each step a set, and how many bytes of it there are at least and at
    most. Of what follows 64 bytes are looked at, and each step takes as many as it can.
    """

    text: bytes
    before: bytes = b""
    after: bytes = b""


class OutputModule(Protocol):
    """The functions of the module."""

    def encode_lines(self, ended: bytes) -> tuple[bytes, int]:
        """`ended`, which ends in LF, as the inside of a JSON array of strings, and their number."""
        ...

    def split_items(self, items: bytes) -> list[bytes]:
        """The insides of the strings of such an array. Raises ValueError for anything else."""
        ...

    def is_overwritten(self, items: bytes) -> bool:
        """Whether CR, or a sequence that erases or moves to a column, seems to be in encoded text."""
        ...

    def shown_lines(self, items: bytes) -> bytes:
        """Such an array with what remains to be read of lines that were overwritten.

        Raises ValueError for anything else, and where such a line is encoded in another way than `encode_lines` does it.
        """
        ...

    def line_frames(self, block: bytes, at: int, seq: int, head: bytes, limit: int) -> tuple[bytes, int, int]:
        """A WebSocket frame for each of the strings of an array from `at` on, until at least `limit` bytes are made.

        Each message is `head`, the string and its number. Returns the frames, the place of the next string, or the one
        behind the `]` of the last, and the next number. Raises ValueError where there are no strings.
        """
        ...

    def filter_output(self, data: bytes, final: bool) -> tuple[bytes, bytes]:
        """What may pass of output, and what is held back."""
        ...

    def uncoloured(self, data: bytes) -> bytes:
        """A text without its colours."""
        ...

    def compile_search(self, needles: list[Needle]) -> Search:
        """For `find_all`. Raises ValueError for a text of fewer than three bytes, and for 65535 or more."""
        ...

    def find_all(self, search: Search, data: bytes) -> list[tuple[int, int]]:
        """Where the needles are in the data: the number of each, and its place. Those of one needle are in order."""
        ...


def _loaded() -> OutputModule | None:
    try:
        return cast(OutputModule, import_module(f"{__name__}.{machine()}._output"))
    except ImportError:
        return None


output = _loaded()
