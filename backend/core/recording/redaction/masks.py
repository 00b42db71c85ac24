"""The secrets of a service, and where they are in a text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from backend.core.dataclasses import dataclass
from backend.core.recording.native import Needle, OutputModule, output
from backend.core.recording.redaction.patterns import LONGEST_MATCH, PRIVATE_KEY, SHORTEST_NEEDLE, SecretPattern
from backend.core.recording.redaction.private_keys import KEY_MARKER, key_spans, possible_key_start
from backend.core.recording.redaction.spans import Span, Uncoloured, masked, merged
from backend.core.recording.redaction.stream import MaskedStream
from backend.core.recording.redaction.values import SecretValue, forms

Secret: TypeAlias = SecretValue | SecretPattern
Found: TypeAlias = tuple[Iterable[Span], bool]  # where secrets are, in no order; whether a private key may be there


@dataclass(frozen=True, slots=True)
class Masks:
    """The secrets that are masked."""

    secrets: tuple[Secret, ...]
    search: Callable[[bytes], Found]
    keys: bool
    longest: int  # bytes that are held of a line without end

    @classmethod
    def of(cls, values: Iterable[str], patterns: Iterable[str]) -> "Masks":
        """Values of fewer than SHORTEST_VALUE characters are ignored. Raises re.error for a bad pattern."""
        sources = list(dict.fromkeys(patterns))
        known = sorted({form for value in values for form in forms(value)})
        secrets: list[Secret] = [SecretValue.of(form) for form in known]
        secrets += [SecretPattern.of(source) for source in sources if source != PRIVATE_KEY]
        return cls(
            tuple(secrets),
            (Needles(output, secrets) if output else Prefilters(secrets)).search,
            PRIVATE_KEY in sources,
            max([LONGEST_MATCH, *map(len, known)]),
        )

    def text(self, text: str) -> str:
        """A complete text, masked."""
        data = text.encode("utf-8", "surrogatepass")
        found, _ = self.find(data, 0)
        return masked(data, found).decode("utf-8", "surrogatepass") if found else text

    def complete(self, data: bytes) -> bytes:
        """Complete bytes, masked."""
        return masked(data, self.find(data, 0)[0])

    def stream(self) -> MaskedStream:
        """For the reads of one stream."""
        return MaskedStream(self)

    def find(self, data: bytes, key_lines: int) -> tuple[list[Span], int]:
        """The secrets in complete lines. `key_lines`: how many lines of a private key may follow, before and after."""
        view = Uncoloured(data)
        found, keys = self.search(view.text)
        spans = list(found)
        if self.keys and (key_lines or keys):
            more, key_lines = key_spans(view.text, key_lines)
            spans += more
        return [view.span(span) for span in merged(spans)] if spans else [], key_lines

    def possible_start(self, line: bytes) -> int:
        """Where a secret may begin that the line, which has not ended, does not contain in full."""
        view = Uncoloured(line)
        starts = [secret.possible_start(view.text) for secret in self.secrets]
        if self.keys:
            starts.append(possible_key_start(view.text))
        return view.place(min(starts, default=len(view.text)))


class Prefilters:
    """Rules out secrets by the parts of a text that could contain them; see `prefilters`."""

    def __init__(self, secrets: Sequence[Secret]) -> None:
        prefilters = dict.fromkeys(secret.prefilter for secret in secrets)
        self._secrets = [(each, [secret for secret in secrets if secret.prefilter is each]) for each in prefilters]

    def search(self, text: bytes) -> Found:
        """What is in a text."""
        return self.spans(text), text.find(KEY_MARKER) >= 0

    def spans(self, text: bytes) -> Iterator[Span]:
        """Where the secrets are in a text."""
        for secret in self._likely(text):
            yield from secret.spans(text)

    def _likely(self, text: bytes) -> list[Secret]:
        """Those worth a search; nearly always none."""
        found: list[Secret] = []
        for prefilter, secrets in self._secrets:
            if left := prefilter(text):
                found += [secret for secret in secrets if secret.required_substrings[0] in left]
        return [secret for secret in found if all(each in text for each in secret.required_substrings[1:])]


class Needles:
    """Rules out secrets by one search for something of each. Most begin with that, and are only tried where it is."""

    def __init__(self, module: OutputModule, secrets: Sequence[Secret]) -> None:
        self._module = module
        self._searched = [secret for secret in secrets if len(secret.needle.text) >= SHORTEST_NEEDLE]
        needles = [*(secret.needle for secret in self._searched), Needle(KEY_MARKER)]
        self._compiled = module.compile_search(needles)
        self._others = [secret for secret in secrets if len(secret.needle.text) < SHORTEST_NEEDLE]

    def search(self, text: bytes) -> Found:
        """What is in a text."""
        places: dict[int, list[int]] = {}
        for number, place in self._module.find_all(self._compiled, text):
            places.setdefault(number, []).append(place)
        keys = places.pop(len(self._searched), None) is not None
        return self._spans(text, places), keys

    def _spans(self, text: bytes, places: dict[int, list[int]]) -> Iterator[Span]:
        elsewhere = self._others
        for number, found in places.items():
            secret = self._searched[number]
            if secret.leading:
                yield from secret.spans_at(text, found)
            else:
                elsewhere = [*elsewhere, secret]
        if elsewhere:
            yield from Prefilters(elsewhere).spans(text)
