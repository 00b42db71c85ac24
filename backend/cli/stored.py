"""What verbs share that work on the configured database, even while the server runs.

Each change is recorded in the audit. Exit codes: 0 done, 1 it cannot be done, 2 wrong usage. The database is imported
only by a verb that runs, because other verbs share this command line.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from backend.application import projects
from backend.application.submission import CommandSpec
from backend.cli.actor import actor
from backend.cli.policy import WrittenLines, profile_named
from backend.core.dataclasses import dataclass
from backend.core.decisions import Decision, Risk
from backend.core.errors import GatepostError, reason_of
from backend.core.execution.targets import OWN, TargetRef, addressed, target_ref
from backend.core.identity import Permission, Principal, User, acting_as
from backend.core.policy.admit import Plan, admit
from backend.core.policy.files import Unseen
from backend.core.policy.profile import Profile
from backend.core.ports import AuditLog, Projects
from backend.runtime.clock import new_id, now_ms
from backend.runtime.settings import Settings, load_settings

if TYPE_CHECKING:
    from backend.storage.database import Database
    from backend.storage.identities import SqlIdentities
    from backend.storage.projects import SqlProjects

EXIT_FAILED = 1
JUDGED_LATER = Decision(True, "policy.later", Risk.MODERATE, "It is judged when it runs.")
T = TypeVar("T")


class Refusal(Exception):
    """The verb ends here, with this message and exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Opened:
    """What a verb needs. `audit` masks secrets."""

    options: argparse.Namespace
    settings: Settings
    database: Database
    audit: AuditLog
    identities: SqlIdentities
    projects: SqlProjects

    @property
    def operator(self) -> Principal:
        """The user of this machine who runs the verb; may do everything."""
        return Principal(actor(), "", frozenset(Permission))

    @property
    def judge(self) -> WrittenJudge:
        """Judges lines by their words."""
        return WrittenJudge(self.projects, partial(profile_named, settings=self.settings))

    async def user(self, name: str) -> User:
        """The account with this name. Raises Refusal."""
        user = await self.identities.user_named(name)
        if user is None:
            raise Refusal(f"there is no user {name}")
        return user

    async def owner(self) -> Principal:
        """The account that the verb names. Raises Refusal."""
        return acting_as(await self.user(self.options.user))

    async def owners(self) -> dict[str, str]:
        """The names of the accounts, by their ids."""
        return {user.id: user.name for user in await self.identities.users()}

    @property
    def target(self) -> TargetRef:
        """Where a line runs that the verb adds."""
        return self.options.target or target_ref(self.options.project, None) or OWN


@dataclass(frozen=True, slots=True)
class WrittenJudge:
    """Judges lines by their words, without a look into workspaces; what hosts decide is judged when it runs."""

    projects: Projects
    profile: Callable[[str], Profile]

    async def explain(self, who: Principal, spec: CommandSpec) -> Plan | Decision:
        """The verdict on a command. Raises StorageError or ProfileError."""
        line, ref = addressed(spec.command, spec.target)
        match ref:
            case TargetRef("local", "") if who.user:
                return self._judged(line, self.profile(who.user.profile), spec.cwd)
            case TargetRef("project", id):
                project = await projects.find(who, id, self.projects)
                if isinstance(project, Decision):
                    return project
                profile = self.profile(project.profile).with_extra(project.allowed_extra)
                return self._judged(line, profile, spec.cwd, network=bool(project.network))
            case _:
                return JUDGED_LATER

    def _judged(self, line: str, profile: Profile, cwd: str, *, network: bool = False) -> Plan | Decision:
        return admit(line, WrittenLines(profile, Unseen(PurePosixPath("/")), network), cwd)


Verb = Callable[[Opened], Awaitable[None]]
Work = Callable[[argparse.Namespace, Settings], None]


