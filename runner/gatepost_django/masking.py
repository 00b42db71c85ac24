"""Secrets of the settings, and text without them."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

SHORTEST = 6  # characters; what is shorter would be found in any text
MASK = "***"
SECRET = re.compile(
    r"SECRET|PASSW|PASSPHRASE|TOKEN|API_?KEY|ACCESS_?KEY|PRIVATE|CREDENTIAL|SIGNATURE|KEYS?$|^PASS$", re.I
)
HARMLESS = re.compile(
    r"_(PREFIX|NAME|HEADER|URL|MODEL|HASHERS|VALIDATORS|BACKENDS?|ID|AGE|PATH|TIMEOUT|FUNCTION)$", re.I
)
PASSWORD_IN_URL = re.compile(r"://[^/\s:@]*:([^/\s@]+)@")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")  # the path of a class


def secrets_of(settings: Mapping[str, Any]) -> frozenset[str]:
    """The secrets in settings or in the environment, by their names, and the passwords in addresses."""
    return frozenset(found for each in _found(settings, secret=False) for found in _spellings(each))


def _found(value: object, *, secret: bool) -> Iterator[str]:
    match value:
        case str():
            yield from PASSWORD_IN_URL.findall(value)
            if secret and len(value) >= SHORTEST and not DOTTED.fullmatch(value):
                yield value
        case bytes():
            yield from _found(value.decode("latin-1"), secret=secret)
        case Mapping():
            for name, each in value.items():
                is_secret = SECRET.search(str(name)) is not None and not HARMLESS.search(str(name))
                yield from _found(each, secret=secret or is_secret)
        case list() | tuple() | set() | frozenset():
            for each in value:
                yield from _found(each, secret=secret)


def _spellings(secret: str) -> Iterator[str]:
    """A secret as it may be printed: plain, in quotes, in an address; and each longer line of one that has several."""
    for text in (secret, *secret.splitlines()):
        if len(text.strip()) >= SHORTEST:
            yield from (text.strip(), repr(text)[1:-1], json.dumps(text)[1:-1], quote(text, safe=""))


class Masks:
    """Replaces secrets in a text that arrives in pieces, also those that are cut by them."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self.secrets = sorted(secrets, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, self.secrets)))
        self.rest = ""

    def feed(self, text: str, *, final: bool = False) -> str:
        """What can be passed on; what may be the beginning of a secret is held back."""
        if not self.secrets:
            return text
        text = self.rest + text
        cut = len(text) if final else self._cut(text)
        self.rest = text[cut:]
        return self.pattern.sub(MASK, text[:cut])

    def _cut(self, text: str) -> int:
        cut = len(text) - max(self._beginning(text, each) for each in self.secrets)
        across = (found.start() for found in self.pattern.finditer(text) if found.start() < cut < found.end())
        return min(across, default=cut)

    @staticmethod
    def _beginning(text: str, secret: str) -> int:
        """How many characters at the end of the text begin the secret."""
        longest = min(len(secret) - 1, len(text))
        return next((size for size in range(longest, 0, -1) if text.endswith(secret[:size])), 0)
