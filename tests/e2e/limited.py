"""Before a server that may use little: what `ulimit` of a shell does."""

import resource


def prepare(name: str, soft: int, hard: int) -> None:
    """Set a limit, for example of FSIZE."""
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))
