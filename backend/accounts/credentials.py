"""What a client proves itself with: access tokens (JWT), passwords, secrets of tokens and links.

Only the hashing of passwords takes time (a tenth of a second); `passwords.py` does it in threads of its own.
"""

import base64
import hashlib
import hmac
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from backend.core.dataclasses import replace
from backend.core.errors import needed
from backend.core.identity import LONGEST_PASSWORD, SHORTEST_PASSWORD, Claims, User
from backend.core.ids import is_id

if TYPE_CHECKING:
    from pwdlib import PasswordHash

ISSUER = AUDIENCE = "gatepost"
ALGORITHM = "HS256"
VALID_FROM = "account_valid_from"  # a claim of our own: Unix milliseconds
SHORTEST_KEY = 32  # bytes; a shorter one is weaker than the hash
LONGEST_TOKEN = 4096  # characters; ours have about 300
LONGEST_LIFE = 24 * 3600  # seconds between the login and exp that any token may have, however often it is renewed
FRESH_LINK = 15 * 60  # seconds after a login by link in which a password may be set without the current one
CLOCK_SKEW = 60  # seconds that iat may be ahead
API_TOKEN_PREFIX = "gp_"
RUNNER_KEY_PREFIX = "dc_"
LOGIN_LINK_PREFIX = "gl_"
SECRET_BYTES = 32

# The hash of an unused password with the parameters of `_argon2`: an unknown name costs the same work.
_NOBODYS_HASH = "$argon2id$v=19$m=65536,t=3,p=4$q0VMqoLuVOcPwjSm4+OSPw$PHQ6j1jXQNGx0nbQFhRhSMMvpEJQgD4kAs81zKVPpB4"


class Tokens:
    """Issues and verifies access tokens, signed with one key. Times are Unix seconds."""

    def __init__(self, key: bytes, clock: Callable[[], float], new_id: Callable[[], str], lifetime: int = 3600) -> None:
        """Raises ValueError for a short key, for one that is a public key's file, or for a life over a day."""
        if len(key) < SHORTEST_KEY:
            raise ValueError(f"the key for access tokens must have at least {SHORTEST_KEY} bytes")
        if not 0 < lifetime <= LONGEST_LIFE:
            raise ValueError(f"an access token must live 1 to {LONGEST_LIFE} seconds")
        if len(key) > SHORTEST_KEY or key.isascii():  # others are random
            _encoded({}, key)
        self.lifetime = lifetime
        self._key = key
        self._clock = clock
        self._new_id = new_id

    def issue(self, user: User, *, by_link: bool = False) -> tuple[str, Claims]:
        """A new token for the account, and what it says. Raises StorageError."""
        now = int(self._clock())
        ends = now + self.lifetime
        return self._signed(Claims(user.id, self._new_id(), now, ends, now, by_link, user.valid_from_ms))

    def renew(self, token: str) -> tuple[str, Claims] | None:
        """The next token of the same login, None for one that is not valid. It ends a day after the login at the latest.

        The `jti` stays, so that revoking one of them revokes all. Raises StorageError.
        """
        claims = self.verify(token)
        if claims is None:
            return None
        now = int(self._clock())
        ends = min(now + self.lifetime, claims.logged_in_at + LONGEST_LIFE)
        return self._signed(replace(claims, issued_at=now, expires_at=ends))

    def _signed(self, claims: Claims) -> tuple[str, Claims]:
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": claims.user_id,
            "jti": claims.token_id,
            "iat": claims.issued_at,
            "exp": claims.expires_at,
            "auth_time": claims.logged_in_at,
            "amr": ["link"] if claims.fresh_link else [],
            VALID_FROM: claims.valid_from_ms,
        }
        return _encoded(payload, self._key), claims

    def verify(self, token: str) -> Claims | None:
        """What the token says, None when it counts for nothing. Raises StorageError, whatever the string."""
        if len(token) > LONGEST_TOKEN or not token.isascii():
            return None
        payload = _decoded(token, self._key)
        return None if payload is None else _claims(payload, self._clock())


