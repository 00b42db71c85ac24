"""The order of the checks before a command is the one that docs/design.md shows."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from backend.core.decisions import Decision
from backend.core.execution.gateway import Rates
from backend.core.execution.requests import Refused, Request
from backend.core.execution.targets import OWN
from backend.core.identity import Permission
from backend.core.limits import Rate, Slots
from backend.core.recording.retention import UNLIMITED
from backend.storage.limiter import MovingWindow
from tests.application.servers import Servers
from tests.recipes.house import ANN

DESIGN = Path(__file__).parents[2] / "docs" / "design.md"
SHOWN = re.compile(r"^ {15}\d (\w+) ", re.MULTILINE)


async def test_the_checks_are_made_in_the_order_that_is_shown(servers: Servers) -> None:
    house = servers.here
    gateway = house.gateway
    target = await house.resolver.resolve(ANN, OWN)
    assert not isinstance(target, Decision)
    admitting, open_slots = gateway.rates, gateway.slots
    none = MovingWindow(Rate(1, 3600))
    await none.hit(ANN.name)
    # A request that every check refuses; each of these makes one of them content.
    gateway.closing, gateway.rates, gateway.slots = True, Rates(none, none, none), Slots(0, 0)
    gateway.protected = lambda: Decision.deny("protection.level", "No cage.")
    shares = gateway.lifecycle.shares
    shares.share = 0
    reader = replace(ANN, permissions=frozenset({Permission.READ}))
    unknown = Decision.deny("target.unknown", "There is no such target.")
    request = Request(reader, target, "sudo x", timeout=1e6, detached=True, unresolved=unknown)

    def change(name: str, value: object) -> Callable[[Request], Request]:
        def set_part(request: Request) -> Request:
            setattr(gateway, name, value)
            return request

        return set_part

    def widen(request: Request) -> Request:
        shares.share = UNLIMITED
        return request

    contented = {
        "server.stopping": ("stopping", change("closing", False)),
        "limits.rate": ("rate", change("rates", admitting)),
        "target.unknown": ("target", lambda request: replace(request, unresolved=None)),
        "role.forbidden": ("role", lambda request: replace(request, principal=ANN)),
        "protection.level": ("protection", change("protected", lambda: None)),
        "limits.recordings": ("share", widen),
        "limits.timeout": ("timeout", lambda request: replace(request, timeout=None)),
        "blocked.sudo": ("admit", lambda request: replace(request, command="echo x")),
        "limits.concurrency": ("slots", change("slots", open_slots)),
    }
    order: list[str] = []
    while isinstance(answer := await gateway.submit(request), Refused):
        name, content = contented.pop(answer.decision.rule)
        order.append(name)
        request = content(request)
    assert contented == {}
    assert order == SHOWN.findall(DESIGN.read_text())
