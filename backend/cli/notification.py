"""The verbs of notifications: `notification add|list|test|deliveries|repeat|rm`."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from backend.cli.stored import Opened, Refusal, add_list, add_verb, granted, show_secret, whole
from backend.core.notifications.model import LONGEST_URL, SUBJECT_PATTERN, EventType, Failure, Notification
from backend.core.times import iso

if TYPE_CHECKING:
    from backend.application.notifications import NotificationService

USUAL = "failed,lost,recovered"


def add_verbs(verbs: Any) -> None:
    """Add `notification` to the command line."""
    notification = verbs.add_parser("notification", help="report how executions ended, by webhooks and e-mail")
    notification = notification.add_subparsers(required=True, metavar="VERB")
    _add_options(add_verb(notification, "add", _add, "add a notification; the secret of a webhook is shown only now"))
    add_list(notification, _list, "list the notifications")
    _of_one(add_verb(notification, "test", _test, "send a message now that reports nothing"))
    deliveries = add_verb(notification, "deliveries", _deliveries, "list its messages, newest first", changes=False)
    _of_one(deliveries).add_argument("--limit", type=whole(1, 1000), default=50, metavar="N", help="how many (50)")
    repeat = _of_one(add_verb(notification, "repeat", _repeat, "send a dead message again"))
    repeat.add_argument("delivery", metavar="MESSAGE", help="its id, as listed by `deliveries`")
    _of_one(add_verb(notification, "rm", _rm, "delete it, with its messages"))


def _of_one(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("id", metavar="ID")
    return parser


def _add_options(add: argparse.ArgumentParser) -> None:
    add.add_argument("name", metavar="NAME", help="what it is for")
    add.add_argument("--user", required=True, metavar="NAME", help="its owner: the account whose executions it reports")
    where = add.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--url", metavar="URL", help="a webhook; - reads the URL from standard input, if it has a secret"
    )
    where.add_argument("--email", metavar="ADDRESS", help="an address for e-mail")
    add.add_argument(
        "--subject", default="executions", metavar="SUBJECT", help="executions, or execution:, schedule:, project:ID"
    )
    add.add_argument(
        "--events", type=_events, default=_events(USUAL), metavar="LIST", help=f"{USUAL} (default), and ended"
    )


def _events(text: str) -> frozenset[EventType]:
    try:
        return frozenset(map(EventType, text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"are some of: {', '.join(EventType)}, with commas between") from None


def _service(opened: Opened) -> NotificationService:
    from backend.application.notifications import StoredSubjects
    from backend.runtime.notifications import build_notifications
    from backend.storage.execution_history import SqlExecutionHistory
    from backend.storage.notifications import SqlNotifications
    from backend.storage.schedules import SqlSchedules

    history, schedules = SqlExecutionHistory(opened.database), SqlSchedules(opened.database)
    subjects = StoredSubjects(history, opened.projects, schedules)
    return build_notifications(SqlNotifications(opened.database), subjects, opened.audit, opened.settings)


async def _add(opened: Opened) -> None:
    options, owner = opened.options, await opened.owner()
    if not re.fullmatch(SUBJECT_PATTERN, options.subject):
        raise Refusal("a subject is executions, or execution:, schedule: or project: and an id")
    if not (0 < len(options.name) <= 100 and options.name.isprintable()):
        raise Refusal("the name of a notification has 1 to 100 printable characters")
    url = sys.stdin.readline(LONGEST_URL + 2).strip() if options.url == "-" else options.url
    asked = Notification("", "", options.name, options.subject, options.events, url, options.email, "", 0)
    added = granted(await _service(opened).add(opened.operator, owner, asked))
    if added.url:
        show_secret(f"notification {added.id}, whose messages are signed with this secret", added.secret)
    else:
        print(f"Added {added.id}.")


async def _list(opened: Opened) -> None:
    names = await opened.owners()
    for each in await _service(opened).visible_to(opened.operator):
        owner, events = names.get(each.owner_id, ""), sorted(each.events)
        if opened.options.json:
            fields = {name: value for name, value in asdict(each).items() if name not in {"secret", "owner_id"}}
            print(json.dumps({**fields, "owner": owner, "events": events}))
        else:
            print("\t".join((each.id, owner, each.name, each.subject, ",".join(events), each.url or each.email or "")))


async def _test(opened: Opened) -> None:
    answer = await _service(opened).test(opened.operator, opened.options.id)
    if isinstance(answer, Failure):
        raise Refusal(f"the message was not accepted: {answer.reason}")
    granted(answer)
    print("The receiver has accepted the message.")


async def _deliveries(opened: Opened) -> None:
    found = await _service(opened).deliveries(opened.operator, opened.options.id, opened.options.limit)
    for each in granted(found):
        tries = f"{each.attempts} attempt{'' if each.attempts == 1 else 's'}"
        cells = (each.id, iso(each.created_ms), each.status, each.event, each.execution, tries, json.dumps(each.error))
        print("\t".join(cells))


async def _repeat(opened: Opened) -> None:
    granted(await _service(opened).repeat(opened.operator, opened.options.id, opened.options.delivery))
    print("A server sends it within a second or two.")


async def _rm(opened: Opened) -> None:
    print(f"Deleted {granted(await _service(opened).delete(opened.operator, opened.options.id)).name}.")
