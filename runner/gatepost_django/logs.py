"""The log of a runner: a file that is rotated, and the terminal."""

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

LEVELS = (logging.ERROR, logging.INFO, logging.DEBUG, logging.DEBUG)  # by verbosity
SIZE = 10 * 2**20  # bytes of a file
FILES = 2  # older ones


def set_up(file: Path, verbosity: int, *, to_terminal: bool) -> None:
    """Send what the runner logs to its file, and to the terminal."""
    log = logging.getLogger("gatepost_django")
    log.setLevel(LEVELS[verbosity])
    log.propagate = False
    handlers: list[logging.Handler] = [RotatingFileHandler(file, maxBytes=SIZE, backupCount=FILES)]
    if to_terminal:
        handlers.append(logging.StreamHandler())
    for each in handlers:
        each.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(each)
