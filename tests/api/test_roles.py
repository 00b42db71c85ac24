"""Who may do what: every route and every action of the terminal, for every kind of caller."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.world import EXECUTE, READ, World, access_token, accounts, address, new_project, new_token
from tests.client import Terminal, terminal
from tests.serving import wait_until

# The callers, in the order of the columns. `execute`, `read`: API tokens of ann with that scope only; `scoped`: one
# of the administrator without the scope `admin`; ann owns the project, cleo and vic (a viewer) are members of it.
CALLERS = ("vic", "ann", "cleo", "bob", "root", "read", "execute", "scoped")
NOBODY = (None, "visitor", "revoked", "expired", "disabled", "disabled program", "gp_nonsense", "a.b.c")

RUN = {"project_id": "{project}", "command": "pwd", "dry_run": True}
RUN_PRIVATE = {**RUN, "project_id": "{private}"}
RUN_OWN = {"command": "pwd", "dry_run": True}
SCHEDULE = {"name": "yearly", "command": "pwd", "cron": "0 0 1 1 *"}
NOTIFICATION = {"name": "page us", "url": "http://localhost:1/a"}  # which is judged, and so never connected to
HOOK = {"name": "deploy", "command": "pwd"}
STDIN, SIGNAL, SIZE = {"data": "x\n"}, {"signal": "USR1"}, {"columns": 80, "rows": 24}

# route, body: the status for each of CALLERS. `{project}` and `{done}`, `{running}` in it are ann's, open to members;
# `{private}` and `{secret}` (an execution in it) are ann's alone; `{live}` is one that runs for this request only.
#                                                               vic  ann  cleo bob  root read exec scoped
TABLE: list[tuple[str, str, Any, str]] = [
    ("GET", "/api/auth/me", None,                              "200  200  200  200  200  200  200  200"),
    ("GET", "/api/agent/health", None,                         "200  200  200  200  200  200  200  200"),
    ("POST", "/api/agent/execute", RUN,                        "403  200  200  404  200  403  200  404"),
    ("POST", "/api/agent/execute", RUN_PRIVATE,                "404  200  404  404  200  403  200  404"),
    ("GET", "/api/agent/history/{project}", None,              "200  200  200  404  200  200  403  404"),
    ("GET", "/api/agent/history/{private}", None,              "404  200  404  404  200  200  403  404"),
    ("GET", "/api/agent/stats", None,                          "200  200  200  200  200  200  403  200"),
    ("GET", "/api/agent/alerts", None,                         "200  200  200  200  200  200  403  200"),
    ("GET", "/api/agent/alerts?user_id={ann}", None,           "403  200  403  403  200  200  403  403"),
    ("POST", "/api/executions", RUN_OWN,                       "403  202  202  202  202  403  202  202"),
    ("POST", "/api/executions", RUN,                           "403  202  202  404  202  403  202  404"),
    ("POST", "/api/executions", RUN_PRIVATE,                   "404  202  404  404  202  403  202  404"),
    ("GET", "/api/executions", None,                           "200  200  200  200  200  200  403  200"),
    ("GET", "/api/executions?everyone=true", None,             "403  403  403  403  200  403  403  403"),
    ("GET", "/api/executions?project_id={project}", None,      "200  200  200  404  200  200  403  404"),
    ("GET", "/api/executions?project_id={private}", None,      "404  200  404  404  200  200  403  404"),
    ("POST", "/api/policy/explain", {"command": "pwd"},        "200  200  200  200  200  200  403  200"),
    ("POST", "/api/policy/explain", {"command": "pwd", "project_id": "{private}"},
                                                               "404  200  404  404  200  200  403  404"),
    ("GET", "/api/executions/{done}", None,                    "200  200  200  404  200  200  403  404"),
    ("GET", "/api/executions/{secret}", None,                  "404  200  404  404  200  200  403  404"),
    ("GET", "/api/executions/{done}/output", None,             "200  200  200  404  200  200  403  404"),
    ("GET", "/api/executions/{secret}/output", None,           "404  200  404  404  200  200  403  404"),
    ("GET", "/api/executions/{done}/events", None,             "200  200  200  404  200  200  403  404"),
    ("GET", "/api/executions/{secret}/events", None,           "404  200  404  404  200  200  403  404"),
    ("GET", "/api/executions/{done}/recording", None,          "200  200  200  404  200  200  404  404"),
    ("GET", "/api/executions/{secret}/recording", None,        "404  200  404  404  200  200  404  404"),
    ("POST", "/api/executions/{live}/cancel", None,            "403  202  202  404  202  403  202  404"),
    ("POST", "/api/executions/{live}/stdin", STDIN,            "403  202  202  404  202  403  202  404"),
    ("POST", "/api/executions/{live}/signal", SIGNAL,          "403  202  202  404  202  403  202  404"),
    ("POST", "/api/executions/{live}/resize", SIZE,            "403  409  409  404  409  403  409  404"),
    ("POST", "/api/executions/{done}/cancel", None,            "403  202  202  404  202  403  202  404"),
    ("POST", "/api/executions/{secret}/cancel", None,          "404  202  404  404  202  403  202  404"),
    ("POST", "/api/executions/{secret}/stdin", STDIN,          "404  409  404  404  409  403  409  404"),
    ("POST", "/api/executions/{secret}/signal", SIGNAL,        "404  409  404  404  409  403  409  404"),
    ("GET", "/api/projects", None,                             "200  200  200  200  200  200  403  200"),
    ("POST", "/api/projects", {"name": "New"},                 "403  201  201  201  201  403  201  201"),
    ("POST", "/api/projects", {"name": "New", "network": True},
                                                               "403  403  403  403  201  403  403  403"),
    ("GET", "/api/projects/{project}", None,                   "200  200  200  404  200  200  403  404"),
    ("GET", "/api/projects/{private}", None,                   "404  200  404  404  200  200  403  404"),
    ("PATCH", "/api/projects/{project}", {"name": "Renamed"},  "403  200  403  404  200  403  403  404"),
    ("PATCH", "/api/projects/{project}", {"network": True},    "403  403  403  404  200  403  403  404"),
    ("PATCH", "/api/projects/{private}", {"name": "Renamed"},  "404  200  404  404  200  403  403  404"),
    ("DELETE", "/api/projects/{fresh}", None,                  "403  204  403  404  204  403  403  404"),
    ("GET", "/api/schedules", None,                            "200  200  200  200  200  200  403  200"),
    ("POST", "/api/schedules", SCHEDULE,                       "403  201  201  201  201  403  201  201"),
    ("POST", "/api/schedules", SCHEDULE | {"project_id": "{private}"},
                                                               "403  201  404  404  201  403  201  404"),
    ("GET", "/api/schedules/{schedule}", None,                 "404  200  404  404  200  200  403  404"),
    ("GET", "/api/schedules/{schedule}/runs", None,            "404  200  404  404  200  200  403  404"),
    ("PATCH", "/api/schedules/{schedule}", {"paused": True},   "403  200  404  404  200  403  200  404"),
    ("PATCH", "/api/schedules/{schedule}", {"command": "ls"},  "403  200  404  404  403  403  200  404"),
    ("POST", "/api/schedules/{schedule}/run", None,            "403  202  404  404  202  403  202  404"),
    ("DELETE", "/api/schedules/{ended}", None,                 "403  204  404  404  204  403  204  404"),
    ("GET", "/api/notifications", None,                        "200  200  200  200  200  200  403  200"),
    ("POST", "/api/notifications", NOTIFICATION,               "403  201  201  201  201  403  201  201"),
    ("POST", "/api/notifications", NOTIFICATION | {"subject": "schedule:{schedule}"},
                                                               "403  201  404  404  201  403  201  404"),
    ("POST", "/api/notifications", NOTIFICATION | {"subject": "project:{private}"},
                                                               "403  201  404  404  201  403  201  404"),
    ("GET", "/api/notifications/{notification}/deliveries", None,
                                                               "404  200  404  404  200  200  403  404"),
    ("POST", "/api/notifications/{notification}/test", None,   "403  200  404  404  200  403  200  404"),
    ("POST", "/api/notifications/{notification}/deliveries/{dead}/repeat", None,
                                                               "403  409  404  404  409  403  409  404"),
    ("DELETE", "/api/notifications/{silent}", None,            "403  204  404  404  204  403  204  404"),
    ("GET", "/api/hooks", None,                                "200  200  200  200  200  200  403  200"),
    ("POST", "/api/hooks", HOOK,                               "403  201  201  201  201  403  201  201"),
    ("POST", "/api/hooks", HOOK | {"project_id": "{private}"}, "403  201  404  404  201  403  201  404"),
    ("POST", "/api/hooks/{cut}/rotate", {},                    "403  201  404  404  201  403  201  404"),
    ("DELETE", "/api/hooks/{cut}", None,                       "403  204  404  404  204  403  204  404"),
    ("GET", "/api/hosts", None,                                "200  200  200  200  200  200  403  200"),
    ("GET", "/api/hosts/{host}", None,                         "404  404  404  404  404  404  403  404"),
    ("POST", "/api/hosts/{host}/commands", {"command": "echo"},
                                                               "404  404  404  404  404  404  404  404"),
    ("POST", "/api/hosts/commands", {"command": "echo", "hosts": ["web-09"]},
                                                               "403  200  200  200  200  403  200  200"),
    ("GET", "/api/django", None,                               "200  200  200  200  200  200  403  200"),
    ("GET", "/api/django/{project}/commands", None,            "200  200  200  404  200  200  403  404"),
    ("GET", "/api/django/{private}/commands", None,            "404  200  404  404  200  200  403  404"),
    ("GET", "/api/django/{project}/keys", None,                "200  200  200  404  200  200  403  404"),
    ("POST", "/api/django/{project}/keys", {"name": "a"},      "403  201  403  404  201  403  201  404"),
    ("POST", "/api/django/{project}/keys/{key}/rotate", {},    "403  404  403  404  404  403  404  404"),
    ("POST", "/api/django/{project}/keys/{key}/suspend", {"reason": "a"},
                                                               "403  404  403  404  404  403  404  404"),
    ("POST", "/api/django/{project}/keys/{key}/resume", None,  "403  404  403  404  404  403  404  404"),
    ("DELETE", "/api/django/{project}/keys/{key}", None,       "403  404  403  404  404  403  404  404"),
    ("GET", "/api/limits", None,                               "200  200  200  200  200  200  200  200"),
    ("POST", "/api/auth/renew", None,                          "200  200  200  200  200  403  403  403"),
    ("POST", "/api/auth/password", {"password": "a password that is not set"},
                                                               "403  403  403  403  403  403  403  403"),
    ("POST", "/api/auth/revoke", None,                         "204  204  204  204  204  204  204  204"),
]  # fmt: skip

# Routes without an account: whoever asks gets this.
OPEN = {
    ("GET", "/"): 200,
    ("GET", "/health"): 200,
    ("GET", "/healthz"): 200,
    ("GET", "/readyz"): 200,
    ("GET", "/health/protection"): 200,
    ("GET", "/metrics"): 200,
    ("GET", "/api/agent/health"): 200,
    ("POST", "/api/auth/token"): 415,
    ("POST", "/api/auth/link"): 401,
    ("POST", "/hooks/{hook}"): 401,
}


@pytest.fixture(scope="module")
def places(world: World) -> dict[str, str]:
    """What `{...}` stands for."""
    done = world.start("ann", "pyguard echo done")
    secret = world.start("ann", "pyguard echo secret", project_id=world.private)
    assert [world.ended(done), world.ended(secret)] == ["succeeded"] * 2
    schedule, notification = _schedule(world), _notification(world)
    known = {
        "schedule": schedule,
        "notification": notification,
        "project": world.project,
        "private": world.private,
        "done": done,
        "secret": secret,
        "host": "web-09",
        "key": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
        "dead": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    }
    return {**known, **world.users}


def _schedule(world: World) -> str:
    return str(world.ask("ann", "POST", "/api/schedules", SCHEDULE).json()["id"])


def _notification(world: World) -> str:
    return str(world.ask("ann", "POST", "/api/notifications", NOTIFICATION).json()["id"])


def _hook(world: World) -> str:
    return str(world.ask("ann", "POST", "/api/hooks", HOOK).json()["id"])


@pytest.fixture
def live(world: World) -> Iterator[str]:
    """A command of ann in the project that waits for its input, ended with the test."""
    execution = world.start("ann", "pyguard bash -c 'trap : USR1; echo up; while :; do read -t 9; done'", stdin=True)
    wait_until(
        lambda: any("up" in each.get("lines", ()) for each in world.server.recording(execution)), "its first line"
    )
    try:
        yield execution
    finally:
        world.ask("root", "POST", f"/api/executions/{execution}/cancel")
        world.ended(execution)


def _filled(value: Any, places: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(each, places) for key, each in value.items()}
    return value.format(**places) if isinstance(value, str) else value


def _name(row: tuple[str, str, Any, str]) -> str:
    method, path, body, _ = row
    return f"{method} {path} {' '.join(map(str, body.values())) if body else ''}".strip()


def test_a_late_cancel_returns_the_status_to_those_who_may_view_it(world: World, places: dict[str, str]) -> None:
    path = f"/api/executions/{places['done']}/cancel"
    answers = [world.ask(who, "POST", path).json() for who in ("ann", "execute")]
    assert answers == [{"id": places["done"], "status": "succeeded"}, {"id": places["done"]}]


def _spare_token(world: World, who: str) -> str:
    """Another token of the same kind, which may be revoked."""
    scopes = {"read": READ, "execute": EXECUTE, "scoped": READ | EXECUTE}.get(who)
    if scopes is None:
        return access_token(world.users[who])
    owner = world.users["root" if who == "scoped" else "ann"]
    secret, _ = accounts(world.server.data_dir, lambda identities: new_token(identities, owner, scopes))
    return str(secret)


def _grouped(path: str) -> str:
    """The path as the description has it."""
    path = path.partition("?")[0]
    name = "{project}" if path.startswith("/api/django/") else "{project_id}"
    path = re.sub(r"\{(project|private|fresh)\}", name, path)
    path = re.sub(r"\{ended\}", "{schedule}", path)
    path = re.sub(r"\{silent\}", "{notification}", path)
    path = re.sub(r"\{cut\}", "{hook}", path)
    path = re.sub(r"\{dead\}", "{delivery}", path)
    return re.sub(r"\{(done|secret|live)\}", "{execution}", path)


def test_every_route_of_the_description_is_in_the_table(world: World) -> None:
    described = {
        (method.upper(), path)
        for path, operations in world.ask(None, "GET", "/openapi.json").json()["paths"].items()
        for method in operations
    }
    known = {(method, _grouped(path)) for method, path, _, _ in TABLE} | set(OPEN)
    assert described - known == set(), "a new route: say here who may use it"
    assert known - described == set(), "the table has a route that is not there"


@pytest.mark.parametrize("row", TABLE, ids=_name)
@pytest.mark.parametrize("who", CALLERS)
def test_the_status_for_a_caller(
    world: World, places: dict[str, str], request: pytest.FixtureRequest, row: tuple[str, str, Any, str], who: str
) -> None:
    method, path, body, statuses = row
    if "{live}" in path:
        places = {**places, "live": request.getfixturevalue("live")}
    if "{fresh}" in path or method == "PATCH":
        fresh = new_project(world, members=[] if "{private}" in path else ["cleo", "vic"])
        places = {**places, "fresh": fresh, "project": fresh, "private": fresh}
    if "{silent}" in path:
        places = {**places, "silent": _notification(world)}
    if "{cut}" in path:
        places = {**places, "cut": _hook(world)}
    if "{ended}" in path:
        places = {**places, "ended": _schedule(world)}
    token = _spare_token(world, who) if path.endswith("/revoke") else who
    answer = world.ask(token, method, path.format(**places), _filled(body, places))
    assert answer.status_code == int(statuses.split()[CALLERS.index(who)]), answer.text
    if path.endswith("/revoke"):
        assert world.ask(token, "GET", "/api/auth/me").status_code == 401
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert {"rule", "detail"} <= set(answer.json())


@pytest.mark.parametrize("who", NOBODY)
def test_nobody_gets_401_from_every_route(world: World, places: dict[str, str], who: str | None) -> None:
    """The account is asked for before anything else is looked at: not even what exists can be told apart."""
    places = {
        **places,
        "live": places["done"],
        "fresh": places["project"],
        "ended": places["schedule"],
        "silent": places["notification"],
        "cut": places["notification"],
    }
    for method, path, body, _ in TABLE:
        answer = world.ask(who, method, path.format(**places), _filled(body, places))
        expected = OPEN.get((method, _grouped(path)), 401)
        if who == "visitor" and path.endswith("/recording"):
            expected = 404  # visitors look at their own
        if who == "visitor" and path == "/api/limits":
            expected = 200  # what visitors of this address have left
        assert answer.status_code == expected, (method, path, answer.text)
        if expected == 401:
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("who", [None, "visitor", "ann", "revoked"])
def test_the_open_routes_ask_for_no_token(world: World, who: str | None) -> None:
    for (method, path), expected in OPEN.items():
        body = {"ticket": "gl_no"} if method == "POST" else None
        assert world.ask(who, method, path, body).status_code == expected, path


def test_a_stranger_learns_nothing_from_the_answers(world: World, places: dict[str, str]) -> None:
    """Another's execution or project and one that never was are answered word for word the same."""
    never = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    for path in ("", "/output", "/events", "/recording"):
        theirs = world.ask("bob", "GET", f"/api/executions/{places['secret']}{path}")
        nobodys = world.ask("bob", "GET", f"/api/executions/{never}{path}")
        assert (theirs.status_code, theirs.text.replace(places["secret"], never)) == (404, nobodys.text)
    for path in ("/api/projects/{}", "/api/agent/history/{}", "/api/executions?project_id={}"):
        theirs = world.ask("bob", "GET", path.format(world.private))
        nobodys = world.ask("bob", "GET", path.format(never))
        assert (theirs.status_code, theirs.text.replace(world.private, never)) == (404, nobodys.text)


