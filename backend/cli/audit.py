"""The verbs of `audit`: `audit verify`, `audit export` and `audit rotate-key`.

Exit codes of `verify`: 0 the chain is intact, 1 it was tampered with, 2 it cannot be read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from backend.core.audit import export as exports
from backend.core.audit.chain import EMPTY, Anchor, ChainedEvent, Head, TrustedKey, Verification, Verifier
from backend.core.audit.events import Kind
from backend.core.errors import GatepostError, reason_of
from backend.core.times import iso
from backend.runtime.settings import Settings, load_settings

if TYPE_CHECKING:
    from backend.storage.audit_chain import Chain, SignedHead
    from backend.storage.database import Database
    from backend.storage.recording_digests import Comparison

EXIT_TAMPERED = 1
HERE = Path()  # stands for the data folder
PATIENCE = 1.0  # seconds before progress is shown
SHOW_EVERY = 0.1  # seconds
EPOCH = datetime.fromtimestamp(0, UTC)

Progress = Callable[[Sequence[ChainedEvent]], None]
Parsers = Any  # argparse's own type for subparsers is private


class Refusal(GatepostError):
    """The verb cannot do what was asked."""


def add_verbs(verbs: Parsers) -> None:
    """Add `audit` to the command line."""
    audit = verbs.add_parser("audit", help="verify and export the audit").add_subparsers(required=True, metavar="VERB")
    verify = _add(audit, "verify", _verify, "verify that the audit is intact")
    verify.add_argument("--file", type=Path, help="a JSON lines export to verify, instead of the database")
    verify.add_argument(
        "--public-key", type=Path, metavar="FILE", help="key to verify with (audit.pub in the data folder)"
    )
    verify.add_argument(
        "--anchor",
        type=_anchor,
        action="append",
        default=[],
        metavar="SEQ:HASH",
        help="a checkpoint recorded before; may be given more than once",
    )
    verify.add_argument(
        "--recordings",
        type=Path,
        nargs="?",
        const=HERE,
        metavar="DIR",
        help="compare the recordings too, those of the data folder or in DIR",
    )
    verify.add_argument("--json", action="store_true", help="print a JSON object")
    export = _add(audit, "export", _export, "print the events")
    export.add_argument("--format", choices=["jsonl", "syslog", "csv"], default="jsonl", help="(jsonl)")
    export.add_argument("--after", type=_seq, default=0, metavar="SEQ", help="only events with higher numbers")
    export.add_argument("--since", type=_time, metavar="TIME", help="only from the first event at or after it")
    rotate = _add(audit, "rotate-key", _rotate_key, "let a new key sign the audit from here on, recorded by an event")
    rotate.add_argument(
        "--stage", action="store_true", help="only create it, to be copied next to the audit.key of other data folders"
    )

    _add(audit, "confirm-clock", _confirm_clock, "confirm that the clock is right after it jumped: old data is deleted")


def _add(verbs: Parsers, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--data-dir", type=Path, help="folder of the database and the key (GATEPOST_DATA_DIR, data)")
    parser.set_defaults(run=run)
    return parser


def _anchor(text: str) -> Anchor:
    try:
        return Anchor.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seq(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise argparse.ArgumentTypeError("must be the number of an event")
    return int(text)


def _time(text: str) -> str:
    """A time in the format of events; one without a zone is UTC."""
    try:
        then = datetime.fromisoformat(text)
        then = then.replace(tzinfo=UTC) if then.tzinfo is None else then
        return iso((then - EPOCH) // timedelta(milliseconds=1))
    except (ValueError, OverflowError):  # in UTC it may be in a year that cannot be represented
        raise argparse.ArgumentTypeError("must be a time such as 2026-01-31 or 2026-01-31T12:00:00Z") from None


def _settings(options: argparse.Namespace) -> Settings:
    return load_settings(**({} if options.data_dir is None else {"data_dir": options.data_dir}))


def _verify(options: argparse.Namespace) -> int:
    if options.file and not options.public_key:
        raise Refusal("--file requires --public-key: the key that you received, not one found next to the file")
    path = options.public_key or _settings(options).data_dir / "audit.pub"
    trust, compared = _trust(path), _comparison(options)
    begun = time.monotonic()
    with _progress(compared.take if compared else lambda _: None) as show:
        if options.file:
            verdict = _verify_file(options, trust, show)
        else:
            verdict = asyncio.run(_verify_database(options, trust, compared, show))
    _tell(options, verdict, compared, max(time.monotonic() - begun, 1e-6))
    return 0 if _is_whole(verdict, compared) else EXIT_TAMPERED


def _is_whole(verdict: Verification, compared: Comparison | None) -> bool:
    """Whether nothing that was verified was tampered with."""
    return not (verdict.problem or (compared and compared.findings))


def _comparison(options: argparse.Namespace) -> Comparison | None:
    from backend.storage.recording_digests import Comparison

    if options.recordings is None:
        return None
    data, here = _settings(options).data_dir, options.recordings == HERE
    folder = data / "recordings" if here else options.recordings
    if not folder.is_dir():
        raise Refusal(f"--recordings: there is no folder {folder}")
    return Comparison(folder, _folder_id(data) if here else "")


def _folder_id(data: Path) -> str:
    try:
        return (data / "folder.id").read_text()
    except (OSError, ValueError) as error:
        raise Refusal(f"--recordings: {data / 'folder.id'}: {reason_of(error)}") from None


def _trust(path: Path) -> TrustedKey:
    from backend.accounts.signatures import read_public_key, verify_signature

    try:
        return TrustedKey(read_public_key(path.read_bytes()), verify_signature)
    except (OSError, ValueError) as error:
        raise Refusal(f"{path}: {reason_of(error)}") from None


def _rotate_key(options: argparse.Namespace) -> int:
    print(asyncio.run(_change_key(options)))
    return 0


async def _change_key(options: argparse.Namespace) -> str:
    """Rotate the key; returns what to print. Servers of this data folder follow with the next event they write."""
    from backend.accounts.signatures import new_signing_key
    from backend.cli.actor import actor
    from backend.runtime.ledger import open_queue
    from backend.storage.audit_log import SqlAuditLog

    async with _database(options) as database:
        queue = open_queue(_settings(options).data_dir, database)
        audit, keys = SqlAuditLog(queue), queue.context.keys
        with keys.changing():
            found = keys.current
            await audit.prepare()
            if keys.current is found:
                successor = keys.successor(new_signing_key)
                if options.stage:
                    return f"Created {keys.beside}. Copy it to the other data folders, then rotate the key."
                await audit.rotate_key(successor, actor())
                keys.current = successor
            keys.end_change()
        await queue.close()
    return (
        f"The audit is signed with another key from here on. Hand out its public key: {keys.path.with_suffix('.pub')}"
    )


def _confirm_clock(options: argparse.Namespace) -> int:
    print(asyncio.run(_trust_clock(options)))
    return 0


async def _trust_clock(options: argparse.Namespace) -> str:
    """Store that the time is right; returns what to print. Servers of this data folder follow within an hour."""
    from backend.cli.actor import actor
    from backend.runtime.clock import now_ms
    from backend.runtime.ledger import open_queue
    from backend.runtime.trusted_clock import CLOCK_FILE, confirm
    from backend.storage.audit_log import SqlAuditLog

    data, now = _settings(options).data_dir, now_ms()
    async with _database(options) as database:
        queue = open_queue(data, database)
        audit = SqlAuditLog(queue)
        await audit.prepare()
        await audit.record(Kind.CLOCK_CONFIRMED, actor(), "", {})
        await queue.close()
    confirm(data / CLOCK_FILE, now)
    return f"The clock is right: it is {iso(now)}. Data that is too old is deleted again."


async def _verify_database(
    options: argparse.Namespace, trust: TrustedKey, compared: Comparison | None, show: Progress
) -> Verification:
    from backend.storage.checkpoint import read_anchor

    # The checkpoint first: the chain that is read later contains it, or has lost it.
    stored = read_anchor(_settings(options).data_dir / "audit.anchor")
    anchors = (*options.anchor, *((stored,) if stored else ()))
    async with _open(options) as chain:
        verdict = await chain.verify(trust, anchors, show)
        if compared and compared.missing and not verdict.problem:
            # A server may have deleted them meanwhile: then the event that says so is there by now.
            verdict = await chain.verify(trust, anchors, show)
        return verdict


@contextmanager
def _progress(also: Progress) -> Iterator[Progress]:
    """Shows how many events are done, on a terminal and after a while; `also` gets them too."""
    terminal = sys.stderr.isatty()
    next_time, shown, done = time.monotonic() + PATIENCE, False, 0

    def show(links: Sequence[ChainedEvent]) -> None:
        nonlocal next_time, shown, done
        done += len(links)
        also(links)
        if terminal and (now := time.monotonic()) > next_time:
            next_time, shown = now + SHOW_EVERY, True
            print(f"\r{done} events ...", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@asynccontextmanager
async def _open(options: argparse.Namespace) -> AsyncIterator[Chain]:
    """The audit in the configured database."""
    from backend.storage.audit_chain import Chain

    async with _database(options) as database:
        yield Chain(database)


@asynccontextmanager
async def _database(options: argparse.Namespace) -> AsyncIterator[Database]:
    """The configured database, which is not created if it is missing."""
    from backend.storage.database import Database, database_url

    settings = _settings(options)
    if settings.database_url is None and not (settings.data_dir / "gatepost.db").exists():
        raise Refusal(f"GATEPOST_DATA_DIR: there is no database in {settings.data_dir}")
    database = Database(database_url(settings.database, settings.data_dir))
    try:
        yield database
    finally:
        await database.close()


def _verify_file(options: argparse.Namespace, trust: TrustedKey, show: Progress) -> Verification:
    """Verify an export, line by line."""
    try:
        with options.file.open("rb") as file:
            return _verify_lines(file, tuple(options.anchor), trust, show)
    except OSError as error:
        raise Refusal(f"{options.file}: {error.strerror}") from None


def _verify_lines(file: BinaryIO, anchors: tuple[Anchor, ...], trust: TrustedKey, show: Progress) -> Verification:
    count, last = 0, b""
    for count, last in enumerate(_lines(file), 1):  # noqa: B007 - the value after the loop is used
        pass
    verifier, number = None, count
    try:
        head, signature = exports.read_last_line(last)
        file.seek(0)
        number = 1
        verifier = Verifier(head, trust, anchors, exports.read_first_line(next(_lines(file))))
        for number, line in enumerate(islice(_lines(file), count - 2), 2):  # noqa: B007 - the line is reported
            link = exports.read_json_line(line)
            if not verifier.check(link):
                break
            show([link])
    except ValueError as error:
        return Verification(
            EMPTY, verifier.checked if verifier else 0, f"line {number} is not as it was written: {error}"
        )
    return verifier.finish(signature)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines, one at a time; one that is too long for Gatepost comes in parts, each too long itself."""
    return iter(lambda: file.readline(exports.LONGEST_LINE + 1), b"")


