"""Access tokens, passwords, secrets and signatures; and whom the authenticator takes a token for."""

import base64
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from backend.accounts import credentials
from backend.accounts.authentication import Authenticator
from backend.accounts.credentials import (
    LONGEST_LIFE,
    LONGEST_TOKEN,
    Tokens,
    hash_password,
    new_api_token,
    new_login_link,
    secret_hash,
    verify_password,
)
from backend.core.identity import Permission, Principal, Role, User
from backend.storage.database import Database, database_url
from backend.storage.identities import SqlIdentities

pytestmark = pytest.mark.usefixtures("shipped_password_work")

KEY = b"k" * 32
NOW = 1_700_000_000
ID = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
JTI = "01BRZ3NDEKTSV4RRFFQ69G5FAV"
CLAIMS = {"iss": "gatepost", "aud": "gatepost", "sub": ID, "jti": JTI, "iat": NOW, "exp": NOW + 3600}
RSA = generate_private_key(65537, 2048)
IDS = {"sub", "jti"}
USER = User(ID, "ann", Role.OPERATOR, "agent", False, NOW * 1000, NOW * 1000)


class Missing:
    """Stands for a claim that is left out."""

    def __repr__(self) -> str:
        return "missing"


MISSING = Missing()
DEEP = b'{"a":' * 600
WRONG: tuple[Any, ...] = (None, "", "other", ["other"], {}, True, -1.5)


def tokens(now: float = NOW) -> Tokens:
    return Tokens(KEY, lambda: now, lambda: JTI)


def token(key: Any = KEY, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    payload = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not MISSING}
    return jwt.PyJWS().encode(json.dumps(payload).encode(), key, algorithm, headers=headers)


