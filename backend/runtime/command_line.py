"""How the verbs are run on this server, for the hints that name one."""

from pathlib import Path

FOLDER = Path(__file__).parents[2]


def verb(words: str) -> str:
    """The command line of a verb: by `run.py` where it is installed, which an image or a package is without."""
    start = "python3 run.py" if (FOLDER / "run.py").is_file() else "python -m backend"
    return f"{start} {words}"