def _tell(options: argparse.Namespace, verdict: Verification, compared: Comparison | None, seconds: float) -> None:
    if options.json:
        print(json.dumps(_as_json(verdict, compared, seconds)))
        return
    rate = f"{verdict.events} events in {seconds:.2f} s, {verdict.events / seconds:.0f} a second"
    if verdict.problem:
        print(f"TAMPERED: {verdict.problem}\n{rate}")
    else:
        print(f"The audit is as it was written.\n{rate}\nhead {verdict.head.end}")
    if verdict.unsigned:
        print(f"NOTE: {_unsigned(verdict.unsigned)}; they fit the chain, and only a server can verify more of them")
    if verdict.begins > 1:
        print(f"NOTE: event {verdict.begins} is the first one here; earlier events were not verified")
    for anchor in verdict.unseen:
        print(f"NOTE: event {anchor.seq}, a checkpoint, is no longer here, so it was not compared")
    for seq in verdict.breaks:
        print(f"NOTE: event {seq} reports that a checkpoint was missing when a server started")
    for seq in verdict.rotations:
        print(f"NOTE: event {seq} replaced the key by a new one, and was signed by the old one")
    if compared:
        for trouble in compared.findings:
            print(f"TAMPERED: {trouble}")
        if compared.elsewhere:
            print(f"NOTE: {len(compared.elsewhere)} recordings are in another data folder, so they were not compared")
        print(f"{compared.good} recordings are unchanged, {compared.gone} no longer exist")


