"""Secrets masked: in the output of a command, wherever its reads are cut, and in texts for audit and logs.

Two kinds are known. A value is a secret known in full; it is found plain and in the forms that programs give it
(base64, percent-encoded, JSON). A pattern is a regular expression that tells what secrets look like.

What a pattern may count on. It is matched against one line at a time, as UTF-8 bytes, without its line end and without
its colours. It is written in ASCII, its sets and classes mean ASCII, and its repeats count bytes. A match of up to
LONGEST_MATCH bytes is found wherever the reads are cut and however long the line is; in a line of up to LINE_HELD
bytes, a longer one too. A group named `secret` masks that group alone. A match of nothing is none.

What waits. `feed` gives out whole lines and keeps the line that has not ended, which nobody would be shown yet.
`release` gives out that of it which cannot be the start of a secret. For a pattern that is a plain sequence of
characters, sets and repeats, such as `tok_[a-z0-9]{20,}`, the end of the line tells; for any other the whole line
waits until it ends, or is longer than LINE_HELD. One or two characters are let go even if they may be a start: they
tell next to nothing, and prompts end so.
"""

import json
import re
from base64 import b64encode
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import quote, quote_plus

MASK = b"[masked]"
SHORTEST_VALUE = 6  # characters; shorter values are words that ordinary output holds too
LONGEST_MATCH = 4096  # bytes of a match that is found in a line longer than LINE_HELD
LINE_HELD = 64 * 1024  # bytes of a line without end that are kept for its whole to be seen
UNTELLING = 2  # characters that may be given out although they may be the start of a secret
KEY_LINES = 1024  # lines of a private key; the largest in use have 300

PRIVATE_KEY = r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----"
_APART = r"(?<!\w\w)"  # not within a word; one letter may stand before, as the n of a written-out \n
DEFAULT_PATTERNS = (
    *(rf"gh{kind}_[A-Za-z0-9]{{20,}}" for kind in "opsur"),
    r"github_pat_[A-Za-z0-9_]{20,}",
    rf"{_APART}AKIA[A-Z0-9]{{16}}",
    rf"{_APART}(?<!a)sk-[A-Za-z0-9_-]{{20,}}",
    rf"{_APART}xox[a-z]-[A-Za-z0-9-]{{12,}}",
    # Not after a hyphen either: many starts in one long word would each read it to its end.
    r"(?<![\w-][\w-])eyJ[A-Za-z0-9_-]{13,}\.eyJ[A-Za-z0-9_-]{2,}\.[A-Za-z0-9_-]{10,}",
    rf"{_APART}gp_[A-Za-z0-9_-]{{20,}}",
    r"://[^\s:/@]*:(?P<secret>[^\s/@]+)@",
    PRIVATE_KEY,  # with the lines that follow, up to and with its END
)

Span = tuple[int, int]
_Secret: TypeAlias = "_Value | _Pattern"
_Sieve: TypeAlias = Callable[[bytes], bytes]

_COLOUR = re.compile(rb"\x1b\[[0-9:;]*m")
_KEY_BEGIN = re.compile(PRIVATE_KEY.encode())
_KEY_END = re.compile(rb"-----END [A-Z0-9 ]*PRIVATE KEY-----")
_KEY_LINE = re.compile(rb"\W*|\W*[A-Za-z0-9+/]+=*\W*|[\w-]+: .*|.*[A-Za-z0-9+/]{32,}.*")

# A search for each secret takes too long. Most secrets are long words or have capitals or digits within, and most text
# is short words in small letters: what can hold them is sieved out of a read once, and they are looked for in that.
_RUN = 16  # characters of a long word
_CAPITALS = 3  # in a row once all else is taken out; fewer are found in any text
_DIGITS = 4  # likewise; numbers are more usual
_RUN_SIGNS = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_RUN_TABLE = bytes(0x77 if code in _RUN_SIGNS else 0x20 for code in range(256))
_NO_CAPITALS = bytes(set(range(256)) - set(range(ord("A"), ord("Z") + 1)))
_NO_DIGITS = bytes(set(range(256)) - set(range(ord("0"), ord("9") + 1)))

