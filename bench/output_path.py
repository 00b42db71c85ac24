"""`python -m bench.output_path`: what a read of 32 KiB costs on its way into a recording, in microseconds."""

import random
import uuid
from collections.abc import Callable, Sequence
from timeit import repeat

from backend.core.recording.lines import LineAssembler
from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
from backend.core.recording.terminal_filter import TerminalFilter

READ = 32 * 1024
TEXT = (
    "the request handler started GET /api/v1/items status=200 time=12ms user_id=4242 INFO worker-3 pool ready: "
    "2026-11-21T09:01:16.123 opened file /usr/lib/python3.11/site-packages/foo_bar/base.py gcc -O2 -Wall main.c ok"
)


def main() -> None:
    """Print the table."""
    chance = random.Random(1)
    long = Masks.of([chance.randbytes(20).hex() for _ in range(10)], DEFAULT_PATTERNS)
    short = Masks.of([f"pa{chance.randrange(10**6)}!x" for _ in range(10)], DEFAULT_PATTERNS)
    paths: dict[str, Callable[[], LineAssembler]] = {
        "lines alone": LineAssembler,
        "+ filter": lambda: LineAssembler(TerminalFilter()),
        "+ masks, 10 long values": lambda: LineAssembler(long.stream()),
        "+ filter, masks": lambda: LineAssembler(TerminalFilter(), long.stream()),
        "+ filter, masks, 10 short values": lambda: LineAssembler(TerminalFilter(), short.stream()),
    }
    print(f"| read of {READ // 1024} KiB | {' | '.join(paths)} |\n|{'---|' * (len(paths) + 1)}")
    for name, data in reads(chance).items():
        figures = [f"{microseconds(make().feed, data):.1f}" for make in paths.values()]
        print(f"| {name} | {' | '.join(figures)} |", flush=True)


def reads(chance: random.Random) -> dict[str, bytes]:
    """One of each kind of output."""
    plain = whole_lines([" ".join(chance.choices(TEXT.split(), k=10)) for _ in range(500)])
    ids = [f"{uuid.UUID(int=chance.getrandbits(128))} the state of it" for _ in range(700)]
    return {
        "plain ASCII": plain,
        "with colours": whole_lines(plain.replace(b"INFO", b"\x1b[1;32mINFO\x1b[0m").decode().split("\n")),
        "with accents": whole_lines(plain.decode().replace("ready", "pr\u00eat").split("\n")),
        "ids in every line": whole_lines(ids),
        "addresses": whole_lines(plain.replace(b"ready:", b"a@host.test https://host.test/").decode().split("\n")),
        "zeros": bytes(READ),
    }


def whole_lines(lines: Sequence[str]) -> bytes:
    """As many lines as a read holds."""
    data = "\n".join(lines).encode()[:READ]
    return data[: data.rfind(b"\n") + 1]


def microseconds(feed: Callable[[bytes], object], data: bytes) -> float:
    """The time of one read, the best of several rounds."""
    return min(repeat(lambda: feed(data), number=100, repeat=7)) / 100 * 1e6


if __name__ == "__main__":
    main()
