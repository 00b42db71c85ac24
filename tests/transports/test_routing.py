"""Routes are built when they are first asked for, and are then those of FastAPI."""

from typing import Annotated

import httpx
from fastapi import FastAPI, Query
from fastapi.routing import APIRoute

from backend.transports.routing import add_routes, new_router


def _app() -> tuple[FastAPI, APIRoute, APIRoute]:
    router = new_router("things", "/things")

    @router.get("/{name}")
    async def get(name: str, most: Annotated[int, Query(ge=1)] = 1) -> dict[str, object]:
        return {"name": name, "most": most}

    @router.delete("/{name}", status_code=204)
    async def delete(name: str) -> None:
        """Delete it."""

    add_routes(app := FastAPI(), router)
    asked, other = (route for route in app.routes if isinstance(route, APIRoute))
    return app, asked, other


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


async def test_one_that_nobody_asked_for_is_not_built() -> None:
    app, asked, other = _app()
    answer = await _client(app).get("/things/a", params={"most": 2})
    assert answer.json() == {"name": "a", "most": 2}
    assert "dependant" in vars(asked)
    assert "dependant" not in vars(other)


async def test_they_check_what_is_sent_and_which_method_is_used() -> None:
    client = _client(_app()[0])
    assert (await client.get("/things/a", params={"most": 0})).status_code == 422
    assert (await client.delete("/things/a")).status_code == 204
    assert (await client.post("/things/a")).status_code == 405
    assert (await client.get("/other")).status_code == 404
    assert (await client.get("/things/a/b")).status_code == 404


async def test_below_a_path_of_a_proxy_they_are_found_too() -> None:
    transport = httpx.ASGITransport(_app()[0], root_path="/below")
    client = httpx.AsyncClient(transport=transport, base_url="http://test")
    assert (await client.get("/below/things/a")).json() == {"name": "a", "most": 1}


def test_the_description_has_all_of_them() -> None:
    assert _app()[0].openapi()["paths"]["/things/{name}"].keys() == {"get", "delete"}
