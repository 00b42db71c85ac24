"""The verbs of runners of Django projects: `runner key create|list|rotate|revoke`, `runner suspend|resume`.

They work on the configured database, even while the server runs. Exit codes: 0 done, 1 it cannot be done, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.application.runner_keys import KeyAdministration, NewKey
from backend.cli.actor import actor
from backend.core.audit.events import Kind
from backend.core.errors import GatepostError, reason_of
from backend.core.execution.model import Actor
from backend.core.identity import Project, Role, User
from backend.core.times import iso
from backend.runtime.clock import new_id, now_ms
from backend.runtime.settings import Settings, load_settings

if TYPE_CHECKING:
    from backend.core.django.ports import RunnerKey
    from backend.storage.audit_log import SqlAuditLog
    from backend.storage.identities import SqlIdentities
    from backend.storage.projects import SqlProjects
    from backend.storage.runners import SqlRunners

EXIT_FAILED = 1
OVERLAP_HOURS = 24


class Refusal(Exception):
    """The verb ends here, with this message."""


@dataclass(frozen=True, slots=True)
class Opened:
    """What a verb needs."""

    options: argparse.Namespace
    identities: SqlIdentities
    projects: SqlProjects
    runners: SqlRunners
    audit: SqlAuditLog
    keys: KeyAdministration
    who: Actor

    async def every_project(self) -> list[Project]:
        """All projects."""
        return await self.projects.visible_to(User("", "", Role.ADMIN, "", False, 0, 0))

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


Verb = Callable[[Opened], Awaitable[None]]


def add_verbs(verbs: Any) -> None:
    """Add `runner` to the command line."""
    runner = verbs.add_parser("runner", help="manage the runners of Django projects")
    runner = runner.add_subparsers(required=True, metavar="VERB")
    keys = runner.add_parser("key", help="manage the keys of runners").add_subparsers(required=True, metavar="VERB")
    create = _add(keys, "create", _create, "print a new key for a runner, which is shown only now")
    create.add_argument("project", metavar="PROJECT", help="name or id of a project")
    create.add_argument("--name", default="runner", metavar="LABEL", help="which runner it is for (runner)")
    create.add_argument("--owner", metavar="NAME", help="account that owns the project, which is created if missing")
    listing = _add(keys, "list", _list, "list the keys of runners")
    listing.add_argument("project", nargs="?", metavar="PROJECT", help="of this project only")
    listing.add_argument("--json", action="store_true", help="print a JSON object for each")
    rotate = _add_of_key(keys, "rotate", _rotate, "print a new key for the same runner")
    rotate.add_argument(
        "--overlap", type=_hours, default=OVERLAP_HOURS, metavar="HOURS", help="how long the old one is valid (24)"
    )
    _add_of_key(keys, "revoke", _revoke, "end a key now")
    suspend = _add_of_key(runner, "suspend", _suspend, "give a runner no further executions")
    suspend.add_argument("--reason", required=True, metavar="TEXT", help="is shown to the runner")
    _add_of_key(runner, "resume", _resume, "give a runner executions again")


def _add(verbs: Any, name: str, verb: Verb, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--data-dir", type=Path, help="folder of the SQLite database (GATEPOST_DATA_DIR, data)")
    parser.set_defaults(run=lambda options: _run(verb, options))
    return parser


def _add_of_key(verbs: Any, name: str, verb: Verb, text: str) -> argparse.ArgumentParser:
    parser = _add(verbs, name, verb, text)
    parser.add_argument("key", metavar="KEY", help="its id, as listed")
    return parser


def _hours(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 4):
        raise argparse.ArgumentTypeError("must be 0 to 9999 hours")
    return int(text)


def _run(verb: Verb, options: argparse.Namespace) -> int:
    settings = load_settings(**({} if options.data_dir is None else {"data_dir": options.data_dir}))
    try:
        settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        asyncio.run(_with_database(verb, options, settings))
    except (Refusal, GatepostError, ValueError) as problem:
        print(f"gatepost: {problem}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"gatepost: GATEPOST_DATA_DIR: {settings.data_dir}: {reason_of(error)}", file=sys.stderr)
        return EXIT_FAILED
    return 0


async def _with_database(verb: Verb, options: argparse.Namespace, settings: Settings) -> None:
    from backend.accounts.credentials import new_runner_key, secret_hash  # other verbs do without them
    from backend.runtime.persistence import open_queue
    from backend.storage.audit_log import SqlAuditLog
    from backend.storage.database import Database, database_url
    from backend.storage.identities import SqlIdentities
    from backend.storage.projects import SqlProjects
    from backend.storage.runners import SqlRunners

    database = Database(database_url(settings.database, settings.data_dir))
    try:
        await database.migrate()
        queue = open_queue(settings.data_dir, database)
        audit, runners = SqlAuditLog(queue), SqlRunners(database, now_ms, new_id)
        if verb is not _list:
            await audit.prepare()  # before the change: what cannot be recorded is not done
        keys = KeyAdministration(runners, audit, lambda: new_runner_key(secrets.token_bytes), secret_hash, now_ms)
        identities, projects = SqlIdentities(database, now_ms, new_id), SqlProjects(database, now_ms, new_id)
        await verb(Opened(options, identities, projects, runners, audit, keys, Actor(actor(), "")))
        await queue.close()
    finally:
        await database.close()


async def _create(opened: Opened) -> None:
    options = opened.options
    project = await opened.project(options.project) or await _new_project(opened)
    _show(project, await opened.keys.create(opened.who, project.id, options.name))


async def _new_project(opened: Opened) -> Project:
    """Create the project, if its owner is named."""
    name, owner = opened.options.project, opened.options.owner
    if owner is None:
        raise Refusal(f"there is no project {name}; with --owner NAME it is created for that account")
    user = await opened.identities.user_named(owner)
    if user is None:
        raise Refusal(f"there is no user {owner}")
    project = await opened.projects.add(name, user.id)
    fields = {"project": project.id, "name": project.name, "profile": project.profile}
    await opened.audit.record(Kind.PROJECT_CREATED, opened.who.name, "", fields)
    return project


def _show(project: Project, made: NewKey) -> None:
    text = f"gatepost: key {made.key.id} of {project.name} (django:{project.id}); it is shown only now:"
    print(text, file=sys.stderr, flush=True)
    print(made.secret)


async def _list(opened: Opened) -> None:
    named = opened.options.project
    project = await opened.project(named) if named else None
    if named and project is None:
        raise Refusal(f"there is no project {named}")
    projects = {each.id: each for each in ([project] if project else await opened.every_project())}
    for key in await opened.runners.keys(list(projects)):
        if opened.options.json:
            print(json.dumps({**asdict(key), "project_name": projects[key.project].name}))
        else:
            seen = iso(key.seen_ms) if key.seen_ms else "never seen"
            print(f"{key.id}\t{projects[key.project].name}\t{key.name}\t{key.state(now_ms())}\t{seen}")


async def _rotate(opened: Opened) -> None:
    key, hours = await opened.key(), opened.options.overlap
    project = await opened.project(key.project)
    if project is None:
        raise Refusal("the project of this key was deleted")
    _show(project, await opened.keys.rotate(opened.who, key, hours * 3600.0))
    print(f"gatepost: the old key is valid for {hours} hours more", file=sys.stderr)


async def _revoke(opened: Opened) -> None:
    key = await opened.key()
    await opened.keys.revoke(opened.who, key)
    print(f"The key {key.id} is revoked.")


async def _suspend(opened: Opened) -> None:
    key = await opened.key()
    await opened.keys.suspend(opened.who, key, opened.options.reason)
    print(f"The runner with the key {key.id} is suspended.")


async def _resume(opened: Opened) -> None:
    key = await opened.key()
    await opened.keys.resume(opened.who, key)
    print(f"The runner with the key {key.id} gets executions again.")
