"""Principals and what they may do: roles for people, scopes for their tokens, permissions for both."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from enum import StrEnum

from backend.core.dataclasses import dataclass

USER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SHORTEST_PASSWORD = 10
LONGEST_PASSWORD = 256  # characters; hashing more costs time and adds no security
PROFILE = "agent"  # the policy of accounts and projects for which none is named
VISITORS = ""  # instead of the id of an account: that of all visitors together, since each connection is another one


class Permission(StrEnum):
    """What a principal may do. The values are the names of token scopes."""

    READ = "read"
    EXECUTE = "execute"
    ADMIN = "admin"


class Role(StrEnum):
    """The role of an account."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"

    @property
    def permissions(self) -> frozenset[Permission]:
        return ROLE_PERMISSIONS[self]


ROLE_PERMISSIONS: Mapping[Role, frozenset[Permission]] = {
    Role.ADMIN: frozenset(Permission),
    Role.OPERATOR: frozenset({Permission.READ, Permission.EXECUTE}),
    Role.VIEWER: frozenset({Permission.READ}),
}
VISITOR_PERMISSIONS = frozenset({Permission.READ, Permission.EXECUTE})


@dataclass(frozen=True, slots=True)
class User:
    """A person or a program with an account. `profile` names the policy of its terminal; times are Unix milliseconds."""

    id: str
    name: str
    role: Role
    profile: str
    disabled: bool
    created_ms: int
    valid_from_ms: int


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A token for programs, without its secret. Times are Unix milliseconds, None for never."""

    id: str
    user_id: str
    name: str
    scopes: frozenset[Permission]
    created_ms: int
    expires_ms: int | None
    revoked_ms: int | None


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of a verified access token (JWT). Times are Unix seconds.

    Renewed tokens of one login have the same `token_id` and `logged_in_at`. `fresh_link`: the login was by a link, and
    not long ago. `valid_from_ms` is that of the account at the login; tokens of earlier versions do not have it.
    """

    user_id: str
    token_id: str
    issued_at: int
    expires_at: int
    logged_in_at: int
    fresh_link: bool = False
    valid_from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller. `name` is unique (`user:ann`, `visitor:…`); `address` is used for the shared limits.

    `user` is the account, None for a visitor; `token` is the id of the credential that was presented. `ends` is when that
    expires by the monotonic clock, in seconds: a session does not last longer because the clock was set back.
    """

    name: str
    address: str
    permissions: frozenset[Permission] = VISITOR_PERMISSIONS
    user: User | None = None
    token: str | None = None
    token_expires_ms: int | None = None
    ends: float | None = field(default=None, compare=False)

    @property
    def user_id(self) -> str | None:
        """The id of its account; None for a visitor."""
        return self.user.id if self.user else None

    @property
    def account(self) -> str:
        """The id of its account, or VISITORS."""
        return self.user.id if self.user else VISITORS

    def may(self, permission: Permission) -> bool:
        return permission in self.permissions


# Off, on, or only the hosts of a list such as `*.example.org:443`.
NetworkAccess = bool | tuple[str, ...]


def acting_as(user: User, address: str = "") -> Principal:
    """The principal of an account for which the service acts itself; one that is disabled may do nothing."""
    return Principal(f"user:{user.name}", address, frozenset() if user.disabled else user.role.permissions, user)


@dataclass(frozen=True, slots=True)
class Project:
    """A workspace of its own for commands, under a policy profile.

    `members` are user ids in addition to the owner; `allowed_extra` are programs in addition to those of the profile.
    """

    id: str
    name: str
    owner_id: str
    members: frozenset[str]
    profile: str
    allowed_extra: tuple[str, ...]
    network: NetworkAccess
    metadata_only: bool
    created_ms: int

    def is_open_to(self, principal: Principal) -> bool:
        """Whether the project exists for `principal`: its owner, a member, an administrator.

        A token of an administrator without the scope `admin` is treated as that of any other account.
        """
        user = principal.user
        if user is None:
            return False
        return principal.may(Permission.ADMIN) or user.id == self.owner_id or user.id in self.members


def scopes_of(text: str) -> frozenset[Permission]:
    """Parse `read execute`. Raises ValueError for an unknown scope, or for none."""
    scopes = frozenset(map(Permission, text.split()))
    if not scopes:
        raise ValueError("a token needs at least one scope")
    return scopes


def scopes_text(scopes: Iterable[Permission]) -> str:
    """The scopes in the form in which they are stored and shown."""
    return " ".join(sorted(scopes))
