"""The moving window."""

import asyncio
import signal
import time

import pytest
from limits import RateLimitItemPerSecond
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter as PageLimiter

from backend.core.errors import StorageError
from backend.core.limits import SWEEP_EVERY, Rate
from backend.storage.limiter import (
    PAGE_WINDOWS,
    MovingWindow,
    SharedWindow,
    is_reachable,
    shared_storage,
)
from tests.redis_server import running_redis


async def test_a_window_takes_so_many_and_no_more() -> None:
    window = MovingWindow(Rate(3, 60))
    assert [await window.hit("a") for _ in range(3)] == [0.0, 0.0, 0.0]
    assert 58 < await window.hit("a") <= 60
    assert await window.hit("b") == 0.0


async def test_what_was_refused_does_not_count() -> None:
    window = MovingWindow(Rate(1, 1))
    assert await window.hit("a") == 0.0
    async with asyncio.timeout(30):
        while wait := await window.hit("a"):
            assert wait <= 1
            await asyncio.sleep(0.05)


async def test_two_limits_do_not_share_their_counts() -> None:
    first, second = MovingWindow(Rate(1, 60)), MovingWindow(Rate(1, 60))
    assert await first.hit("a") == 0.0
    assert await second.hit("a") == 0.0


async def test_visitors_who_left_take_no_memory() -> None:
    now = 1000.0
    window = MovingWindow(Rate(10**6, 10), lambda: now)
    for number in range(500):
        await window.hit(f"visitor {number}")
    now = 2000.0
    for _ in range(SWEEP_EVERY):
        await window.hit("the last")
    assert set(window.windows.keys) == {"the last"}


@pytest.mark.parametrize("hours", [-1, 1])
async def test_a_clock_that_is_set_makes_nobody_wait_longer(monkeypatch: pytest.MonkeyPatch, hours: int) -> None:
    window, clock = MovingWindow(Rate(1, 1)), time.time
    assert await window.hit("a") == 0.0
    monkeypatch.setattr(time, "time", lambda: clock() + hours * 3600)
    assert 0 < await window.hit("a") <= 1
    assert 0 <= (await window.left("a")).reset <= 1
    async with asyncio.timeout(30):
        while await window.hit("a"):
            await asyncio.sleep(0.05)


async def test_a_clock_that_is_set_back_lets_no_page_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    limiter, item = PageLimiter(storage_from_string(PAGE_WINDOWS)), RateLimitItemPerSecond(1, 1)
    assert limiter.hit(item, "a")
    assert not limiter.hit(item, "a")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() - 3600)
    assert abs(limiter.get_window_stats(item, "a").reset_time - time.time()) <= 1
    async with asyncio.timeout(30):
        while not limiter.hit(item, "a"):
            await asyncio.sleep(0.05)


async def test_what_a_clock_ahead_of_ours_stored_in_redis_is_no_reason_to_wait_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with running_redis() as redis:
        storage, clock = shared_storage(redis.url), time.time
        window = SharedWindow(Rate(1, 2), "t", storage)
        assert await window.hit("ann") == 0.0
        monkeypatch.setattr(time, "time", lambda: clock() - 3600)
        assert 0 < await window.hit("ann") <= 2
        async with asyncio.timeout(60):
            while await window.hit("ann"):
                await asyncio.sleep(0.1)
        await storage.bridge.storage.aclose()  # type: ignore[attr-defined]


async def test_a_window_in_redis_is_shared_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backend.storage.limiter.REDIS_PATIENCE", 30.0)  # here it is about the many, not about the time
    with running_redis() as redis:
        storages = [shared_storage(redis.url) for _ in range(4)]
        windows = [SharedWindow(Rate(30, 60), "t", storage) for storage in storages]
        waits = await asyncio.gather(*(windows[number % 4].hit("ann") for number in range(100)))
        assert waits.count(0.0) == 30
        assert all(0 < wait <= 60 for wait in waits if wait)
        assert await windows[0].hit("bob") == 0.0
        assert await windows[1].wait("ann") > 0
        redis.stop()
        for asked in (windows[0].hit, windows[0].wait):
            with pytest.raises(StorageError, match="Redis cannot be reached"):
                await asked("bob")
        for storage in storages:
            await storage.bridge.storage.aclose()  # type: ignore[attr-defined]


async def test_a_redis_that_does_not_answer_is_given_up_soon_and_used_again_when_it_does() -> None:
    with running_redis() as redis:
        assert redis.process
        storage = shared_storage(redis.url)
        window = SharedWindow(Rate(30, 60), "t", storage)
        assert (await window.hit("ann"), await is_reachable(storage)) == (0.0, True)
        redis.process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        results = await asyncio.gather(
            window.hit("ann"), window.wait("ann"), is_reachable(storage), return_exceptions=True
        )
        assert time.monotonic() - begun < 20
        assert [type(result) for result in results] == [StorageError, StorageError, bool]
        assert results[2] is False
        hitting = asyncio.ensure_future(window.hit("ann"))
        done, _ = await asyncio.wait({hitting}, timeout=0.1)
        assert not done
        hitting.cancel()
        done, _ = await asyncio.wait({hitting}, timeout=30)
        assert hitting.cancelled()
        redis.process.send_signal(signal.SIGCONT)
        assert (await window.hit("ann"), await is_reachable(storage)) == (0.0, True)
        await storage.bridge.storage.aclose()  # type: ignore[attr-defined]
