"""The verbs of schedules: `schedule add|list|pause|resume|run|rm`, on the configured database, even while the server runs.

A line is judged when it is added, and again whenever it runs. Each change is recorded in the audit. Exit codes: 0 done,
1 it cannot be done, 2 wrong usage. The database is imported only by a verb that runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar

from backend.application.submission import CommandSpec
from backend.cli.actor import actor
from backend.cli.policy import WrittenLines
from backend.core.decisions import Decision, Risk
from backend.core.errors import GatepostError
from backend.core.execution.refusals import unknown_project
from backend.core.execution.targets import OWN, TargetRef, addressed, target_ref
from backend.core.identity import Permission, Principal, acting_as
from backend.core.policy.admit import Plan, admit
from backend.core.policy.files import Unseen
from backend.core.policy.profile import Profile
from backend.core.ports import Projects
from backend.core.schedules.model import Policy, Schedule, What, When
from backend.core.schedules.rules import upcoming
from backend.core.times import iso
from backend.policies.loader import load_profile
from backend.runtime.clock import new_id, now_ms
from backend.runtime.settings import Settings, load_settings

if TYPE_CHECKING:
    from backend.application.schedules import ScheduleService
    from backend.storage.identities import SqlIdentities

EXIT_FAILED = 1
JUDGED_LATER = Decision(True, "policy.later", Risk.MODERATE, "It is judged when it runs.")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job:
    """What a verb needs."""

    options: argparse.Namespace
    service: ScheduleService
    identities: SqlIdentities

    @property
    def operator(self) -> Principal:
        """The user of this machine who runs the verb; may do everything."""
        return Principal(actor(), "", frozenset(Permission))


class Refusal(Exception):
    """The verb ends here, with this message."""


Verb = Callable[[Job], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class WrittenJudge:
    """Judges lines by their words, without a look into workspaces; what hosts decide is judged when it runs."""

    projects: Projects

    async def explain(self, who: Principal, spec: CommandSpec) -> Plan | Decision:
        """The verdict on a command. Raises StorageError or ProfileError."""
        line, ref = addressed(spec.command, spec.target)
        match ref:
            case TargetRef("local", "") if who.user:
                return self._judged(line, load_profile(who.user.profile), spec.cwd)
            case TargetRef("project", id):
                project = await self.projects.get(id)
                if project is None or not project.is_open_to(who):
                    return unknown_project(id)
                profile = load_profile(project.profile).with_extra(project.allowed_extra)
                return self._judged(line, profile, spec.cwd, network=bool(project.network))
            case _:
                return JUDGED_LATER

    def _judged(self, line: str, profile: Profile, cwd: str, *, network: bool = False) -> Plan | Decision:
        return admit(line, WrittenLines(profile, Unseen(PurePosixPath("/")), network), cwd)


def add_verbs(verbs: Any) -> None:
    """Add `schedule` to the command line."""
    schedule = verbs.add_parser("schedule", help="run commands at the times of a cron expression")
    schedule = schedule.add_subparsers(required=True, metavar="VERB")
    _add_options(_add(schedule, "add", _schedule_add, "add a schedule"))
    _add(schedule, "list", _schedule_list, "list the schedules").add_argument(
        "--json", action="store_true", help="print a JSON object for each"
    )
    for name, verb, text in (
        ("pause", _schedule_pause, "run it no more until it is resumed"),
        ("resume", _schedule_resume, "run it again from its next due time on"),
        ("run", _schedule_run, "run it now, in addition to its due times"),
        ("rm", _schedule_rm, "delete it; its executions remain in the history"),
    ):
        _add(schedule, name, verb, text).add_argument("id", metavar="ID")


def _add_options(add: argparse.ArgumentParser) -> None:
    add.add_argument("name", metavar="NAME", help="what it is for")
    add.add_argument("command", metavar="COMMAND", help="the command line, as one word")
    add.add_argument("--user", required=True, metavar="NAME", help="its owner: the account that it acts as")
    add.add_argument("--cron", required=True, metavar="EXPRESSION", help="when: minute hour day month weekday")
    add.add_argument("--zone", default="UTC", metavar="ZONE", help="a time zone, such as Europe/Berlin (UTC)")
    where = add.add_mutually_exclusive_group()
    where.add_argument("--target", type=_target, metavar="TARGET", help="where it runs, such as host:web-01")
    where.add_argument("--project", metavar="ID", help="the project in which it runs")
    add.add_argument("--cwd", default=".", metavar="FOLDER", help="folder of the workspace (.)")
    add.add_argument("--timeout", type=_whole(1, 86_400), metavar="SECONDS", help="seconds it may run")
    policies = [str(each) for each in Policy]
    add.add_argument("--missed", choices=policies, default="run_once", help="times that no server kept (run_once)")
    add.add_argument("--overlap", choices=policies, default="skip", help="times that come while it runs (skip)")
    add.add_argument("--jitter", type=_whole(0, 3600), default=0, metavar="SECONDS", help="longest random delay (0)")
    add.add_argument("--retries", type=_whole(0, 10), default=0, metavar="N", help="attempts after a failure (0)")
    add.add_argument(
        "--retry-delay", type=_whole(1, 86_400), default=60, metavar="SECONDS", help="before the first of them (60)"
    )
    add.add_argument("--paused", action="store_true", help="do not run it until it is resumed")


def _add(verbs: Any, name: str, verb: Verb, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--data-dir", type=Path, help="folder of the SQLite database (GATEPOST_DATA_DIR, data)")
    parser.set_defaults(run=lambda options: _run(verb, options))
    return parser


def _target(text: str) -> TargetRef:
    try:
        return TargetRef.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= 9 and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"must be {least} to {most}")
        return int(text)

    return number


def _run(verb: Verb, options: argparse.Namespace) -> int:
    """Run a verb to its exit code. Raises SettingsError."""
    settings = load_settings(**({} if options.data_dir is None else {"data_dir": options.data_dir}))
    try:
        asyncio.run(_with_database(verb, options, settings))
    except (Refusal, GatepostError) as error:
        print(f"gatepost: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


async def _with_database(verb: Verb, options: argparse.Namespace, settings: Settings) -> None:
    from backend.application.schedules import Bounds, ScheduleService
    from backend.core.recording.redaction import DEFAULT_PATTERNS, Masks
    from backend.runtime.masking import MaskedAuditLog
    from backend.runtime.persistence import open_queue
    from backend.storage.audit_log import SqlAuditLog
    from backend.storage.database import Database, database_url
    from backend.storage.identities import SqlIdentities
    from backend.storage.projects import SqlProjects
    from backend.storage.schedules import SqlSchedules

    masks = Masks.of(settings.masked_values, (*DEFAULT_PATTERNS, *settings.masked_patterns))
    settings.data_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
    database = Database(database_url(settings.database, settings.data_dir))
    try:
        await database.migrate()
        queue = open_queue(settings.data_dir, database)
        audit = SqlAuditLog(queue)
        if verb is not _schedule_list:
            await audit.prepare()  # before the change: what cannot be recorded is not done
        identities = SqlIdentities(database, now_ms, new_id)
        service = ScheduleService(
            store=SqlSchedules(database),
            judge=WrittenJudge(SqlProjects(database, now_ms, new_id)),
            users=identities,
            start=_started_by_a_server,
            audit=MaskedAuditLog(audit, masks.text),
            bounds=Bounds(settings.schedules_per_account, settings.schedule_interval),
            now_ms=now_ms,
            new_id=new_id,
        )
        await verb(Job(options, service, identities))
        await queue.close()
    finally:
        await database.close()


async def _started_by_a_server(schedule: str) -> None:
    """Nothing: each server looks for what waits every second."""


async def _schedule_add(job: Job) -> None:
    options = job.options
    owner = await job.identities.user_named(options.user)
    if owner is None:
        raise Refusal(f"there is no user {options.user}")
    target = options.target or target_ref(options.project, None) or OWN
    what = What(options.command, str(target), options.cwd, options.timeout)
    when = When(
        options.cron,
        options.zone,
        Policy(options.missed),
        Policy(options.overlap),
        options.jitter,
        options.retries,
        options.retry_delay,
    )
    added = await job.service.add(job.operator, acting_as(owner), options.name, what, when, paused=options.paused)
    schedule = _granted(added)
    print(f"Added {schedule.id}, {_next(schedule)}.")


async def _schedule_list(job: Job) -> None:
    names = {user.id: user.name for user in await job.identities.users()}
    for schedule in await job.service.visible_to(job.operator):
        owner = names.get(schedule.owner_id, "")
        if job.options.json:
            times = [iso(each) for each in upcoming(schedule, now_ms())]
            fields = {"id": schedule.id, "name": schedule.name, "owner": owner, "paused": schedule.paused}
            print(json.dumps({**fields, **asdict(schedule.what), **asdict(schedule.when), "next": times}))
        else:
            command = json.dumps(schedule.what.command)  # on one line, and without control characters
            cells = (schedule.id, owner, schedule.name, schedule.when.cron, schedule.when.zone, schedule.what.target)
            print("\t".join((*cells, command, _next(schedule))))


async def _schedule_pause(job: Job) -> None:
    await _change(job, paused=True)


async def _schedule_resume(job: Job) -> None:
    await _change(job, paused=False)


async def _change(job: Job, *, paused: bool) -> None:
    schedule = _granted(await job.service.change(job.operator, job.options.id, {"paused": paused}))
    print(f"{schedule.name}: {_next(schedule)}.")


async def _schedule_run(job: Job) -> None:
    _granted(await job.service.run_now(job.operator, job.options.id))
    print("A server starts it within a second or two.")


async def _schedule_rm(job: Job) -> None:
    schedule = _granted(await job.service.delete(job.operator, job.options.id))
    print(f"Deleted {schedule.name}.")


def _granted(answer: T | Decision) -> T:
    if isinstance(answer, Decision):
        raise Refusal(" ".join(filter(None, (answer.reason, answer.hint, f"[{answer.rule}]"))))
    return answer


def _next(schedule: Schedule) -> str:
    times = upcoming(schedule, now_ms(), 1)
    return f"next at {iso(times[0])}" if times else "paused"
