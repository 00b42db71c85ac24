"""The access tokens of accounts, signed with the configured key or with one of the data folder."""

import hmac
import secrets
import time
from collections.abc import Callable
from functools import partial

from backend.accounts.credentials import Tokens, keyed_digest
from backend.core.errors import GatepostError
from backend.runtime.clock import new_id
from backend.runtime.settings import Settings, SettingsError
from backend.storage.keys import load_or_make


def access_tokens(settings: Settings) -> Tokens:
    """Issues and verifies access tokens. Raises SettingsError for a key that cannot be used."""
    try:
        return Tokens(_key(settings), time.time, new_id, settings.token_lifetime)
    except ValueError as error:
        raise SettingsError(f"GATEPOST_SECRET_KEY: {error}") from error


def name_digest(settings: Settings) -> Callable[[str], str]:
    """A digest of names at a login, for what must not contain them. Raises SettingsError for a key that cannot be used."""
    return partial(keyed_digest, hmac.digest(_key(settings), b"names at a login", "sha256"))


def _key(settings: Settings) -> bytes:
    if settings.secret_key:
        return settings.secret_key.get_secret_value().encode()
    try:
        return load_or_make(settings.data_dir.absolute() / "tokens.key", lambda: secrets.token_bytes(32))
    except GatepostError as error:
        raise SettingsError(f"GATEPOST_DATA_DIR: {error}") from error