def add_parser(verbs: Any, name: str, text: str, work: Work) -> argparse.ArgumentParser:
    """Add a verb to a command line that does some work in the data folder."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--data-dir", type=Path, help="folder of the SQLite database (GATEPOST_DATA_DIR, data)")
    parser.set_defaults(run=lambda options: in_data_folder(options, partial(work, options)))
    return parser


def add_verb(verbs: Any, name: str, verb: Verb, text: str, *, changes: bool = True) -> argparse.ArgumentParser:
    """Add a verb that works on the database. One that `changes` something needs an audit that can be written."""
    return add_parser(
        verbs, name, text, lambda options, settings: with_database(verb, options, settings, changes=changes)
    )


def add_list(verbs: Any, verb: Verb, text: str) -> argparse.ArgumentParser:
    """Add the verb `list`."""
    parser = add_verb(verbs, "list", verb, text, changes=False)
    parser.add_argument("--json", action="store_true", help="print a JSON object for each")
    return parser


def add_overlap(parser: argparse.ArgumentParser) -> None:
    """Add the option of a verb that replaces a secret."""
    parser.add_argument(
        "--overlap", type=whole(0, 9999), default=24, metavar="HOURS", help="how long the old one is valid (24)"
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where a line runs, and for how long."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--target", type=_target, metavar="TARGET", help="where it runs, such as host:web-01")
    where.add_argument("--project", metavar="ID", help="the project in which it runs")
    parser.add_argument("--cwd", default=".", metavar="FOLDER", help="folder of the workspace (.)")
    parser.add_argument("--timeout", type=whole(1, 86_400), metavar="SECONDS", help="seconds it may run")


def _target(text: str) -> TargetRef:
    try:
        return TargetRef.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of an option that is a whole number between two bounds."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"must be {least} to {most}")
        return int(text)

    return number


def granted(answer: T | Decision) -> T:
    """What a use case returned. Raises Refusal if it is one."""
    if isinstance(answer, Decision):
        raise Refusal(" ".join(filter(None, (answer.reason, answer.hint, f"[{answer.rule}]"))))
    return answer


def show_secret(text: str, secret: str) -> None:
    """Print a secret alone to standard output, so that it can be stored, and what it is to standard error."""
    print(f"gatepost: {text}; it is shown only now:", file=sys.stderr, flush=True)
    print(secret)


def in_data_folder(options: argparse.Namespace, work: Callable[[Settings], None]) -> int:
    """Run a verb to its exit code. Raises SettingsError."""
    settings = load_settings(**({} if options.data_dir is None else {"data_dir": options.data_dir}))
    try:
        settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        work(settings)
    except Refusal as refusal:
        print(f"gatepost: {refusal}", file=sys.stderr)
        return refusal.code
    except (GatepostError, ValueError) as problem:
        print(f"gatepost: {problem}", file=sys.stderr)
        return EXIT_FAILED
    except OSError as error:
        print(f"gatepost: GATEPOST_DATA_DIR: {settings.data_dir}: {reason_of(error)}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def with_database(verb: Verb, options: argparse.Namespace, settings: Settings, *, changes: bool) -> None:
    """Run a verb on the database. Raises StorageError, and what the verb raises."""
    asyncio.run(_with_database(verb, options, settings, changes=changes))


async def _with_database(verb: Verb, options: argparse.Namespace, settings: Settings, *, changes: bool) -> None:
    from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
    from backend.runtime.ledger import open_queue
    from backend.runtime.masking import MaskedAuditLog
    from backend.storage.audit_log import SqlAuditLog
    from backend.storage.database import Database, database_url
    from backend.storage.identities import SqlIdentities
    from backend.storage.projects import SqlProjects

    masks = Masks.of(settings.masked_values, (*DEFAULT_PATTERNS, *settings.masked_patterns))
    database = Database(database_url(settings.database, settings.data_dir))
    try:
        await database.migrate()
        queue = open_queue(settings.data_dir, database)
        audit = SqlAuditLog(queue)
        if changes:
            await audit.prepare()  # before the change: what cannot be recorded is not done
        identities, projects = SqlIdentities(database, now_ms, new_id), SqlProjects(database, now_ms, new_id)
        await verb(Opened(options, settings, database, MaskedAuditLog(audit, masks.text), identities, projects))
        await queue.close()
    finally:
        await database.close()
