"""`python -m bench.output_path`: what output costs on its way into a recording, by its kind.

Prints megabytes per second of processor time, reads of 32 KiB: as it is (terminal filter, ten secrets and the usual
patterns, lines), without the secrets, and as it is where the module in C cannot be loaded.
"""

import base64
import hashlib
import json
import random
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from timeit import repeat

from backend.core.recording import lines, terminal_filter
from backend.core.recording.lines import LineAssembler
from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks, spans
from backend.core.recording.redaction.masks import Prefilters
from backend.core.recording.terminal_filter import TerminalFilter

READ = 32 * 1024
WORDS = [
    "the",
    "request",
    "handler",
    "started",
    "GET",
    "/api/v1/items",
    "status=200",
    "time=12ms",
    "user_id=4242",
    "INFO",
    "worker-3",
    "pool",
    "ready:",
    "2026-11-21T09:01:16.123",
    "opened",
    "file",
    "/usr/lib/python3.11/site-packages/foo_bar/base.py",
    "gcc",
    "-O2",
    "-Wall",
    "main.c",
    "ok",
]


def main() -> None:
    """Print the table."""
    masks, kinds = usual_masks(), reads()
    measured = [list(speeds(kinds, masks)), list(speeds(kinds, None))]
    use_python()
    measured.append(list(speeds(kinds, replace(masks, search=Prefilters(masks.secrets).search))))
    print("| MB/s of processor time | as it is | without secrets | without C |\n|---|---|---|---|")
    for name, figures in zip(kinds, zip(*measured, strict=True), strict=True):
        print(f"| {name} | {' | '.join(f'{figure:.0f}' for figure in figures)} |")


def usual_masks() -> Masks:
    """Ten secrets and the usual patterns."""
    chance = random.Random(1)
    return Masks.of([chance.randbytes(20).hex() for _ in range(10)], DEFAULT_PATTERNS)


def reads() -> dict[str, bytes]:
    """A read of each kind of output."""
    return {name: read_of(made) for name, made in texts(random.Random(2)).items()}


def texts(chance: random.Random) -> dict[str, Callable[[int], str | bytes]]:
    """A line of each kind of output, by its number."""
    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(1000)]
    words = [" ".join(chance.choices(WORDS, k=10)) for _ in range(1000)]
    raw = [chance.randbytes(57) for _ in range(1000)]
    digest = [hashlib.sha256(each).hexdigest() for each in raw]
    return {
        "seq": str,
        "plain log": lambda n: words[n % 1000],
        "access log": lambda n: (
            f'10.0.0.{n % 250} - - [21/Nov/2026:09:01:16] "GET /items/{n} HTTP/1.1" 200 {n} "-" "curl/8"'
        ),
        "JSON log": lambda n: json.dumps({"level": "info", "id": ids[n % 1000], "message": words[n % 1000], "n": n}),
        "links": lambda n: f"GET https://host.test/items/{n} for a@host.test",
        "base64": lambda n: base64.b64encode(raw[n % 1000]).decode(),
        "hashes": lambda n: f"{digest[n % 1000]}  src/file_{n}.py",
        "ids": lambda n: f"{ids[n % 1000]} the state of it",
        "`ls -l --color`": lambda n: f"-rw-r--r-- 1 root root {n} Nov 21 09:01 \x1b[01;32mfile_{n}\x1b[0m",
        "hex dump": lambda n: f"{n:08x}  {raw[n % 1000][:16].hex(' ')}  |................|",
        "minified JS": lambda n: f'function a{n}(b,c){{return b?"x"+c:b.d("\\n")}}' + ";" * (n % 40 != 39),
        "accents": lambda n: f"La requ\xeate {n} est pr\xeate, d\xe9j\xe0 trait\xe9e",
        "CJK": lambda n: f"\u4e2d\u6587\u8f93\u51fa {n} \u7684\u4e00\u884c",
        "tabs": lambda n: f"{n}\tname\tvalue\t{n * 7}",
        "binary": lambda n: raw[n % 1000],
    }


def read_of(made: Callable[[int], str | bytes]) -> bytes:
    """As many lines as a read holds."""
    encoded = (text if isinstance(text, bytes) else text.encode() for text in map(made, range(READ)))
    data = b"\n".join(islice(encoded, READ // 4))[:READ]
    return data[: data.rfind(b"\n") + 1]


def speeds(kinds: dict[str, bytes], masks: Masks | None) -> Iterable[float]:
    """Megabytes per second of each kind, the best of several rounds."""
    for data in kinds.values():
        path = LineAssembler(TerminalFilter(), masks.stream()) if masks else LineAssembler(TerminalFilter())
        taken = min(repeat(lambda: path.feed(data), number=40, repeat=7, timer=time.process_time))  # noqa: B023
        yield len(data) * 40 / taken / 1e6


def use_python() -> None:
    """From here on, without the module in C."""
    lines._encode = lines.encode_in_python
    terminal_filter._filter = terminal_filter.filter_in_python
    spans._without_colours = spans.uncoloured_in_python


if __name__ == "__main__":
    main()