def _unsigned(count: int) -> str:
    return f"the last {count} events are not signed yet: a running server signs them within a moment, a killed one at its start"


def _as_json(verdict: Verification, compared: Comparison | None, seconds: float) -> dict[str, Any]:
    figures = {"good": compared.good, "gone": compared.gone, "changed": compared.findings} if compared else None
    return {
        "verified": _is_whole(verdict, compared),
        "problem": verdict.problem,
        "events": verdict.events,
        "first_seq": verdict.begins,
        "head": str(verdict.head.end),
        "unsigned": verdict.unsigned,
        "breaks": list(verdict.breaks),
        "rotations": list(verdict.rotations),
        "unseen": [str(anchor) for anchor in verdict.unseen],
        "recordings": figures,
        "seconds": round(seconds, 3),
        "events_per_second": round(verdict.events / seconds),
    }


def _export(options: argparse.Namespace) -> int:
    try:
        asyncio.run(_print_events(options))
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest of the buffer
        if not isinstance(error, BrokenPipeError):  # the reader has seen enough
            raise Refusal(f"the export is incomplete: {error.strerror}") from None
    return 0


async def _print_events(options: argparse.Namespace) -> None:
    async with _open(options) as chain:
        found = await chain.signed_head()
        if found is None:
            raise Refusal("the audit has no head")
        if found.end != found.head.end:
            print(f"NOTE: {_unsigned(found.end.seq - found.head.seq)}; they are not exported", file=sys.stderr)
        if options.after > found.head.seq:
            raise Refusal(f"the audit ends at event {found.head.seq}")
        events = _selected(chain, found.head, options.after, options.since or "")
        if options.format == "jsonl":
            await _print_json_lines(events, found)
            return
        if options.format == "csv":
            _print(exports.csv_head())
        line = exports.csv_line if options.format == "csv" else exports.syslog_line
        async for _, link in events:
            _print(line(link))


