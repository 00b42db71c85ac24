"""A project with a list of hosts on a running server: who may change it, what commands reach, what the audit says."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import closing

import pytest

from tests.api.world import World, new_project, running_world
from tests.executors.local.test_rooms import wanted

REGISTRY = "registry.example.org:443"
IN_ROOMS = {
    "GATEPOST_NAMESPACES": "true",
    "GATEPOST_EGRESS": REGISTRY,
    "GATEPOST_COMMAND_ENVIRONMENT": "CANARY_SHOWN,npm_config_registry",
    "CANARY_SHOWN": "canary-shown",
    "CANARY_HIDDEN": "canary-hidden",
    "npm_config_registry": "https://registry.example.org/npm/",
}
HOST = "127.0.0.2"  # of this machine, and not the loopback address that programs reach without a proxy


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("egress")
    folder.chmod(0o711)
    bundle = folder / "ca.pem"
    bundle.write_text("certificates\n")
    with running_world(folder, {**IN_ROOMS, "GATEPOST_CA_BUNDLE": str(bundle)}) as world:
        world.tokens["bundle"] = str(bundle)
        yield world


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """A web server; `/away` redirects to the loopback address of the machine."""

    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        away = f"Location: http://127.0.0.3:{port}/\r\n" if b"/away" in asked else ""
        head = f"HTTP/1.1 {'302 Found' if away else '200 OK'}\r\n{away}Content-Length: 3\r\nConnection: close\r\n\r\n"
        writer.write(f"{head}hi\n".encode())
        writer.close()

    server = await asyncio.start_server(web, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    with closing(server):
        yield port


def patched(world: World, who: str, project: str, network: object) -> tuple[int, object]:
    """The status, and the network or the rule."""
    answer = world.ask(who, "PATCH", f"/api/projects/{project}", {"network": network})
    return answer.status_code, answer.json().get("network", answer.json().get("rule"))


def test_who_may_change_it(world: World) -> None:
    """Its owner within the list of the operator, an administrator beyond it."""
    made = world.ask("ann", "POST", "/api/projects", {"name": "With the list of the operator"}).json()
    project = made["id"]
    assert made["network"] == [REGISTRY]
    assert patched(world, "ann", project, []) == (200, False)
    assert patched(world, "ann", project, [REGISTRY]) == (200, [REGISTRY])
    assert patched(world, "ann", project, [REGISTRY, "x.example"]) == (403, "project.widening")
    assert patched(world, "ann", project, True) == (403, "project.widening")
    assert patched(world, "root", project, ["X.example.", "10.1.0.7/16:5432"]) == (
        200,
        ["x.example", "10.1.0.0/16:5432"],
    )
    assert patched(world, "ann", project, ["x.example"]) == (200, ["x.example"])
    assert patched(world, "root", project, "on") == (200, True)
    assert patched(world, "ann", project, ["anything.example"]) == (200, ["anything.example"])
    assert patched(world, "root", project, ["http://x.example"]) == (422, "project.network")
    assert patched(world, "ann", project, "off") == (200, False)
    assert world.events(kind="project_changed", project=project)[-1]["network"] is False
    assert world.ask("ann", "POST", "/api/projects", {"name": "x", "network": ["x.example"]}).status_code == 403


async def test_commands_reach_what_is_listed_and_nothing_else(world: World, port: int) -> None:
    wanted("curl")
    project = await asyncio.to_thread(new_project, world, network=[f"{HOST}:{port}"])

    async def run(command: str) -> tuple[str, str]:
        done = (await asyncio.to_thread(world.execute, "ann", command, project_id=project)).json()
        return done["command_id"], done["stdout"]

    execution, said = await run(f"curl -sS http://{HOST}:{port}/")
    assert said == "hi\n"
    mine = list(world.events(execution=execution))
    assert [event["kind"] for event in mine[-4:]] == ["started", "connection_opened", "connection_closed", "finished"]
    about = {"project": project, "host": HOST, "port": port, "rule": "network.listed", "actor": "user:ann"}
    assert [about.items() <= event.items() for event in mine[-3:-1]] == [True, True]
    assert mine[-2]["sent"] > 50
    assert mine[-2]["received"] > 50

    execution, said = await run(f"curl -sSL http://{HOST}:{port}/away")
    assert "gatepost: network.host: 127.0.0.3:" in said
    [refused] = world.events(execution=execution, kind="connection_refused")
    assert (refused["host"], refused["rule"]) == ("127.0.0.3", "network.host")
    assert "An administrator can add it" in said


async def test_settings_of_the_machine_reach_commands(world: World) -> None:
    """Those that are listed, and by the variables that programs read; the password of the proxy is masked."""
    project = await asyncio.to_thread(new_project, world, network=["x.example"])
    names = "CANARY_SHOWN npm_config_registry NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO PIP_CERT NO_PROXY https_proxy"
    done = await asyncio.to_thread(
        world.execute, "ann", f"printenv {names}; printenv CANARY_HIDDEN", project_id=project
    )
    *shown, proxy = done.json()["stdout"].splitlines()
    bundle = world.tokens["bundle"]
    assert shown == [
        *("canary-shown", "https://registry.example.org/npm/", bundle, bundle, bundle),
        "localhost,127.0.0.1,::1",
    ]
    assert proxy.startswith(f"http://{done.json()['command_id']}:[masked]@127.0.0.1:")
