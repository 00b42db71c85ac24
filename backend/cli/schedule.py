"""The verbs of schedules: `schedule add|list|pause|resume|run|rm`, on the configured database, even while the server runs.

A line is judged when it is added, and again whenever it runs.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from backend.cli.stored import Opened, add_list, add_place, add_verb, granted, whole
from backend.core.schedules.model import Policy, Schedule, What, When
from backend.core.schedules.rules import upcoming
from backend.core.times import iso
from backend.runtime.clock import new_id, now_ms

if TYPE_CHECKING:
    from backend.application.schedules import ScheduleService


def add_verbs(verbs: Any) -> None:
    """Add `schedule` to the command line."""
    schedule = verbs.add_parser("schedule", help="run commands at the times of a cron expression")
    schedule = schedule.add_subparsers(required=True, metavar="VERB")
    _add_options(add_verb(schedule, "add", _schedule_add, "add a schedule"))
    add_list(schedule, _schedule_list, "list the schedules")
    for name, verb, text in (
        ("pause", _schedule_pause, "run it no more until it is resumed"),
        ("resume", _schedule_resume, "run it again from its next due time on"),
        ("run", _schedule_run, "run it now, in addition to its due times"),
        ("rm", _schedule_rm, "delete it; its executions remain in the history"),
    ):
        add_verb(schedule, name, verb, text).add_argument("id", metavar="ID")


def _add_options(add: argparse.ArgumentParser) -> None:
    add.add_argument("name", metavar="NAME", help="what it is for")
    add.add_argument("command", metavar="COMMAND", help="the command line, as one word")
    add.add_argument("--user", required=True, metavar="NAME", help="its owner: the account that it acts as")
    add.add_argument("--cron", required=True, metavar="EXPRESSION", help="when: minute hour day month weekday")
    add.add_argument("--zone", default="UTC", metavar="ZONE", help="a time zone, such as Europe/Berlin (UTC)")
    add_place(add)
    policies = [str(each) for each in Policy]
    add.add_argument("--missed", choices=policies, default="run_once", help="times that no server kept (run_once)")
    add.add_argument("--overlap", choices=policies, default="skip", help="times that come while it runs (skip)")
    add.add_argument("--jitter", type=whole(0, 3600), default=0, metavar="SECONDS", help="longest random delay (0)")
    add.add_argument("--retries", type=whole(0, 10), default=0, metavar="N", help="attempts after a failure (0)")
    add.add_argument(
        "--retry-delay", type=whole(1, 86_400), default=60, metavar="SECONDS", help="before the first of them (60)"
    )
    add.add_argument("--paused", action="store_true", help="do not run it until it is resumed")


def _service(opened: Opened) -> ScheduleService:
    from backend.application.schedules import ScheduleLimits, ScheduleService
    from backend.storage.schedules import SqlSchedules

    return ScheduleService(
        store=SqlSchedules(opened.database),
        judge=opened.judge,
        users=opened.identities,
        start=_started_by_a_server,
        audit=opened.audit,
        bounds=ScheduleLimits(opened.settings.schedules_per_account, opened.settings.schedule_interval),
        now_ms=now_ms,
        new_id=new_id,
    )


async def _started_by_a_server(schedule: str) -> None:
    """Nothing: each server looks for what waits every second."""


async def _schedule_add(opened: Opened) -> None:
    options, owner = opened.options, await opened.owner()
    what = What(options.command, str(opened.target), options.cwd, options.timeout)
    when = When(
        options.cron,
        options.zone,
        Policy(options.missed),
        Policy(options.overlap),
        options.jitter,
        options.retries,
        options.retry_delay,
    )
    added = await _service(opened).add(opened.operator, owner, options.name, what, when, paused=options.paused)
    schedule = granted(added)
    print(f"Added {schedule.id}, {_next(schedule)}.")


async def _schedule_list(opened: Opened) -> None:
    names = await opened.owners()
    for schedule in await _service(opened).visible_to(opened.operator):
        owner = names.get(schedule.owner_id, "")
        if opened.options.json:
            times = [iso(each) for each in upcoming(schedule, now_ms())]
            fields = {"id": schedule.id, "name": schedule.name, "owner": owner, "paused": schedule.paused}
            print(json.dumps({**fields, **asdict(schedule.what), **asdict(schedule.when), "next": times}))
        else:
            command = json.dumps(schedule.what.command)  # on one line, and without control characters
            cells = (schedule.id, owner, schedule.name, schedule.when.cron, schedule.when.zone, schedule.what.target)
            print("\t".join((*cells, command, _next(schedule))))


async def _schedule_pause(opened: Opened) -> None:
    await _change(opened, paused=True)


async def _schedule_resume(opened: Opened) -> None:
    await _change(opened, paused=False)


async def _change(opened: Opened, *, paused: bool) -> None:
    schedule = granted(await _service(opened).change(opened.operator, opened.options.id, {"paused": paused}))
    print(f"{schedule.name}: {_next(schedule)}.")


async def _schedule_run(opened: Opened) -> None:
    granted(await _service(opened).run_now(opened.operator, opened.options.id))
    print("A server starts it within a second or two.")


async def _schedule_rm(opened: Opened) -> None:
    schedule = granted(await _service(opened).delete(opened.operator, opened.options.id))
    print(f"Deleted {schedule.name}.")


def _next(schedule: Schedule) -> str:
    times = upcoming(schedule, now_ms(), 1)
    return f"next at {iso(times[0])}" if times else "paused"
