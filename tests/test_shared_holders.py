"""One question about a token for all connections that present it."""

import asyncio

import pytest

from backend.accounts.shared_holders import FRESH, SharedHolders
from backend.core.errors import StorageError
from backend.core.identity import ApiToken, Role, User

ANN = User("1", "ann", Role.OPERATOR, "agent", False, 0, 0)


class Counted:
    """The accounts of a database, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.revoked = False

    async def holder(self, user_id: str, token_id: str) -> User | None:
        self.asked.append((user_id, token_id))
        await asyncio.sleep(0)
        if token_id == "broken":
            raise StorageError("away")
        return None if self.revoked else ANN

    async def token_by_secret(self, secret_hash: bytes) -> tuple[ApiToken, User] | None:
        return None


async def test_five_hundred_connections_ask_once() -> None:
    counted = Counted()
    holders = SharedHolders(counted, lambda: 100.0)
    assert await asyncio.gather(*(holders.holder("1", "t") for _ in range(500))) == [ANN] * 500
    assert counted.asked == [("1", "t")]


async def test_a_token_that_was_revoked_is_noticed_within_a_second() -> None:
    counted, times = Counted(), [100.0]
    holders = SharedHolders(counted, lambda: times[-1])
    assert await holders.holder("1", "t")
    counted.revoked = True
    assert await holders.holder("1", "t"), "the answer is shared"
    times.append(100.0 + FRESH)
    assert await holders.holder("1", "t") is None


async def test_other_tokens_are_asked_for_by_themselves() -> None:
    counted = Counted()
    holders = SharedHolders(counted, lambda: 100.0)
    for key in [("1", "t"), ("1", "u"), ("2", "t"), ("1", "t")]:
        await holders.holder(*key)
    assert counted.asked == [("1", "t"), ("1", "u"), ("2", "t")]


async def test_a_caller_that_leaves_does_not_end_the_question_of_others_and_errors_reach_all() -> None:
    holders = SharedHolders(Counted(), lambda: 100.0)
    leaving, staying = (asyncio.create_task(holders.holder("1", "t")) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == ANN
    for _ in range(2):
        with pytest.raises(StorageError):
            await holders.holder("1", "broken")
