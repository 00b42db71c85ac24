"""The targets of an agent: what is known of their lines is kept from one command to the next."""

from typing import Any, cast

from backend.core.decisions import Decision
from backend.core.execution.targets import OWN, Target, TargetRef
from backend.core.identity import VISITOR_PERMISSIONS, Principal
from backend.core.policy.line_state import BEGINNING
from backend.host_agent.builtin import Configured, builtin_handlers
from backend.host_agent.handlers import by_name
from backend.host_agent.targets import LINES, HostTargets
from backend.policies.loader import load_profile

WHO = Principal("server:ann", "redis", VISITOR_PERMISSIONS)


def targets() -> HostTargets:
    """Those of a host that runs no lines, where nothing is executed."""
    handlers = by_name(builtin_handlers(Configured((), (), 30, 60, "/tmp")))
    return HostTargets(load_profile("host"), cast(Any, None), handlers, None, 1 << 20)


async def test_a_line_that_was_judged_is_known_to_the_next_command() -> None:
    host = targets()
    first, second = [await host.resolve(WHO, OWN) for _ in range(2)]
    assert isinstance(first, Target)
    assert isinstance(second, Target)
    verdict = first.verdicts.judge("echo message=hi", first, ".", BEGINNING)
    assert not isinstance(verdict, Decision)
    assert second.verdicts.find("echo message=hi", second, ".", BEGINNING) == verdict


async def test_other_targets_are_unknown() -> None:
    host = targets()
    for ref in (LINES, TargetRef("host", "web-01")):
        found = await host.resolve(WHO, ref)
        assert isinstance(found, Decision)
        assert found.rule == "target.unknown"
