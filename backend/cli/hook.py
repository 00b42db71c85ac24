"""The verbs of hooks: `hook add|list|rotate|rm`."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from typing import TYPE_CHECKING, Any

from backend.cli.stored import Opened, Refusal, add_list, add_overlap, add_place, add_verb, granted, show_secret
from backend.core.hooks.model import Hook
from backend.runtime.clock import new_id, now_ms

if TYPE_CHECKING:
    from backend.application.hooks import HookService
    from backend.core.hooks.model import Parameter


def add_verbs(verbs: Any) -> None:
    """Add `hook` to the command line."""
    hook = verbs.add_parser("hook", help="have signed requests from elsewhere start fixed lines")
    hook = hook.add_subparsers(required=True, metavar="VERB")
    add = add_verb(hook, "add", _add, "add a hook; its secret is shown only now")
    add.add_argument("name", metavar="NAME", help="what it is for")
    add.add_argument("command", metavar="COMMAND", help="the command line, as one word, with {name} for a parameter")
    add.add_argument("--user", required=True, metavar="NAME", help="its owner: the account that it acts as")
    add.add_argument("--parameters", default="{}", metavar="JSON", help="its parameters, as the API describes them")
    add_place(add)
    add_list(hook, _list, "list the hooks")
    rotate = add_verb(hook, "rotate", _rotate, "give it a new secret; the old one signs calls for a while")
    add_overlap(rotate)
    for verb in (rotate, add_verb(hook, "rm", _rm, "delete it; its executions remain in the history")):
        verb.add_argument("id", metavar="ID")


def _service(opened: Opened) -> HookService:
    from backend.application.hooks import PER_ACCOUNT, HookService
    from backend.storage.hooks import SqlHooks

    store = SqlHooks(opened.database)
    return HookService(store, opened.judge, opened.audit, PER_ACCOUNT, now_ms, new_id, secrets.token_bytes)


async def _add(opened: Opened) -> None:
    options, owner = opened.options, await opened.owner()
    if not (0 < len(options.name) <= 100 and options.name.isprintable()):
        raise Refusal("the name of a hook has 1 to 100 printable characters")
    asked = Hook(
        id="",
        owner_id="",
        name=options.name,
        command=options.command,
        parameters=_parameters(options),
        target=str(opened.target),
        working_dir=options.cwd,
        timeout=options.timeout,
        secret="",
        created_ms=0,
    )
    _show(granted(await _service(opened).add(opened.operator, owner, asked)))


def _parameters(options: argparse.Namespace) -> dict[str, Parameter]:
    """The parameters, described as in a request. Raises Refusal."""
    from pydantic import TypeAdapter, ValidationError

    from backend.transports.hooks_api import AnyParameter, parameters_of

    try:
        return parameters_of(TypeAdapter(dict[str, AnyParameter]).validate_json(options.parameters))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise Refusal(f"--parameters cannot be understood: {place}{': ' if place else ''}{first['msg']}") from None


def _show(hook: Hook) -> None:
    show_secret(f"hook {hook.id}, whose calls go to /hooks/{hook.id} and are signed with this secret", hook.secret)


async def _list(opened: Opened) -> None:
    names = await opened.owners()
    for each in await _service(opened).visible_to(opened.operator):
        owner, url = names.get(each.owner_id, ""), f"/hooks/{each.id}"
        if opened.options.json:
            fields = {
                name: getattr(each, name) for name in ("id", "name", "command", "target", "working_dir", "timeout")
            }
            print(json.dumps({**fields, "owner": owner, "parameters": sorted(each.parameters), "url": url}))
        else:
            print("\t".join((each.id, owner, each.name, url, each.target, json.dumps(each.command))))


async def _rotate(opened: Opened) -> None:
    hours = opened.options.overlap
    _show(granted(await _service(opened).rotate(opened.operator, opened.options.id, hours * 3600)))
    print(f"gatepost: the old secret is valid for {hours} hours more", file=sys.stderr)


async def _rm(opened: Opened) -> None:
    print(f"Deleted {granted(await _service(opened).delete(opened.operator, opened.options.id)).name}.")
