"""The end of a command is the end of everything that it started."""

import asyncio

import pytest

from tests.client import output, terminal
from tests.conftest import StartServer
from tests.serving import Server, clean_up, processes_of, wait_until

CONNECTIONS, ROUNDS = 4, 50  # 200 cancels

# Each is a way to hide from the one who has to end it. `up` is printed when everything has been started.
FAMILIES = {
    "plain": "echo up; sleep 5000",
    "background": "sleep 5001 & sleep 5001 & echo up; wait",
    "session": "setsid sleep 5002 & echo up; wait",
    "double fork": "( (setsid sleep 5003 &) & ); echo up; sleep 5003",
    "deep": 'bash -c "bash -c \\"setsid sleep 5004 & sleep 5004\\" & sleep 5004" & echo up; wait',
    "gone parent": 'setsid bash -c "sleep 5005 & sleep 5005 & exit"; echo up; sleep 5005',
}


async def test_200_cancels_leave_no_process(start_server: StartServer) -> None:
    server = start_server({"GATEPOST_CONCURRENT_TOTAL": "100"})
    assert not processes_of(server, "sleep 500")
    scripts = list(FAMILIES.values())

    async def cancel_many(first: int) -> None:
        async with terminal(server) as client:
            for number in range(first, first + ROUNDS):
                await client.send(type="run", command=f"pyguard bash -c '{scripts[number % len(scripts)]}'")
                await client.until("stdout", 30)
                await client.send(type="cancel")
                assert (await client.reply(30))[-1]["status"] == "cancelled"

    await asyncio.gather(*(cancel_many(number) for number in range(CONNECTIONS)))
    assert processes_of(server, "sleep 500") == []


async def test_tail_follows_a_file_although_it_cannot_watch_it_and_ends_when_cancelled(server: Server) -> None:
    async with terminal(server, "gatepost.v1.json") as client:
        await client.run("pyguard bash -c 'echo one >log.txt'")
        following = (await client.start("pyguard tail -f log.txt"))["execution"]
        assert "one" in output(await client.until("stdout"))
        await client.send(type="run", command="pyguard bash -c 'echo two >>log.txt'")
        assert "two" in output(await client.until("stdout", execution=following))
        await client.send(type="cancel", execution=following)
        assert (await client.until("complete", execution=following))[-1]["status"] == "cancelled"
        assert processes_of(server, "tail -f log.txt") == []  # other tests have others


@pytest.mark.parametrize("family", FAMILIES)
async def test_nothing_is_left_when_complete_comes(server: Server, family: str) -> None:
    async with terminal(server) as client:
        await client.send(type="run", command=f"pyguard bash -c '{FAMILIES[family]}'")
        await client.until("stdout")
        assert processes_of(server, "sleep 500")
        await client.send(type="cancel")
        await client.reply()
        assert processes_of(server, "sleep 500") == []


async def test_children_that_outlive_the_command_end_with_it(server: Server) -> None:
    async with terminal(server) as client:
        replies = await client.run("pyguard bash -c 'setsid sleep 5010 & sleep 5010 & (sleep 5010 &); exit 7'")
        assert (replies[-1]["exit_code"], replies[-1]["duration_ms"] < 20_000) == (7, True)
        assert processes_of(server, "sleep 5010") == []


async def test_orphans_that_end_by_themselves_leave_no_zombie(server: Server) -> None:
    async with terminal(server) as client:
        await client.run("pyguard bash -c '(setsid sleep 0.1 &); (setsid true &); sleep 0.3'")
        wait_until(lambda: not processes_of(server), "the zombies to be waited for")


async def test_a_command_that_ignores_sigterm_is_killed_after_two_seconds(server: Server) -> None:
    async with terminal(server) as client:
        script = 'trap "" TERM; (setsid sleep 5011 &); echo up; while true; do sleep 0.1; done'
        await client.send(type="run", command=f"pyguard bash -c '{script}'")
        await client.until("stdout")
        await client.send(type="cancel")
        complete = (await client.reply())[-1]
        assert (complete["status"], complete["signal"], complete["exit_code"]) == ("cancelled", "SIGKILL", 137)
        assert 1900 <= complete["duration_ms"] < 20_000
        assert processes_of(server, "sleep 5011") == []


async def test_a_command_may_clean_up_on_sigterm(server: Server) -> None:
    async with terminal(server) as client:
        script = 'trap "echo cleaned; exit 9" TERM; echo up; while true; do sleep 0.05; done'
        await client.send(type="run", command=f"pyguard bash -c '{script}'")
        await client.until("stdout")
        await client.send(type="cancel")
        replies = await client.reply()
        assert output(replies) == "cleaned\n"
        assert (replies[-1]["status"], replies[-1]["exit_code"]) == ("cancelled", 9)


async def test_a_timeout_and_a_flood_leave_nothing_either(server: Server) -> None:
    async with terminal(server, "gatepost.v1.batch") as client:
        await client.run("pyguard bash -c '(setsid sleep 5012 &); sleep 5012'", timeout=0.5)
        await client.run("pyguard bash -c '(setsid yes &); yes'", bound=20)
        assert processes_of(server, "sleep 5012") == []


async def test_a_child_without_our_environment_in_a_session_of_its_own_is_found(server: Server) -> None:
    async with terminal(server) as client:
        await client.run("pyguard bash -c '(env -i setsid sleep 5013 >/dev/null 2>&1 &); sleep 0.3'")
        left = processes_of(server, "sleep 5013")
        clean_up(left)
        assert left == []