def _pyjwt() -> Any:
    """PyJWT takes a thirtieth of a start, with all kinds of keys and certificates: it is imported for the first token.

    Raises StorageError if its files cannot be opened then, as while no descriptor is left.
    """
    with needed("Access tokens"):
        import jwt
    return jwt


def _encoded(payload: dict[str, Any], key: bytes) -> str:
    """The token. Raises ValueError for a key that is a public key's file, and StorageError."""
    jwt = _pyjwt()
    try:
        token: str = jwt.encode(payload, key, ALGORITHM)
    except jwt.InvalidKeyError as error:
        raise ValueError("the key for access tokens must be random bytes, not a PEM or SSH key") from error
    return token


def _decoded(token: str, key: bytes) -> dict[str, Any] | None:
    """The payload of a token, None where its signature or a claim is not ours. Raises StorageError."""
    jwt = _pyjwt()
    options = {
        "require": ["exp", "iat", "aud", "iss", "sub", "jti"],
        "verify_exp": False,  # PyJWT has a clock of its own; the times are judged by ours
        "verify_iat": False,
        "verify_nbf": False,
    }
    try:
        found: dict[str, Any] = jwt.decode(
            token, key, algorithms=[ALGORITHM], issuer=ISSUER, audience=AUDIENCE, options=options
        )
    except jwt.PyJWTError:
        return None
    return found


def _claims(payload: Mapping[str, Any], now: float) -> Claims | None:
    """Judge the times and types of a payload whose signature is valid."""
    issued, expires, not_before = payload["iat"], payload["exp"], payload.get("nbf", 0)
    login, valid_from = payload.get("auth_time", issued), payload.get(VALID_FROM)
    known = () if valid_from is None else (valid_from,)
    if not all(type(each) is int for each in (issued, expires, not_before, login, *known)):
        return None
    if not (is_id(payload["sub"]) and is_id(payload["jti"])):
        return None
    if not_before > now or max(issued, login) > now + CLOCK_SKEW or expires <= now or expires - login > LONGEST_LIFE:
        return None
    fresh_link = payload.get("amr") == ["link"] and now - login <= FRESH_LINK
    return Claims(payload["sub"], payload["jti"], issued, expires, login, fresh_link, valid_from)


@cache  # its libraries are imported for the first password
def _argon2() -> "PasswordHash":
    with needed("Passwords"):
        from pwdlib import PasswordHash
        from pwdlib.hashers.argon2 import Argon2Hasher

    return PasswordHash((Argon2Hasher(),))


def hash_password(password: str) -> str:
    """Its argon2id hash, after about 0.1 s. Raises ValueError for a password that is too short or too long."""
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise ValueError(f"a password must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
    return _argon2().hash(password)


def verify_password(password: str, hashed: str | None) -> bool:
    """Whether the password is the one of the hash, after about 0.1 s; without a hash, False after the same time."""
    try:
        encoded = password[: LONGEST_PASSWORD + 1].encode()
    except UnicodeEncodeError:  # half a surrogate pair, which no password has
        encoded = b""
    return _argon2().verify(encoded, hashed or _NOBODYS_HASH) and hashed is not None


def new_api_token(random: Callable[[int], bytes]) -> str:
    """A secret for programs: `gp_` and 43 characters that may stand in a URL."""
    return API_TOKEN_PREFIX + _characters(random(SECRET_BYTES))


def new_runner_key(random: Callable[[int], bytes]) -> str:
    """A secret for the runner of a Django project: `dc_`, which runners expect, and 43 characters."""
    return RUNNER_KEY_PREFIX + _characters(random(SECRET_BYTES))


def new_login_link(random: Callable[[int], bytes]) -> str:
    """A secret for one login: `gl_` and 43 characters that may stand in a URL."""
    return LOGIN_LINK_PREFIX + _characters(random(SECRET_BYTES))


def _characters(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def secret_hash(secret: str) -> bytes:
    """What is stored of a token or link, 32 bytes. No salt: the secrets are random, and are looked up by it."""
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()


def keyed_digest(key: bytes, text: str) -> str:
    """16 hexadecimal digits, the same for the same text. Without the key, no guess at the text can be verified."""
    return hmac.digest(key, text.encode(errors="surrogatepass"), "sha256").hex()[:16]