async def _print_json_lines(events: AsyncIterator[tuple[Anchor, ChainedEvent]], found: SignedHead) -> None:
    begun = False
    async for before, link in events:
        if not begun:
            _print(exports.first_line(before))
            begun = True
        _print(exports.json_line(link))
    if not begun:
        _print(exports.first_line(found.head.end))
    _print(exports.last_line(found.head, found.signature))


async def _selected(chain: Chain, head: Head, after: int, since: str) -> AsyncIterator[tuple[Anchor, ChainedEvent]]:
    """The events to export up to the head, each with the position before it."""
    before = head.start
    async for link in chain.links(max(after, head.first_seq - 1) - 1, head.seq):
        if link.seq > before.seq + 1:
            await _refuse_if_pruned(chain, head)
        selected = link.seq > after and link.seq >= head.first_seq
        if selected and (not since or str(link.content.get("time")) >= since):
            since = ""  # what follows is exported regardless of its time: a chain has no gaps
            yield before, link
        before = Anchor(link.seq, link.hash)
    if before != head.end:
        await _refuse_if_pruned(chain, head)


async def _refuse_if_pruned(chain: Chain, head: Head) -> None:
    """An event is missing: refuse if it was pruned meanwhile, otherwise leave it to the verifier to detect."""
    if await chain.was_pruned(head):
        raise Refusal("the beginning of the audit was pruned meanwhile; export it again")


def _print(line: str) -> None:
    sys.stdout.buffer.write(f"{line}\n".encode())
