"""Routes that are built when they are first asked for: a server has eighty, and most clients use a few."""

from collections.abc import Callable, Collection
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope


class Route(APIRoute):
    """Knows its path and its methods. What FastAPI needs to answer (the types of parameters, bodies and answers) it makes
    when one of its other attributes is asked for, which takes 1 ms.
    """

    def __init__(
        self, path: str, endpoint: Callable[..., Any], *, methods: Collection[str] | None = None, **options: Any
    ) -> None:
        self._options = {"path": path, "endpoint": endpoint, "methods": methods, **options}
        self.path, self.endpoint, self.methods = path, endpoint, set(methods or ("GET",))
        self._begins, parameter, _ = path.partition("{")
        self._is_fixed = not parameter

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """As usual, where the path begins like this one."""
        path: str = scope["path"]
        if not scope.get("root_path") and (path != self.path if self._is_fixed else not path.startswith(self._begins)):
            return Match.NONE, {}
        return super().matches(scope)

    def __getattr__(self, name: str) -> Any:
        if (options := self.__dict__.pop("_options", None)) is None:
            raise AttributeError(name)
        super().__init__(**options)
        return getattr(self, name)


def new_router(tag: str, prefix: str = "", *, described: bool = True) -> APIRouter:
    """Routes of one tag below a path, in the OpenAPI document if they are `described`."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=Route, include_in_schema=described)


def add_routes(app: FastAPI, *routers: APIRouter) -> None:
    """Add routes as they are: `include_router` would build all of them, and for the first request once more."""
    for router in routers:
        app.router.routes.extend(router.routes)