_ATOM = re.compile(
    r"(?P<place>\\b|\(\?<![^()]*\))"
    r"|(?P<group>\(\?P<secret>|\))"
    r"|(?P<one>\[\^?\]?(?:\\.|[^\]\\])*\]|\\[wWdDsStnrfv]|\\[^\w]|[^\\.*+?{}()|^$\[\]]|\.)"
    r"(?P<times>[*+?](?![*+?])|\{\d+(?:,\d*)?\}(?![*+?]))?"
)


@dataclass(frozen=True, slots=True)
class _Atom:
    """One step of a plain pattern: what a character may be, and how often."""

    one: str
    least: int = 1
    most: int | None = 1

    @property
    def begun(self) -> str:
        """Matches what stands here when the step is not over."""
        if self.most is None:
            return f"{self.one}*"
        return f"{self.one}{{0,{self.most - 1}}}"

    @property
    def whole(self) -> str:
        return f"{self.one}{{{self.least},{'' if self.most is None else self.most}}}"

    @property
    def literal(self) -> bytes:
        """The character, if it can be but one."""
        single = self.least == self.most == 1 and re.fullmatch(r"\\\W|[^.]", self.one)
        return self.one[-1].encode() if single else b""

    def admits(self, codes: Iterable[int]) -> bool:
        """Whether it matches any of the bytes."""
        found = re.compile(self.one.encode())
        return any(found.fullmatch(bytes([code])) for code in codes)


