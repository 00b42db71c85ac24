"""The secrets of a service, and where they are in a text."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from backend.core.recording.redaction.patterns import LONGEST_MATCH, PRIVATE_KEY, SecretPattern
from backend.core.recording.redaction.prefilters import Prefilter
from backend.core.recording.redaction.private_keys import KEY_MARKER, key_spans, possible_key_start
from backend.core.recording.redaction.spans import Span, Uncoloured, masked, merged
from backend.core.recording.redaction.stream import MaskedStream
from backend.core.recording.redaction.values import SecretValue, forms

Secret: TypeAlias = SecretValue | SecretPattern


@dataclass(frozen=True, slots=True)
class Masks:
    """The secrets that are masked."""

    secrets: tuple[Secret, ...]
    by_prefilter: tuple[tuple[Prefilter, tuple[Secret, ...]], ...]
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
            _by_prefilter(secrets),
            PRIVATE_KEY in sources,
            max([LONGEST_MATCH, *map(len, known)]),
        )

    def text(self, text: str) -> str:
        """A complete text, masked."""
        return self.complete(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def complete(self, data: bytes) -> bytes:
        """Complete bytes, masked."""
        return masked(data, self.find(data, 0)[0])

    def stream(self) -> MaskedStream:
        """For the reads of one stream."""
        return MaskedStream(self)

    def find(self, data: bytes, key_lines: int) -> tuple[list[Span], int]:
        """The secrets in complete lines. `key_lines`: how many lines of a private key may follow, before and after."""
        view = Uncoloured(data)
        spans = [span for secret in self._likely(view.text) for span in secret.spans(view.text)]
        if self.keys and (key_lines or KEY_MARKER in view.text):
            more, key_lines = key_spans(view.text, key_lines)
            spans += more
        return [view.span(span) for span in merged(spans)], key_lines

    def possible_start(self, line: bytes) -> int:
        """Where a secret may begin that the line, which has not ended, does not contain in full."""
        view = Uncoloured(line)
        starts = [secret.possible_start(view.text) for secret in self.secrets]
        if self.keys:
            starts.append(possible_key_start(view.text))
        return view.place(min(starts, default=len(view.text)))

    def _likely(self, text: bytes) -> list[Secret]:
        """The secrets worth a search; nearly always none."""
        found: list[Secret] = []
        for prefilter, secrets in self.by_prefilter:
            if left := prefilter(text):
                found += [secret for secret in secrets if secret.required_substrings[0] in left]
        return [secret for secret in found if all(each in text for each in secret.required_substrings[1:])]


def _by_prefilter(secrets: list[Secret]) -> tuple[tuple[Prefilter, tuple[Secret, ...]], ...]:
    prefilters = dict.fromkeys(secret.prefilter for secret in secrets)
    return tuple((each, tuple(secret for secret in secrets if secret.prefilter is each)) for each in prefilters)