def part(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_an_issued_token_says_who() -> None:
    issued, claims = tokens().issue(USER)
    assert tokens().verify(issued) == claims
    assert (claims.user_id, claims.token_id, claims.issued_at, claims.expires_at) == (ID, JTI, NOW, NOW + 3600)
    assert tokens(NOW + 3599.9).verify(issued) == claims
    assert tokens(NOW + 3600).verify(issued) is None


def test_a_renewed_token_is_of_the_same_login_and_ends_a_day_after_it() -> None:
    first, claims = tokens().issue(USER, by_link=True)
    renewed, next_claims = tokens(NOW + 1800).renew(first) or pytest.fail("it is valid")
    assert (next_claims.token_id, next_claims.logged_in_at) == (claims.token_id, NOW)
    assert (next_claims.issued_at, next_claims.expires_at) == (NOW + 1800, NOW + 5400)
    for halves in range(2, 48):
        renewed, next_claims = tokens(NOW + halves * 1800).renew(renewed) or pytest.fail("it is valid")
    assert next_claims.expires_at == NOW + LONGEST_LIFE
    renewed, next_claims = tokens(NOW + LONGEST_LIFE - 1).renew(renewed) or pytest.fail("it is valid")
    assert next_claims.expires_at == NOW + LONGEST_LIFE
    assert tokens(NOW + LONGEST_LIFE).renew(renewed) is None
    assert tokens(NOW + 3600).renew(first) is None


def test_a_link_is_fresh_for_a_quarter_of_an_hour_and_renewing_does_not_prolong_it() -> None:
    first, _ = tokens().issue(USER, by_link=True)
    renewed, _ = tokens(NOW + 800).renew(first) or pytest.fail("it is valid")
    for token_of_it in (first, renewed):
        fresh, later = tokens(NOW + 900).verify(token_of_it), tokens(NOW + 901).verify(token_of_it)
        assert fresh is not None
        assert later is not None
        assert (fresh.fresh_link, later.fresh_link) == (True, False)
    by_password = tokens().verify(tokens().issue(USER)[0])
    assert by_password is not None
    assert not by_password.fresh_link


@pytest.mark.parametrize("login", [NOW + 61, NOW + 3600 - LONGEST_LIFE - 1, str(NOW), None, 1.5])
def test_a_login_at_a_time_that_cannot_be_makes_a_token_invalid(login: object) -> None:
    assert tokens().verify(token(auth_time=login)) is None


def test_the_longest_life_and_a_clock_that_is_a_little_ahead_pass() -> None:
    assert tokens().verify(token(exp=NOW + LONGEST_LIFE))
    assert tokens().verify(token(iat=NOW + 60))
    assert tokens().verify(token(nbf=NOW))


@pytest.mark.parametrize(
    "claims",
    [
        *({name: MISSING} for name in CLAIMS),
        *({name: value} for name in CLAIMS for value in WRONG if value != "other" or name not in IDS),
        {"sub": 5},
        {"jti": 5},
        {"sub": "x" * 27},
        {"jti": "a\0b"},
        {"aud": []},
        {"exp": NOW},
        {"exp": NOW - 1},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": str(NOW + 10)},
        {"exp": NOW + LONGEST_LIFE + 1},
        {"exp": NOW + 3 * 365 * 86400},
        {"iat": NOW + 61, "exp": NOW + 100},
        {"iat": 0},
        {"nbf": NOW + 1},
        {"nbf": "soon"},
        {"nbf": None},
        {"nbf": True},
        {"account_valid_from": ""},
        {"account_valid_from": True},
    ],
    ids=str,
)
def test_claims_that_do_not_count(claims: dict[str, Any]) -> None:
    assert tokens().verify(token(**claims)) is None


@pytest.mark.parametrize(
    "bad",
    [
        token(key="", algorithm="none"),
        token(key=b"o" * 64, algorithm="HS256"),
        token(key=KEY * 2, algorithm="HS512"),
        token(key=RSA, algorithm="RS256"),
        token(headers={"crit": ["exp"]}),
        token(headers={"b64": False, "crit": ["b64"]}),
        token()[:-1],
        token() + "A",
        token() + "\n",
        " " + token(),
        token().rsplit(".", 1)[0] + ".",
        f"{part({'alg': 'none'})}.{token().split('.')[1]}.",
        f"{part({'alg': 'NONE'})}.{token().split('.')[1]}.",
        f"{part({'alg': ['HS256']})}.{token().split('.', 1)[1]}",
        f"{part({'alg': {}})}.{token().split('.', 1)[1]}",
        f"{part({'alg': None})}.{token().split('.', 1)[1]}",
        f"{part({'alg': 'HS256', 'kid': 5})}.{token().split('.', 1)[1]}",
        f"{part([])}.{token().split('.', 1)[1]}",
        f"{part(b'[' * 3000)}.e30.e30",
        f"{part(DEEP)}.e30.e30",
        f"{part(b'9' * 3000)}.e30.e30",
        "",
        ".",
        "..",
        "a.b.c",
        "ä.ö.ü",
        "\ud800",
        "\0" * 100,
        "x" * 10**6,
        "." * LONGEST_TOKEN,
    ],
)
def test_strings_that_do_not_count(bad: str) -> None:
    assert tokens().verify(bad) is None


def test_a_signed_token_that_is_too_long_does_not_count() -> None:
    assert tokens().verify(token(more="x" * 1000))
    assert tokens().verify(token(more="x" * LONGEST_TOKEN)) is None


def test_an_unserialised_public_key_is_no_key() -> None:
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(ValueError, match="PEM"):
        Tokens(pem, time.time, str)


@pytest.mark.parametrize("key", [b"", b"k" * 31])
def test_a_short_key_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match="32"):
        Tokens(key, time.time, str)


@pytest.mark.parametrize("lifetime", [0, -1, LONGEST_LIFE + 1])
def test_a_life_that_verify_would_refuse_is_refused_at_once(lifetime: int) -> None:
    with pytest.raises(ValueError):
        Tokens(KEY, time.time, str, lifetime)


