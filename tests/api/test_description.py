"""The description of the API against what the server does: nothing breaks, nothing is answered that is not described."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import response_schema_conformance, status_code_conformance

from tests.api.world import World, running_world

TERSE = {"/api/agent/health", "/api/executions/{execution}/recording"}  # their refusals are not described
CHECKS = [not_a_server_error, status_code_conformance, response_schema_conformance]
EXAMPLES = 6  # for each route, valid and invalid ones
NOT_FUZZED = {"/api/auth/revoke"}  # it would end the token that the others use


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory, reachable: None) -> Iterator[World]:
    """A world of its own: whatever can be said to it is."""
    with running_world(tmp_path_factory.mktemp("described")) as world:
        yield world


def test_whatever_is_asked_is_answered_as_described(described: World) -> None:
    """Valid and invalid requests, made from the description, as an administrator."""
    config = SchemathesisConfig.from_dict({"base-url": described.server.url})
    description = described.ask(None, "GET", "/openapi.json").json()
    schema = schemathesis.openapi.from_dict(description, config=config)
    found: list[Any] = list(schema.get_all_operations())
    operations = [result.ok() for result in found]
    asked = sum(
        _ask(described, operation, mode)
        for operation in operations
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        if operation.path not in NOT_FUZZED and operation.path.startswith("/api/")
    )
    assert asked > 200
    assert "Traceback" not in described.server.logs


def _ask(world: World, operation: Any, mode: GenerationMode) -> int:
    """Send requests of a route; how many."""
    sent = 0
    checks: list[Any] = [not_a_server_error] if operation.path in TERSE else list(CHECKS)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case[Any]) -> None:
        nonlocal sent
        sent += 1
        with requests.Session() as session:
            case.call_and_validate(session=session, headers=world.headers("root"), checks=checks)

    with suppress(Unsatisfiable):  # nothing can be wrong in a route without parameters
        send()
    return sent


def test_every_route_of_the_api_says_how_it_refuses(described: World) -> None:
    """Whoever reads the description learns of the token, the limits, and what a problem looks like."""
    for path, operations in described.ask(None, "GET", "/openapi.json").json()["paths"].items():
        if not path.startswith("/api/") or path in TERSE:
            continue
        for method, operation in operations.items():
            responses = operation["responses"]
            assert {"401", "429", "503"} <= set(responses), (method, path)
            assert ("requestBody" in operation) <= ({"400", "413", "415", "422"} <= set(responses)), (method, path)
            for status, answer in responses.items():
                assert (status >= "4") == ("application/problem+json" in answer.get("content", {})), (method, path)
