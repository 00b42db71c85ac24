"""The network of a project where commands can be held to a list, and where they cannot."""

import pytest

from backend.application.projects import ProjectService
from backend.core.decisions import Decision
from backend.core.execution.targets import Target, project_ref
from backend.core.identity import NetworkAccess
from backend.core.policy.admit import Plan, admit
from backend.transports.problems import Problem
from backend.transports.projects_api import granted_project
from tests.recipes.house import ANN, build, shared

LIST = ("x.example",)


async def judged(network: NetworkAccess, line: str, *, holds_hosts: bool) -> Plan | Decision:
    common = shared()
    house = build(common)
    house.resolver.holds_hosts = holds_hosts
    assert ANN.user
    project = await common.projects.add("shop", ANN.user.id, network=network)
    target = await house.resolver.resolve(ANN, project_ref(project.id))
    assert isinstance(target, Target)
    return admit(line, target, ".")


@pytest.mark.parametrize(
    ("network", "holds_hosts", "rule"),
    [
        (False, True, "network.off"),
        (True, False, ""),
        (LIST, True, ""),
        (LIST, False, "network.rooms"),
        (("not a host",), True, "network.host"),
    ],
)
async def test_programs_that_need_it(network: NetworkAccess, holds_hosts: bool, rule: str) -> None:
    verdict = await judged(network, "curl https://x.example/", holds_hosts=holds_hosts)
    assert (verdict.rule if isinstance(verdict, Decision) else "") == rule
    if isinstance(verdict, Decision):  # it says who can change that, and how
        assert "dministrator" in verdict.hint
        assert "`network` of the project" in verdict.hint
    assert isinstance(await judged(network, "ls", holds_hosts=holds_hosts), Plan)


async def test_a_list_is_refused_where_commands_cannot_be_held_to_it() -> None:
    service = ProjectService(None, None, None, None, "", LIST)  # type: ignore[arg-type]
    refused = service.network(["x.example"])
    assert isinstance(refused, Decision)
    with pytest.raises(Problem) as raised:
        granted_project(refused)
    assert (raised.value.status, raised.value.rule) == (422, "network.rooms")
    assert (service.network(True), service.network([]), service.default_network) == (True, False, False)
