"""Secrets in settings, and output without them."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gatepost_django.masking import Masks, secrets_of

SETTINGS: dict[str, Any] = {
    "SECRET_KEY": "canary-key-'with-quotes'",
    "SECRET_KEY_FALLBACKS": ["canary-old-key"],
    "DATABASES": {"default": {"NAME": "shop", "USER": "shopper", "PASSWORD": "canary-password"}},
    "CACHES": {"default": {"LOCATION": "redis://:canary-redis@cache:6379/0", "KEY_PREFIX": "prefix-shop"}},
    "STRIPE_API_KEY": b"canary-bytes",
    "SIGNING": {"PRIVATE_KEY": "-----BEGIN KEY-----\ncanary-first-line\ncanary-second\n-----END KEY-----"},
    "AUTH_USER_MODEL": "auth.User",
    "PASSWORD_HASHERS": ["django.contrib.auth.hashers.PBKDF2PasswordHasher"],
    "EMAIL_HOST_PASSWORD": "",
    "ROOT_URLCONF": "shop.urls",
}


def test_secrets_are_found_by_the_names_of_settings() -> None:
    found = secrets_of(SETTINGS)
    expected = ["canary-key-'with-quotes'", "canary-old-key", "canary-password", "canary-redis", "canary-bytes"]
    assert set(expected) <= found
    assert "canary-first-line" in found
    assert not found & {"shop", "shopper", "prefix-shop", "auth.User", "shop.urls", "", SETTINGS["PASSWORD_HASHERS"][0]}


@pytest.mark.parametrize("printed", [repr, str, lambda text: f"redis://:{text}@x".replace("'", "%27")])
def test_a_secret_is_masked_in_quotes_and_addresses_too(printed: object) -> None:
    assert callable(printed)
    masked = Masks(secrets_of(SETTINGS)).feed(printed(SETTINGS["SECRET_KEY"]), final=True)
    assert "canary" not in masked
    assert "***" in masked


SECRETS = ("abcabd", "abcabdxx", "cabdyyab")


PIECES = st.lists(st.sampled_from(["abc", "ab", "d", "xx", "x", "cabd", "yy", "ya", "b"]), max_size=12)


@given(PIECES)
@example(["abcab", "dyyab"])
@example(["abcab", "d."])
def test_the_cuts_of_a_text_change_nothing(pieces: list[str]) -> None:
    masks = Masks(SECRETS)
    found = "".join(masks.feed(piece) for piece in pieces) + masks.feed("", final=True)
    assert found == Masks(SECRETS).feed("".join(pieces), final=True)
    assert not any(secret in found for secret in SECRETS)


def test_a_text_that_begins_no_secret_is_not_held_back() -> None:
    assert Masks(SECRETS).feed("no line end") == "no line end"
    assert Masks(()).feed("anything") == "anything"


def test_a_secret_whose_end_may_begin_another_one_is_held_back_as_well() -> None:
    masks = Masks(("xxxabc", "abcdef"))
    assert masks.feed("-xxxabc") == "-"
    assert masks.feed("!") == "***!"
