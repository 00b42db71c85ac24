"""The OpenAPI document: the routes, what they are for, how to log in, and what errors look like."""

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

ABOUT = (
    "Programs and agents run commands here: each is judged by a policy, runs without a shell in the workspace of a "
    "project, and is recorded. Log in with *Authorize*: an API token (`gp_…`), or the access token that "
    "`POST /api/auth/token` returns."
)
TAGS = {
    "hosts": "Machines whose agents run commands.",
    "django": "Django projects whose runners run management commands.",
    "login": "Exchange a password or a login link for an access token; show its account; revoke it.",
    "agent": "Run a command and wait for its output; the history, figures and alerts of commands.",
    "executions": "Start a command in the background; follow, read, feed, signal and cancel it.",
    "schedules": "Commands that run at the times of a cron expression.",
    "notifications": "Messages by webhook or e-mail about how executions ended.",
    "hooks": "Lines that signed requests from elsewhere start.",
    "policy": "Ask what would be allowed.",
    "projects": "The places where commands run, each with members and a policy.",
    "health": "The routes for probes.",
    "page": "The page for browsers.",
}
# The routes under /api that require no token, and those that answer visitors without one.
NO_TOKEN = frozenset({"/api/auth/token", "/api/auth/link", "/api/agent/health"})
MAYBE_TOKEN = frozenset({"/api/executions/{execution}/recording", "/api/limits"})
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API token (`gp_…`), or an access token from `POST /api/auth/token`.",
}
PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "description": "An error (RFC 9457): `rule` is for programs, `detail` for people.",
    "type": "object",
    "required": ["type", "title", "status", "detail", "rule"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "rule": {"type": "string"},
        "hint": {"type": "string"},
        "risk": {"type": "string"},
        "command_id": {"type": "string"},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
}
PROBLEM_ANSWER = {
    "description": "What went wrong",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def describe(app: FastAPI) -> None:
    """Complete the application's OpenAPI document with what its routes do not declare."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            complete(plain())
        return app.openapi_schema or {}

    app.openapi = openapi  # type: ignore[method-assign]


def complete(document: dict[str, Any]) -> None:
    """Add the tags, the token and the errors to a document."""
    document["info"]["description"] = ABOUT
    used = {tag for _, operation in _operations(document) for tag in operation["tags"]}
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    components = document.setdefault("components", {})
    components["securitySchemes"] = {"bearer": BEARER}
    schemas = components.setdefault("schemas", {})
    for replaced in ("HTTPValidationError", "ValidationError"):
        schemas.pop(replaced, None)
    schemas["Problem"] = PROBLEM
    for path, operation in _operations(document):
        operation["tags"] = operation["tags"][-1:]
        if text := operation.get("description"):
            operation["summary"] = text.partition(". ")[0].rstrip(".")
        if path.startswith("/api/") and path not in NO_TOKEN:
            operation["security"] = [{"bearer": []}, *([{}] if path in MAYBE_TOKEN else [])]
        if path.startswith(("/api/", "/hooks/")):
            _complete_answers(operation["responses"])


def _operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            yield path, operation


def _complete_answers(answers: dict[str, Any]) -> None:
    """Declare that errors are problems."""
    for code in [code for code in answers if int(code) >= 400]:
        answers[code] = {**PROBLEM_ANSWER, "description": answers[code]["description"]}
    answers["default"] = PROBLEM_ANSWER
