"""What a read of output costs the most, written in C: `output` is None on machines that nothing was built for.

Each function has a twin in Python that gives the same bytes. `scripts/build_binaries.py` makes the binaries, whose digests
are in the manifest.
"""

from importlib import import_module
from platform import machine
from typing import Protocol, cast

Search = object  # texts that are searched for, compiled


class OutputModule(Protocol):
    """The functions of the module."""

    def encode_lines(self, ended: bytes) -> tuple[bytes, int]:
        """`ended`, which ends in LF, as the inside of a JSON array of strings, and their number."""
        ...

    def split_items(self, items: bytes) -> list[bytes]:
        """The insides of the strings of such an array. Raises ValueError for anything else."""
        ...

    def filter_output(self, data: bytes, final: bool) -> tuple[bytes, bytes]:
        """What may pass of output, and what is held back."""
        ...

    def uncoloured(self, data: bytes) -> bytes:
        """A text without its colours."""
        ...

    def compile_search(self, texts: list[bytes]) -> Search:
        """For `find_all`. Raises ValueError for a text of fewer than three bytes, and for 65535 or more."""
        ...

    def find_all(self, search: Search, data: bytes) -> list[int]:
        """Which of the texts, by their number, are in the data. In no order."""
        ...


def _loaded() -> OutputModule | None:
    try:
        return cast(OutputModule, import_module(f"{__name__}.{machine()}._output"))
    except ImportError:
        return None


output = _loaded()
