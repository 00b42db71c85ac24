"""Events that are not about a command."""

from backend.core.audit.events import Kind
from tests.storage.contract.worlds import Server, World


async def test_events_are_recorded_in_their_order(world: World, server: Server) -> None:
    await server.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {"method": "link", "token": None})
    await server.audit.record(Kind.LOGOUT, "user:ann", "10.0.0.1", {})
    first, second = await world.events()
    assert (first["kind"], first["actor"], first["method"]) == ("login", "user:ann", "link")
    assert "token" not in first
    assert second["kind"] == "logout"


async def test_servers_share_one_audit(world: World, server: Server) -> None:
    other = await world.server("B" * 26)
    for each in (server, other, server):
        await each.audit.record(Kind.LOGIN, "user:ann", "10.0.0.1", {})
    assert [event["kind"] for event in await world.events()] == ["login"] * 3
