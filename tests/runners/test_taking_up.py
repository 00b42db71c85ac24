"""A server that dies, or stops, while a runner goes on: its successor follows the execution, and nothing is lost."""

import asyncio
from dataclasses import replace

from backend.core.execution.model import Status, Stop, StopReason
from backend.core.execution.wakeups import Wakeups
from tests.client import BOUND
from tests.recipes.house import ANN, House, build
from tests.runners.shop import Shop, open_shop, with_django


async def successor(shop: Shop) -> House:
    """The server that is started after the first one has stopped; it takes up what goes on."""
    await shop.house.gateway.close()
    house = build(shop.common, shares=shop.house)
    with_django(house, shop.common, shop.store, Wakeups(), shop.clock)
    await replace(shop.runners, queue_runner=house.runner).take_up()
    return house


async def test_a_successor_follows_what_runs_and_nothing_is_lost_or_repeated() -> None:
    async with open_shop() as shop:
        id = await shop.waiting()
        await shop.start(id)
        await shop.output(id, 1, "1\n")
        await shop.house.gateway.close()
        await shop.output(id, 2, "2\n")  # while no server owns it
        assert await shop.pending() == []  # it is not offered again
        assert (await shop.start(id)).status_code == 409
        house = await successor(shop)
        assert await shop.stop_level(id) == (False, False)
        await shop.complete(id)
        record = await shop.ended(id)
        assert (record.status, record.owner) == (Status.SUCCEEDED, house.service.owner)
        assert await shop.recorded(id) == ["1", "2"]
        await house.gateway.close()


async def test_it_has_its_own_timeout_there() -> None:
    async with open_shop() as shop:
        django = shop.house.resolver.django
        assert django
        shop.house.resolver.django = replace(django, limits=replace(django.limits, longest=10_000))
        quick, slow = await shop.waiting(timeout=1), await shop.waiting(timeout=10_000)
        for id in (quick, slow):
            await shop.start(id)
        shop.clock.now += 1800  # longer than a command may take that asks for no other timeout
        house = await successor(shop)
        async with asyncio.timeout(BOUND):
            while await shop.stop_level(quick) == (False, False):
                await asyncio.sleep(0.01)
        assert await shop.stop_level(slow) == (False, False)
        await shop.complete(slow)
        assert (await shop.ended(slow)).status is Status.SUCCEEDED
        assert (await shop.ended(quick)).status is Status.TIMED_OUT
        await house.gateway.close()


async def test_it_can_be_cancelled_there() -> None:
    async with open_shop() as shop:
        id = await shop.waiting()
        await shop.start(id)
        house = await successor(shop)
        assert await house.service.instruct(ANN, id, Stop(StopReason.CANCELLED, ANN.name)) == "delivered"
        assert (await shop.ended(id)).status is Status.CANCELLED
        await house.gateway.close()


async def test_what_its_account_may_no_longer_run_is_lost() -> None:
    async with open_shop() as shop:
        id = await shop.waiting()
        await shop.start(id)
        assert ANN.user
        await shop.common.identities.set_disabled(ANN.user.id, True)
        await successor(shop)
        assert (await shop.ended(id)).status is Status.LOST


async def test_a_start_whose_server_dies_is_the_same_start_when_it_is_sent_again() -> None:
    async with open_shop() as shop:
        id = await shop.waiting()
        nonce = {"X_Request_Nonce": "6f0f3c1e-0000-4000-8000-000000000009"}
        await shop.start(id, **nonce)
        shop.store._answers.clear()
        await shop.house.gateway.close()
        assert (await shop.start(id, **nonce)).status_code == 200
        shop.clock.now += 120
        assert (await shop.start(id)).status_code == 409