@given(st.text() | st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*", fullmatch=True))
def test_no_string_raises(text: str) -> None:
    assert tokens().verify(text) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk"]), JSON), JSON)
def test_no_header_and_no_payload_raise(header: dict[str, Any], payload: Any) -> None:
    assert tokens().verify(f"{part(header)}.{part(payload)}.{part(b's' * 32)}") is None


@given(st.dictionaries(st.sampled_from([*CLAIMS, "nbf"]), JSON, min_size=1))
def test_no_signed_claims_raise(claims: dict[str, Any]) -> None:
    found = tokens().verify(token(**{**claims, "aud": "gatepost"}))
    assert found is None or (found.expires_at > NOW and found.expires_at - found.issued_at <= LONGEST_LIFE)


@pytest.mark.parametrize(
    ("setup", "use", "what"),
    [
        (
            "accounts.credentials import Tokens",
            "Tokens(b'x' * 32, lambda: 1.0, lambda: 'x').verify('x.y.z')",
            "Access tokens",
        ),
        ("accounts.credentials import hash_password", "len(hash_password('correct horse'))", "Passwords"),
        ("core.language.bash import parse_bash", "len(parse_bash('echo a').commands)", "The grammar of bash"),
        ("runtime.host_secrets import ParameterCipher", "len(ParameterCipher('x').seal('y'))", "Sensitive parameters"),
    ],
)
def test_what_is_imported_late_is_unavailable_while_no_descriptor_is_left(setup: str, use: str, what: str) -> None:
    program = f"""
import resource
from backend.{setup}
from backend.core.errors import StorageError
most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (3, most[1]))
try:
    {use}
except StorageError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_NOFILE, most)
{use}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    expected = f"{what} cannot be used at the moment: Too many open files.\n"
    assert (done.stdout, done.returncode) == (expected, 0), done.stderr


def test_a_password_is_known_by_its_hash() -> None:
    hashed = hash_password("correct horse")
    assert hashed != hash_password("correct horse")
    assert verify_password("correct horse", hashed)
    for other in ("correct hors", "correct horse ", "", "x" * 10**6, "\ud800", "correct horse\0"):
        assert not verify_password(other, hashed)


@pytest.mark.parametrize("password", ["", "nine char", "x" * 257, "surrogate \ud800"])
def test_a_password_that_cannot_be_one_is_refused(password: str) -> None:
    with pytest.raises(ValueError):
        hash_password(password)


def test_the_longest_password_counts_to_its_end() -> None:
    hashed = hash_password("ä" * 256)
    assert verify_password("ä" * 256, hashed)
    assert not verify_password("ä" * 257, hashed)


def test_nobodys_hash_costs_what_a_real_one_does() -> None:
    parameters = re.compile(r"\$argon2id\$v=19\$m=\d+,t=\d+,p=\d+\$")
    found = parameters.match(credentials._NOBODYS_HASH)
    real = parameters.match(hash_password("correct horse"))
    assert found
    assert real
    assert found[0] == real[0]
    assert not verify_password("no password is this one", None)


def test_secrets_have_a_prefix_and_43_characters() -> None:
    random = iter([b"\xff" * 32, b"\0" * 32])
    assert new_api_token(lambda _: next(random)) == f"gp_{'_' * 42}8"
    assert new_login_link(lambda count: bytes(count)) == f"gl_{'A' * 43}"
    assert len(secret_hash("gp_x")) == 32
    assert secret_hash("gp_x") != secret_hash("gp_y")
    assert secret_hash("\ud800")


class House:
    """An authenticator, the account `ann`, and a clock that is moved; milliseconds."""

    def __init__(self, identities: SqlIdentities, now: list[int], ann: User) -> None:
        self.identities = identities
        self.now = now
        self.ann = ann
        self.tokens = Tokens(KEY, lambda: now[0] / 1000, _ids("J"))
        self.passed = 0.0  # seconds of the monotonic clock
        self.authenticator = Authenticator(identities, self.tokens, lambda: now[0], lambda: self.passed)

    async def who(self, bearer: str) -> Principal | None:
        return await self.authenticator.principal(bearer, "1.2.3.4")

    async def api_token(self, scopes: str, expires_ms: int | None = None, user: User | None = None) -> tuple[str, str]:
        """The secret of a new API token, and its id."""
        secret = new_api_token(lambda count: bytes([len(scopes)]) * count)
        wanted = map(Permission, scopes.split())
        made = await self.identities.add_token((user or self.ann).id, "ci", wanted, secret_hash(secret), expires_ms)
        return secret, made.id


def _ids(prefix: str) -> Callable[[], str]:
    numbers = iter(range(1000))
    return lambda: f"{prefix}{next(numbers):025}"


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    database = Database(database_url(None, tmp_path))
    await database.migrate()
    now = [NOW * 1000 + 700]
    identities = SqlIdentities(database, lambda: now[0], _ids("U"))
    ann = await identities.add_user("ann", Role.OPERATOR)
    assert ann
    yield House(identities, now, ann)
    await database.close()


async def test_an_access_token_stands_for_its_account(house: House) -> None:
    bearer, claims = house.tokens.issue(house.ann)
    principal = await house.who(bearer)
    assert principal == Principal(
        "user:ann", "1.2.3.4", Role.OPERATOR.permissions, house.ann, claims.token_id, claims.expires_at * 1000
    )
    assert await house.authenticator.is_valid(principal)


async def test_an_api_token_does_what_role_and_scopes_allow(house: House) -> None:
    secret, id = await house.api_token("execute admin", NOW * 1000 + 5000)
    principal = await house.who(secret)
    assert principal == Principal(
        "user:ann", "1.2.3.4", frozenset({Permission.EXECUTE}), house.ann, id, NOW * 1000 + 5000
    )
    assert await house.authenticator.is_valid(principal)


@pytest.mark.parametrize("bearer", ["", "gp_", "gp_" + "A" * 43, "gp_\ud800", "gp_" + "x" * 5000, "gl_x", "Bearer x"])
async def test_what_stands_for_nobody(house: House, bearer: str) -> None:
    await house.api_token("read")
    assert await house.who(bearer) is None


async def test_the_token_of_an_unknown_account_counts_for_nothing(house: House) -> None:
    assert await house.who(house.tokens.issue(USER)[0]) is None


async def revoke(house: House, principal: Principal) -> None:
    assert principal.token
    if principal.token.startswith("J"):
        await house.identities.revoke(principal.token, NOW * 1000 + 10**7)
    else:
        await house.identities.revoke_token(principal.token)


async def disable(house: House, _: Principal) -> None:
    await house.identities.set_disabled(house.ann.id, True)


async def expire(house: House, _: Principal) -> None:
    house.now[0] += 3600_000


@pytest.mark.parametrize("kind", ["access", "api"])
@pytest.mark.parametrize("end", [revoke, disable, expire])
async def test_what_ends_a_token_ends_its_sockets_too(
    house: House, kind: str, end: Callable[[House, Principal], Any]
) -> None:
    bearer, _ = (
        house.tokens.issue(house.ann) if kind == "access" else await house.api_token("read", (NOW + 3600) * 1000)
    )
    principal = await house.who(bearer)
    assert principal
    await end(house, principal)
    assert await house.who(bearer) is None
    assert not await house.authenticator.is_valid(principal)


async def test_a_new_password_ends_older_access_tokens_and_no_newer_ones(house: House) -> None:
    old, _ = house.tokens.issue(house.ann)
    principal = await house.who(old)
    house.now[0] += 1000
    await house.identities.set_password(house.ann.id, "hash")
    new, _ = house.tokens.issue(await house.identities.user(house.ann.id) or house.ann)
    assert await house.who(old) is None
    assert await house.who(new)
    assert principal
    assert not await house.authenticator.is_valid(principal)


async def test_a_clock_that_was_set_back_since_the_account_changed_refuses_no_new_token(house: House) -> None:
    stolen, _ = house.tokens.issue(house.ann)
    await house.identities.set_password(house.ann.id, "hash")
    house.now[0] -= 3600_000
    ann = await house.identities.user(house.ann.id)
    assert ann
    new, _ = house.tokens.issue(ann)
    assert await house.who(new)
    house.now[0] += 3598_000
    assert await house.who(new)
    house.now[0] += 3000
    assert await house.who(stolen) is None, "it is not valid again when it is as late as when it was issued"


async def test_a_token_of_an_earlier_version_is_judged_by_its_time(house: House) -> None:
    payload = {**CLAIMS, "sub": house.ann.id}
    bearer = jwt.encode(payload, KEY, "HS256")
    assert await house.who(bearer)
    house.now[0] += 1000
    await house.identities.set_password(house.ann.id, "hash")
    assert await house.who(bearer) is None


@pytest.mark.parametrize("kind", ["access", "api"])
async def test_a_clock_that_is_set_back_makes_no_session_longer(house: House, kind: str) -> None:
    api_token = await house.api_token("read", house.now[0] + 3600_000)
    bearer = house.tokens.issue(house.ann)[0] if kind == "access" else api_token[0]
    principal = await house.who(bearer)
    assert principal
    house.now[0] -= 3600_000
    house.passed += 3598
    assert await house.authenticator.is_valid(principal)
    house.passed += 3
    assert not await house.authenticator.is_valid(principal)


async def test_an_enabled_account_needs_a_new_login(house: House) -> None:
    old, _ = house.tokens.issue(house.ann)
    house.now[0] += 1000
    await house.identities.set_disabled(house.ann.id, True)
    await house.identities.set_disabled(house.ann.id, False)
    assert await house.who(old) is None


async def test_a_lesser_role_counts_at_once(house: House) -> None:
    bearer, _ = house.tokens.issue(house.ann)
    principal = await house.who(bearer)
    await house.identities.set_role(house.ann.id, Role.VIEWER)
    assert principal
    assert not await house.authenticator.is_valid(principal)
    lesser = await house.who(bearer)
    assert lesser
    assert lesser.permissions == {Permission.READ}


async def test_a_visitor_stands(house: House) -> None:
    visitor = Principal("visitor:1", "1.2.3.4")
    assert await house.authenticator.is_valid(visitor)
    assert await house.authenticator.is_valid(replace(visitor, token="access token of the service"))
