"""The routes for probes: liveness, readiness, protection, metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse

from backend.core.dataclasses import dataclass
from backend.transports.routing import new_router
from backend.transports.security import Connections

# FastAPI would import the first version of Pydantic for the type of an answer, 2 MiB that a server without API clients does without.
AN_OBJECT: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"schema": {"type": "object"}}}}}


@dataclass(frozen=True, slots=True)
class HealthChecks:
    """What the routes report. `checks` and `stores` are asked by /readyz; `metrics` is None if it is disabled.

    `warnings` name what an operator has permitted and should not forget.
    """

    api_key_configured: bool
    connections: Connections
    checks: Mapping[str, Callable[[], bool]]
    stores: Mapping[str, Callable[[], Awaitable[bool]]]
    protection: Mapping[str, Any]
    protected: bool
    metrics: Callable[[], Awaitable[str]] | None
    warnings: tuple[str, ...] = ()


def health_routes(health: HealthChecks) -> APIRouter:
    """Probes come often and from one address, so these are not limited."""
    router = new_router("health")

    @router.get("/health", responses=AN_OBJECT)
    async def status() -> JSONResponse:
        return JSONResponse(
            {
                "status": "healthy",
                "api_key_configured": health.api_key_configured,
                "active_connections": health.connections.count,
            }
        )

    @router.get("/healthz", responses=AN_OBJECT)
    async def alive() -> JSONResponse:
        return JSONResponse({"status": "ok"})

    @router.get("/readyz")
    async def ready() -> JSONResponse:
        checks = {name: "ok" if check() else "failed" for name, check in health.checks.items()}
        answers = await asyncio.gather(*(answers() for answers in health.stores.values()))
        checks |= {name: "ok" if ok else "failed" for name, ok in zip(health.stores, answers, strict=True)}
        checks["protection"] = "ok" if health.protected else "failed"
        well = all(result == "ok" for result in checks.values())
        warnings = {"warnings": list(health.warnings)} if health.warnings else {}
        status = "ready" if well else "not ready"
        return JSONResponse({"status": status, "checks": checks, **warnings}, 200 if well else 503)

    @router.get("/health/protection")
    async def protection() -> JSONResponse:
        """The protection of commands as tested at startup; returns 503 if it is less than required."""
        return JSONResponse(dict(health.protection), 200 if health.protected else 503)

    if render := health.metrics:

        @router.get("/metrics")
        async def metrics() -> PlainTextResponse:
            return PlainTextResponse(await render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router
