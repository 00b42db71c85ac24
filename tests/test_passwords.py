"""The hashing of passwords: the loop stays free, few wait, and those that are known come first."""

import asyncio
import time

import pytest

from backend.accounts.passwords import Passwords
from backend.core.recent_logins import RecentLogins
from tests.password_work import SHIPPED

HASH = SHIPPED.hash("correct horse")
pytestmark = pytest.mark.usefixtures("shipped_password_work")


async def test_passwords_leave_the_loop_free() -> None:
    passwords = Passwords()
    begun = time.thread_time()
    SHIPPED.verify("correct horse", HASH)
    one = time.thread_time() - begun
    hashed = await passwords.hash("correct horse")
    begun = time.thread_time()
    checks = await asyncio.gather(*(passwords.check("correct horse", hashed, familiar=False) for _ in range(6)))
    assert time.thread_time() - begun < 3 * one  # of this thread, and it does not depend on what else runs
    assert checks == [True] * 6
    assert not await passwords.check("correct horse", None, familiar=False)
    passwords.close()


async def test_more_than_may_wait_are_turned_away_at_once() -> None:
    passwords = Passwords(at_once=1, waiting=3)
    checks = [asyncio.create_task(passwords.check("wrong", HASH, familiar=False)) for _ in range(100)]
    known = asyncio.create_task(passwords.check("correct horse", HASH, familiar=True))
    results = await asyncio.gather(*checks)
    assert results.count(False) in {3, 4}, "those that waited, and the one that a thread had begun"
    assert results.count(None) == 100 - results.count(False)
    assert await known is True, "strangers take no places of those that are known"
    assert await passwords.hash("another password") is not None
    passwords.close()


async def test_those_that_are_known_come_before_strangers_who_wait_longer() -> None:
    passwords, order = Passwords(at_once=1), list[str]()

    async def check(who: str, familiar: bool) -> None:
        await passwords.check(who, HASH, familiar=familiar)
        order.append(who)

    strangers = [check(f"stranger {number}", False) for number in range(8)]
    await asyncio.gather(*strangers, check("known", True))
    assert order.index("known") <= 1, order
    passwords.close()


async def test_what_waits_is_cancelled_at_the_end() -> None:
    passwords = Passwords(at_once=1)
    checks = [asyncio.create_task(passwords.check("wrong", HASH, familiar=False)) for _ in range(8)]
    await asyncio.sleep(0)
    await asyncio.to_thread(passwords.close)
    results = await asyncio.gather(*checks, return_exceptions=True)
    assert any(isinstance(result, asyncio.CancelledError) for result in results)


async def test_a_password_that_cannot_be_one_is_refused_where_it_is_awaited() -> None:
    passwords = Passwords()
    with pytest.raises(ValueError, match="10 to 256"):
        await passwords.hash("short")
    passwords.close()


def test_an_account_is_known_at_its_own_address_until_many_others_came() -> None:
    recent = RecentLogins(most=2)
    recent.add("ann", "10.0.0.1")
    recent.add("bob", "10.0.0.2")
    assert recent.include("ann", "10.0.0.1")
    assert not recent.include("ann", "10.0.0.2")
    recent.add("ann", "10.0.0.1")
    recent.add("cleo", "10.0.0.3")
    assert recent.include("ann", "10.0.0.1")
    assert not recent.include("bob", "10.0.0.2")