@dataclass(frozen=True, slots=True)
class _Value:
    """A secret known in full, in one of its forms."""

    form: bytes
    sieve: _Sieve
    probes: tuple[bytes, ...]

    @classmethod
    def of(cls, form: bytes) -> "_Value":
        run = max(re.findall(rb"[\w-]*", form), key=len)
        if len(run) >= _RUN:
            return cls(form, _long_words, (run,))
        if len(capitals := _capitals(form)) >= _CAPITALS:
            return cls(form, _capitals, (capitals,))
        if len(digits := _digits(form)) >= _DIGITS:
            return cls(form, _digits, (digits,))
        return cls(form, _everything, (form,))

    def spans(self, text: bytes) -> Iterator[Span]:
        at = text.find(self.form)
        while at >= 0:
            yield at, at + len(self.form)
            at = text.find(self.form, at + 1)

    def begun(self, text: bytes) -> int:
        """Where a start of it begins that `text` ends with; the length of `text` if there is none."""
        at = text.find(self.form[:1], max(0, len(text) - len(self.form) + 1))
        while at >= 0 and not self.form.startswith(text[at:]):
            at = text.find(self.form[:1], at + 1)
        return len(text) if at < 0 else at


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What secrets of a kind look like. Without `start` it cannot be told where one may begin."""

    whole: re.Pattern[bytes]
    start: re.Pattern[bytes] | None
    by_line: bool
    sieve: _Sieve
    probes: tuple[bytes, ...]

    @classmethod
    def of(cls, source: str) -> "_Pattern":
        if not source.isascii():  # in bytes, a character is several and a set of characters is none
            raise re.error("a pattern is written in ASCII", source)
        whole = re.compile(source.encode())
        places, atoms = _atoms(source)
        if not atoms:
            return cls(whole, None, True, _everything, (b"",))
        start, by_line = re.compile((places + _start(atoms)).encode()), any(atom.admits(b"\n") for atom in atoms)
        word = list(_leading_word(atoms))
        if sum(atom.least for atom in word) >= _RUN:
            return cls(whole, start, by_line, _long_words, (max(_texts(word), key=len, default=b""),))
        # The cheapest to look for come first: single characters, then long texts.
        probes = sorted(_texts(atoms), key=lambda text: (len(text) > 1, -len(text)))
        return cls(whole, start, by_line, _everything, tuple(probes) or (b"",))

    def spans(self, text: bytes) -> Iterator[Span]:
        if not self.by_line:
            yield from self._found(text)
            return
        for at, line in _lines(text):
            for start, end in self._found(line):
                yield at + start, at + end

    def _found(self, text: bytes) -> Iterator[Span]:
        group = "secret" if "secret" in self.whole.groupindex else 0
        for start, end in _windows(len(text)) if self.start is None else [(0, len(text))]:
            for found in self.whole.finditer(text, start, end):
                if found[group]:
                    yield found.span(group)

    def begun(self, text: bytes) -> int:
        """Where something begins that may become a match; the length of `text` if there is nothing."""
        if self.start is None:
            return 0
        found = self.start.search(text, max(0, len(text) - LONGEST_MATCH))
        return found.start() if found else len(text)


def _atoms(source: str) -> tuple[str, list[_Atom]]:
    """The conditions on the place and the steps of a plain pattern; no steps when it is not plain."""
    places, atoms, at = "", [], 0
    while at < len(source):
        found = _ATOM.match(source, at)
        if not found:
            return "", []
        at = found.end()
        if one := found["one"]:
            atoms.append(_Atom(one, *_times(found["times"] or "")))
        elif (place := found["place"]) and not atoms:
            if not re.compile(place.encode()).match(b"\n\n\n\n", 4) and place != r"\b":
                return "", []  # it tells the start of the text from the start of a line
            places += place
    return places, atoms


def _times(written: str) -> tuple[int, int | None]:
    if not written:
        return 1, 1
    if written in "*+?":
        return int(written == "+"), 1 if written == "?" else None
    least, comma, most = written[1:-1].partition(",")
    return int(least), int(most) if most else None if comma else int(least)


def _start(atoms: list[_Atom]) -> str:
    """Matches the end of a text that may go on to become a match."""
    rest = ""
    for atom in reversed(atoms):
        rest = rf"(?:{atom.begun}\Z|{atom.whole}{rest})" if rest else rf"{atom.begun}\Z"
    return rf"(?={atoms[0].one}){rest}"


def _leading_word(atoms: list[_Atom]) -> Iterator[_Atom]:
    others = set(range(256)) - set(_RUN_SIGNS)
    for atom in atoms:
        if atom.admits(others):
            return
        yield atom


def _texts(atoms: list[_Atom]) -> list[bytes]:
    """The texts that every match holds."""
    return b"".join(atom.literal or b" " for atom in atoms).split()


def _lines(text: bytes) -> Iterator[tuple[int, bytes]]:
    """Where each line begins, and the line."""
    at = 0
    for line in text.split(b"\n"):
        yield at, line
        at += len(line) + 1


def _windows(length: int) -> Iterator[Span]:
    """The parts of a line that are looked at; short ones bound the time that an unknown pattern can take."""
    for at in range(0, max(1, length - LONGEST_MATCH), LONGEST_MATCH):
        yield at, min(length, at + 2 * LONGEST_MATCH)


@dataclass(frozen=True, slots=True)
class Masks:
    """The secrets that are masked."""

    secrets: tuple[_Secret, ...]
    sieves: tuple[tuple[_Sieve, tuple[_Secret, ...]], ...]  # the same secrets, by what they are looked for in
    keys: bool
    longest: int  # bytes that are kept of a line without end

    @classmethod
    def of(cls, values: Iterable[str], patterns: Iterable[str]) -> "Masks":
        """Values of fewer than SHORTEST_VALUE characters are ignored. Raises re.error for a bad pattern."""
        sources = list(dict.fromkeys(patterns))
        forms = sorted({form for value in values for form in _forms(value)})
        secrets: list[_Secret] = [_Value.of(form) for form in forms]
        secrets += [_Pattern.of(source) for source in sources if source != PRIVATE_KEY]
        sieves = {secret.sieve: tuple(each for each in secrets if each.sieve is secret.sieve) for secret in secrets}
        return cls(
            tuple(secrets),
            tuple(sieves.items()),
            PRIVATE_KEY in sources,
            max([LONGEST_MATCH, *map(len, forms)]),
        )

    def text(self, text: str) -> str:
        """A complete text, masked."""
        return self.complete(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def complete(self, data: bytes) -> bytes:
        """Complete bytes, masked."""
        return masked(data, self.find(data, 0)[0])

    def stream(self) -> "MaskedStream":
        """For the reads of one stream."""
        return MaskedStream(self)

    def find(self, data: bytes, key_lines: int) -> tuple[list[Span], int]:
        """What is masked of whole lines. `key_lines`: how many lines of a private key may follow, before and after."""
        view = _View(data)
        spans = [span for secret in self._likely(view.text) for span in secret.spans(view.text)]
        if self.keys and (key_lines or b"PRIVATE KEY-----" in view.text):
            more, key_lines = _key_spans(view.text, key_lines)
            spans += more
        return [view.span(span) for span in _merged(spans)], key_lines

    def begun(self, line: bytes) -> int:
        """Where a secret may begin that the line, which has not ended, does not hold in full."""
        view = _View(line)
        text = view.text
        starts = [secret.begun(text) for secret in self.secrets]
        if self.keys:
            key = _KEY_BEGIN.search(text)
            starts.append(key.start() if key else _KEY_PATTERN.begun(text))
        return view.place(min(starts, default=len(text)))

    def _likely(self, text: bytes) -> list[_Secret]:
        """The secrets worth a search; nearly always none."""
        found: list[_Secret] = []
        for sieve, secrets in self.sieves:
            if left := sieve(text):
                found += [secret for secret in secrets if secret.probes[0] in left]
        return [secret for secret in found if all(probe in text for probe in secret.probes[1:])]


def _long_words(text: bytes) -> bytes:
    shape, found, run = text.translate(_RUN_TABLE), [], b"w" * _RUN
    at = shape.find(run)
    while at >= 0:
        end = shape.find(b" ", at + _RUN)
        end = len(text) if end < 0 else end
        found.append(text[at:end])
        at = shape.find(run, end)
    return b" ".join(found)


def _capitals(text: bytes) -> bytes:
    return text.translate(None, _NO_CAPITALS)


def _digits(text: bytes) -> bytes:
    return text.translate(None, _NO_DIGITS)


def _everything(text: bytes) -> bytes:
    return text


class _View:
    """Text without its colours, which could part a secret, and where its characters stand in the original."""

    def __init__(self, data: bytes) -> None:
        self.text = data
        self._starts, self._shifts = [0], [0]
        if b"\x1b" not in data:
            return
        self.text = _COLOUR.sub(b"", data)
        for colour in _COLOUR.finditer(data):
            self._starts.append(colour.start() - self._shifts[-1])
            self._shifts.append(self._shifts[-1] + colour.end() - colour.start())

    def place(self, at: int) -> int:
        """Where the character `at` stands in the original."""
        return at + self._shifts[bisect_right(self._starts, at) - 1]

    def span(self, span: Span) -> Span:
        """The span in the original."""
        return self.place(span[0]), self.place(span[1] - 1) + 1


def _merged(spans: list[Span]) -> list[Span]:
    """In order; those that overlap are one."""
    found: list[Span] = []
    for start, end in sorted(spans):
        if found and start < found[-1][1]:
            found[-1] = found[-1][0], max(end, found[-1][1])
        else:
            found.append((start, end))
    return found


def masked(data: bytes, spans: Iterable[Span], start: int = 0, end: int | None = None) -> bytes:
    """`data` from `start` to `end` with the spans masked; colours within them stay."""
    end, parts = len(data) if end is None else end, []
    for begin, stop in spans:
        begin, stop = max(begin, start), min(stop, end)
        if begin < stop:
            parts += [data[start:begin], MASK, *_COLOUR.findall(data[begin:stop])]
            start = stop
    return b"".join([*parts, data[start:end]]) if parts else data[start:end]


def _key_spans(text: bytes, lines: int) -> tuple[list[Span], int]:
    """Private keys. One ends with its END line, or before the first line that cannot be of it."""
    spans, at = [], 0
    while at < len(text):
        begin = at
        if not lines:
            found = _KEY_BEGIN.search(text, at)
            if not found:
                break
            begin, at, lines = found.start(), found.end(), KEY_LINES
        end = text.find(b"\n", at)
        end = len(text) if end < 0 else end
        if last := _KEY_END.search(text, at, end):
            end, lines = last.end(), 0
        elif begin == at and not _KEY_LINE.fullmatch(text, at, end):
            lines = 0
            continue
        else:
            lines -= 1
        spans.append((begin, end))
        at = end + (text[end : end + 1] == b"\n")
    return [span for span in spans if span[0] < span[1]], lines


class MaskedStream:
    """The reads of one stream, masked."""

    def __init__(self, masks: Masks) -> None:
        self._masks = masks
        self._line: list[bytes] = []  # the line that has not ended; of its first part, `_given` bytes are given out
        self._given = 0
        self._size = 0
        self._key_lines = 0

    @property
    def held(self) -> bool:
        """Whether something waits."""
        return self._size > self._given

    def feed(self, data: bytes) -> bytes:
        """Take a read; returns the lines that it ends."""
        end = data.rfind(b"\n") + 1
        if not end:
            self._hold(data)
            return self._advance() if self._size - self._given >= LINE_HELD else b""
        ready = self._give(data[:end])
        self._hold(data[end:])
        return ready

    def release(self) -> bytes:
        """Give out what cannot be the start of a secret, and one or two characters that may be."""
        if not self.held or self._key_lines:
            return b""
        line = self._joined()
        end = self._masks.begun(line)
        if len(_COLOUR.sub(b"", line[end:])) <= UNTELLING:
            end = len(line)
        return self._part(line, end, 0)

    def finish(self) -> bytes:
        """The stream has ended: give out the rest."""
        return self._give(b"")

    def _give(self, data: bytes) -> bytes:
        given = self._given
        lines = b"".join([*self._take(), data]) if self._size else data
        spans, self._key_lines = self._masks.find(lines, self._key_lines)
        self._size = self._given = 0
        return masked(lines, spans, given) if spans or given else lines

    def _advance(self) -> bytes:
        """The line is long: give out what cannot be the start of a secret, and all but the end at any rate."""
        line, longest = self._joined(), self._masks.longest
        return self._part(line, max(self._masks.begun(line), len(line) - longest), len(line) - 2 * longest)

    def _part(self, line: bytes, end: int, least: int) -> bytes:
        """Give out the line up to `end`, or to where the secret begins that it would cut if that is after `least`."""
        spans, _ = self._masks.find(line, self._key_lines)
        end = next((start for start, stop in spans if least <= start < end < stop), end)
        end = max(end, self._given)
        ready = masked(line, spans, self._given, end)
        known = max(0, end - self._masks.longest)  # what went before tells secrets that were begun
        self._line, self._size, self._given = [line[known:]], len(line) - known, end - known
        return ready

    def _joined(self) -> bytes:
        line = b"".join(self._line)
        self._line = [line]
        return line

    def _hold(self, data: bytes) -> None:
        if data:
            self._line.append(data)
            self._size += len(data)

    def _take(self) -> list[bytes]:
        parts, self._line = self._line, []
        return parts


_KEY_PATTERN = _Pattern.of(PRIVATE_KEY)


def _forms(value: str) -> Iterator[bytes]:
    """The forms in which a value is masked; a value of several lines line by line too."""
    if len(value) < SHORTEST_VALUE:
        return
    raw = value.encode("utf-8", "surrogatepass")
    yield from (line for line in raw.splitlines() if len(line.decode("utf-8", "surrogatepass")) >= SHORTEST_VALUE)
    yield from _base64_forms(raw)
    for encoded in {quote(raw, safe=""), quote(raw), quote_plus(raw)}:
        yield encoded.encode()
        yield re.sub(r"%..", lambda found: found[0].lower(), encoded).encode()
    for ascii_only in (True, False):
        yield json.dumps(value, ensure_ascii=ascii_only)[1:-1].encode("utf-8", "surrogatepass")


def _base64_forms(raw: bytes) -> Iterator[bytes]:
    """base64 and base64url, wherever the value begins within the three bytes of a group, and cut at usual widths."""
    for before in range(3):
        encoded = b64encode(bytes(before) + raw)
        sure = encoded[-(-before * 8 // 6) : (before + len(raw)) * 8 // 6]
        lines = [sure[at : at + width] for width in (64, 76) for at in range(0, len(sure), width)] if not before else []
        for form in [sure, *(line for line in lines if len(line) >= 16)]:
            yield form
            yield form.translate(bytes.maketrans(b"+/", b"-_"))
