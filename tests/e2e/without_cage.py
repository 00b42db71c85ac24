"""Before a server of an installation that lost the cage."""

from pathlib import Path

from backend.executors.local import cage_binary


def prepare() -> None:
    """Look for it where it is not."""
    cage_binary.FOLDER = Path("/nowhere")