def test_of_many_who_delete_a_project_at_once_one_did(world: World) -> None:
    project = new_project(world)
    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(world.ask, "ann", "DELETE", f"/api/projects/{project}") for _ in range(8)]
        statuses = sorted(each.result().status_code for each in asked)
    assert statuses == [204] + [404] * 7
    assert len(world.events(kind="project_deleted", project=project)) == 1


def test_lists_hold_nothing_of_others(world: World, places: dict[str, str]) -> None:
    mine = world.ask("bob", "GET", "/api/executions?limit=200").json()["executions"]
    assert {each["user_id"] for each in mine} <= {world.users["bob"]}
    names = {who: {p["id"] for p in world.ask(who, "GET", "/api/projects").json()} for who in ("bob", "cleo", "root")}
    assert world.project not in names["bob"]
    assert (world.project in names["cleo"], world.private in names["cleo"]) == (True, False)
    assert {world.project, world.private} <= names["root"]
    scoped = {project["id"] for project in world.ask("scoped", "GET", "/api/projects").json()}
    assert not scoped & {world.project, world.private}


# The same for the terminal, in the statuses of the route beside it. There one attaches before one cancels or types, so
# that a token which may only execute does both to what it started on its own connection.
#                     vic  ann  cleo bob  root read exec scoped
SOCKET: dict[str, tuple[str, str]] = {
    "run":              ("403 202 202 202 202 403 202 202", "POST /api/executions"),
    "run in project":   ("403 202 202 404 202 403 202 404", "POST /api/executions"),
    "run in private":   ("404 202 404 404 202 403 202 404", "POST /api/executions"),
    "attach":           ("200 200 200 404 200 200 404 404", "GET /api/executions/{done}/events"),
    "attach to secret": ("404 200 404 404 200 200 404 404", "GET /api/executions/{secret}/events"),
    "cancel":           ("403 202 202 404 202 403 404 404", "POST /api/executions/{live}/cancel"),
    "stdin":            ("403 202 202 404 202 403 404 404", "POST /api/executions/{live}/stdin"),
}  # fmt: skip
RULES = {"403": "role.forbidden", "404": ("project.unknown", "execution.unknown", "execution.not_running")}


