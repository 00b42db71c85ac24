"""What a verb prints."""

import pytest

from backend.cli.main import main


def printed(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    """The lines of both streams."""
    capsys.readouterr()
    assert main(list(words)) == code
    streams = capsys.readouterr()
    return [*streams.out.splitlines(), *streams.err.splitlines()]
