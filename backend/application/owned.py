"""Accounts and what they own: schedules, notifications and hooks. Each exists for its owner and for administrators."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from backend.core.decisions import Decision
from backend.core.identity import Permission, Principal, User


class Users(Protocol):
    """The accounts."""

    async def user(self, id: str) -> User | None:
        """An account. Raises StorageError."""
        ...


class Owned(Protocol):
    """Something of an account."""

    @property
    def owner_id(self) -> str: ...


O_co = TypeVar("O_co", bound=Owned, covariant=True)


class Store(Protocol[O_co]):
    """Where such things are stored. Every method raises StorageError."""

    async def get(self, id: str) -> O_co | None: ...

    async def of(self, owner_id: str | None) -> Sequence[O_co]:
        """Those of an account, or all; the oldest first."""
        ...


def is_owner(who: Principal, owned: Owned) -> bool:
    """Whether it belongs to the account of the caller."""
    return who.user is not None and who.user.id == owned.owner_id


async def visible_to(who: Principal, store: Store[O_co]) -> Sequence[O_co]:
    """Those of the caller; all for an administrator. Raises StorageError."""
    if who.may(Permission.ADMIN):
        return await store.of(None)
    return await store.of(who.user.id) if who.user else ()


async def find(who: Principal, store: Store[O_co], id: str, rule: str) -> O_co | Decision:
    """One that exists for the caller; otherwise refused by a `rule` such as `hook.unknown`. Raises StorageError."""
    found = await store.get(id)
    return found if found and (is_owner(who, found) or who.may(Permission.ADMIN)) else unknown(rule, id)


def unknown(rule: str, id: str) -> Decision:
    """It does not exist for the caller."""
    kind = rule.partition(".")[0]
    return Decision.deny(rule, f"There is no {kind} {ascii(id[:64])[1:-1]} that you may use.", "List yours.")
