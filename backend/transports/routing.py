"""Routes that are built when they are first asked for: a server has eighty, and most clients use a few."""

from collections.abc import Callable, Collection
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.routing import compile_path


class Route(APIRoute):
    """Knows its path and its methods. What FastAPI needs to answer (the types of parameters, bodies and answers) it makes
    when one of its other attributes is asked for, which takes 1 ms.
    """

    def __init__(
        self, path: str, endpoint: Callable[..., Any], *, methods: Collection[str] | None = None, **options: Any
    ) -> None:
        self._options = {"path": path, "endpoint": endpoint, "methods": methods, **options}
        self.path, self.endpoint, self.methods = path, endpoint, set(methods or ("GET",))
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)

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