@pytest.mark.parametrize("who", CALLERS)
@pytest.mark.parametrize("action", SOCKET)
async def test_the_terminal_says_the_same(
    world: World, places: dict[str, str], request: pytest.FixtureRequest, action: str, who: str
) -> None:
    live = request.getfixturevalue("live") if action in {"cancel", "stdin"} else ""
    status = SOCKET[action][0].split()[CALLERS.index(who)]
    headers = world.headers(who)
    async with terminal(world.server, additional_headers=headers) as client:
        last = await _act(client, action, {**places, "live": live}, attached=status in {"202", "403"})
    if status.startswith("2"):
        assert last["type"] != "error", last
    else:
        assert last["type"] == "error"
        assert last["rule"] in RULES[status]
    if action in {"cancel", "stdin"} and status != "202":
        assert world.status(live) == "running"


async def _act(client: Terminal, action: str, places: dict[str, str], *, attached: bool) -> dict[str, Any]:
    """Do it; the first message that says what became of it."""
    match action.split():
        case ["run", *where]:
            project: dict[str, Any] = {"project": places[where[-1]]} if where else {}
            return (await client.run("pwd", dry_run=True, **project))[-1]
        case ["attach", *where]:
            return (await client.attach(places["secret" if where else "done"]))[-1]
    live = places["live"]
    await client.send(type="attach", execution=live)
    first = await client.receive()
    assert (first["type"] == "error") != attached or first["rule"] == "execution.unknown"
    await client.send(type=action, execution=live, **({"data": "x\n"} if action == "stdin" else {}))
    await client.send(type="ping", id="after")
    messages = await client.until("pong", id="after")
    answers = [message for message in messages if message["type"] == "error"]
    return answers[0] if answers else messages[-1]


