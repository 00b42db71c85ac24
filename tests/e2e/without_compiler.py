"""Before a server on a machine that seems to have no C compiler."""

from backend.executors.local import cage_binary


def prepare() -> None:
    """Forget the compilers."""
    cage_binary.COMPILERS = ()  # type: ignore[assignment]
