"""The verbs of runners of Django projects: `runner key create|list|rotate|revoke`, `runner suspend|resume`."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from backend.application.runner_keys import KeyAdministration, NewKey
from backend.cli.stored import Opened, Refusal, add_list, add_overlap, add_verb, show_secret
from backend.core.audit.events import Kind
from backend.core.dataclasses import dataclass
from backend.core.execution.model import Actor
from backend.core.identity import Project, Role, User
from backend.core.times import iso
from backend.runtime.clock import new_id, now_ms

if TYPE_CHECKING:
    from backend.core.django.ports import RunnerKey
    from backend.storage.runners import SqlRunners


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of runners, for a verb."""

    opened: Opened
    runners: SqlRunners
    administration: KeyAdministration

    @property
    def options(self) -> argparse.Namespace:
        """Those of the verb."""
        return self.opened.options

    @property
    def who(self) -> Actor:
        """The user of this machine."""
        return Actor(self.opened.operator.name, "")

    async def every_project(self) -> list[Project]:
        """All projects."""
        return await self.opened.projects.visible_to(User("", "", Role.ADMIN, "", False, 0, 0))

    async def project(self, name: str) -> Project | None:
        """The project with this id or name. Raises Refusal if several have the name."""
        every = await self.every_project()
        found = [each for each in every if each.id == name] or [each for each in every if each.name == name]
        if len(found) > 1:
            raise Refusal(f"{len(found)} projects are called {name}: name one by its id, {found[0].id} ...")
        return found[0] if found else None

    async def key(self) -> RunnerKey:
        """The key that the verb names. Raises Refusal."""
        found = await self.runners.key(self.options.key)
        if found is None:
            raise Refusal(f"there is no key {self.options.key}; `runner key list` lists them")
        return found


Verb = Callable[[Keys], Awaitable[None]]


def add_verbs(verbs: Any) -> None:
    """Add `runner` to the command line."""
    runner = verbs.add_parser("runner", help="manage the runners of Django projects")
    runner = runner.add_subparsers(required=True, metavar="VERB")
    keys = runner.add_parser("key", help="manage the keys of runners").add_subparsers(required=True, metavar="VERB")
    create = add_verb(keys, "create", _with_keys(_create), "print a new key for a runner, which is shown only now")
    create.add_argument("project", metavar="PROJECT", help="name or id of a project")
    create.add_argument("--name", default="runner", metavar="LABEL", help="which runner it is for (runner)")
    create.add_argument("--owner", metavar="NAME", help="account that owns the project, which is created if missing")
    listing = add_list(keys, _with_keys(_list), "list the keys of runners")
    listing.add_argument("project", nargs="?", metavar="PROJECT", help="of this project only")
    add_overlap(_add_of_key(keys, "rotate", _rotate, "print a new key for the same runner"))
    _add_of_key(keys, "revoke", _revoke, "end a key now")
    suspend = _add_of_key(runner, "suspend", _suspend, "give a runner no further executions")
    suspend.add_argument("--reason", required=True, metavar="TEXT", help="is shown to the runner")
    _add_of_key(runner, "resume", _resume, "give a runner executions again")


def _with_keys(verb: Verb) -> Callable[[Opened], Awaitable[None]]:
    async def run(opened: Opened) -> None:
        from backend.accounts.credentials import new_runner_key, secret_hash  # other verbs do without them
        from backend.storage.runners import SqlRunners

        runners = SqlRunners(opened.database, now_ms, new_id)
        keys = KeyAdministration(
            runners, opened.audit, lambda: new_runner_key(secrets.token_bytes), secret_hash, now_ms
        )
        await verb(Keys(opened, runners, keys))

    return run


def _add_of_key(verbs: Any, name: str, verb: Verb, text: str) -> argparse.ArgumentParser:
    parser = add_verb(verbs, name, _with_keys(verb), text)
    parser.add_argument("key", metavar="KEY", help="its id, as listed")
    return parser


async def _create(keys: Keys) -> None:
    options = keys.options
    project = await keys.project(options.project) or await _new_project(keys)
    _show(project, await keys.administration.create(keys.who, project.id, options.name))


async def _new_project(keys: Keys) -> Project:
    """Create the project, if its owner is named."""
    name, owner = keys.options.project, keys.options.owner
    if owner is None:
        raise Refusal(f"there is no project {name}; with --owner NAME it is created for that account")
    user = await keys.opened.identities.user_named(owner)
    if user is None:
        raise Refusal(f"there is no user {owner}")
    project = await keys.opened.projects.add(name, user.id)
    fields = {"project": project.id, "name": project.name, "profile": project.profile}
    await keys.opened.audit.record(Kind.PROJECT_CREATED, keys.who.name, "", fields)
    return project


def _show(project: Project, made: NewKey) -> None:
    show_secret(f"key {made.key.id} of {project.name} (django:{project.id})", made.secret)


async def _list(keys: Keys) -> None:
    named = keys.options.project
    project = await keys.project(named) if named else None
    if named and project is None:
        raise Refusal(f"there is no project {named}")
    projects = {each.id: each for each in ([project] if project else await keys.every_project())}
    for key in await keys.runners.keys(list(projects)):
        if keys.options.json:
            print(json.dumps({**asdict(key), "project_name": projects[key.project].name}))
        else:
            seen = iso(key.seen_ms) if key.seen_ms else "never seen"
            print(f"{key.id}\t{projects[key.project].name}\t{key.name}\t{key.state(now_ms())}\t{seen}")


async def _rotate(keys: Keys) -> None:
    key, hours = await keys.key(), keys.options.overlap
    project = await keys.project(key.project)
    if project is None:
        raise Refusal("the project of this key was deleted")
    _show(project, await keys.administration.rotate(keys.who, key, hours * 3600.0))
    print(f"gatepost: the old key is valid for {hours} hours more", file=sys.stderr)


async def _revoke(keys: Keys) -> None:
    key = await keys.key()
    await keys.administration.revoke(keys.who, key)
    print(f"The key {key.id} is revoked.")


async def _suspend(keys: Keys) -> None:
    key = await keys.key()
    await keys.administration.suspend(keys.who, key, keys.options.reason)
    print(f"The runner with the key {key.id} is suspended.")


async def _resume(keys: Keys) -> None:
    key = await keys.key()
    await keys.administration.resume(keys.who, key)
    print(f"The runner with the key {key.id} gets executions again.")