async def test_a_visitor_of_the_terminal_sees_no_account(world: World, places: dict[str, str]) -> None:
    async with terminal(world.server, additional_headers=world.headers("visitor")) as client:
        assert (await client.attach(places["done"]))[-1]["rule"] == "execution.unknown"
        assert (await client.run("pwd", project=world.project))[-1]["rule"] == "project.unknown"
        await client.send(type="cancel", execution=places["done"])
        assert (await client.receive())["rule"] == "execution.not_running"


@pytest.mark.parametrize("who", [None, "revoked", "expired", "disabled", "disabled program"])
async def test_nobody_gets_no_terminal(world: World, who: str | None) -> None:
    headers = world.headers(who, address())
    async with terminal(world.server, greeted=False, additional_headers=headers) as client:
        if who is None:
            await client.send(type="run", command="pwd")
        await client.socket.wait_closed()
        assert client.socket.close_code == 4001


async def test_a_project_that_is_not_there_is_on_record_from_the_terminal_too(world: World) -> None:
    never = "01ARZ3NDEKTSV4RRFFQ69G5FAV"
    async with terminal(world.server, additional_headers=world.headers("bob")) as client:
        (refusal,) = await client.run("echo to nowhere", project=never, id="mine")
        assert (refusal["rule"], refusal["id"], refusal["command"]) == ("project.unknown", "mine", "echo to nowhere")
    (newest,) = world.ask("bob", "GET", "/api/executions?limit=1").json()["executions"]
    assert (newest["command"], newest["rule"], newest["status"]) == ("echo to nowhere", "project.unknown", "denied")
    (event,) = world.events(kind="denied", execution=newest["id"])
    assert (event["actor"], never in event["reason"]) == ("user:bob", True)
