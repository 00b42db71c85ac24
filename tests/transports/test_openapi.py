"""The OpenAPI document says the truth: which routes want a token, what errors look like, what tags mean."""

import re
from typing import Any

import pytest

from backend.transports.openapi import TAGS
from tests.serving import Server

METHODS = ("get", "post", "patch", "delete")
ULID = "01M7YS3CZFWJC6KCHHCFFW0SFH"


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = server.get("/openapi.json").json
    return found


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, each) for path, methods in document["paths"].items() for method, each in methods.items()]


def test_exactly_the_routes_that_want_a_token_say_so(server: Server, document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        answer = server.get(re.sub(r"\{\w+\}", ULID, path), method=method.upper())
        wants = {"bearer": []} in operation.get("security", []) and {} not in operation["security"]
        wants = wants or path.startswith("/hooks/")  # a signature, not a token
        assert (answer.status == 401) is wants, f"{method} {path}: {answer.status}"


def test_errors_of_the_api_are_problems(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        assert method in METHODS
        if path.startswith(("/api/", "/hooks/")):
            for code, answer in operation["responses"].items():
                assert code == "default" or int(code) < 400 or "application/problem+json" in answer["content"]
            assert "default" in operation["responses"]


def test_a_problem_has_the_described_fields(server: Server, document: dict[str, Any]) -> None:
    described = document["components"]["schemas"]["Problem"]
    for answer in (server.get("/api/auth/me"), server.get("/api/auth/link", method="POST")):
        assert set(described["required"]) <= set(answer.json) <= set(described["properties"])
        assert answer.headers["content-type"] == "application/problem+json"


def test_each_operation_has_one_tag_that_is_described_and_a_summary_of_its_own(document: dict[str, Any]) -> None:
    assert [tag["name"] for tag in document["tags"]] == list(TAGS)
    for _, path, operation in operations(document):
        assert len(operation["tags"]) == 1
        if path.startswith("/api/"):
            assert len(operation["summary"].split()) > 1


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for name in re.findall(r"#/components/schemas/(\w+)", str(document)):
        assert name in document["components"]["schemas"]
