"""The verbs of hosts: `host enroll|list|rotate|revoke|grant|withdraw|grants`, on the roster in the data folder, even while the server runs.

Each change is recorded in the audit. Exit codes: 0 done, 1 it cannot be done, 2 wrong usage.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backend.cli import host_install
from backend.cli.actor import actor
from backend.cli.stored import Opened, Refusal, in_data_folder, with_database
from backend.core.audit.events import Kind
from backend.core.hosts.naming import is_host_id, redis_rules, redis_user
from backend.core.hosts.roster import Enrolled, Grant, Roster, parse_label
from backend.runtime.settings import Settings
from backend.storage.host_roster import RosterFile

Verb = Callable[[argparse.Namespace, Settings, RosterFile], None]


def add_verbs(verbs: Any) -> None:
    """Add `host` to the command line."""
    host = verbs.add_parser("host", help="manage the hosts that commands can run on")
    host = host.add_subparsers(required=True, metavar="VERB")
    host_install.add_verb(host)
    enroll = _add(host, "enroll", _enroll, "enroll a host: print the settings of its agent and its user of Redis")
    enroll.add_argument(
        "--label", type=_label, action="append", default=[], metavar="NAME=VALUE", help="may be repeated"
    )
    _add(host, "rotate", _rotate, "give a host new secrets; its agent needs the new settings")
    _add(host, "revoke", _revoke, "end the use of a host")
    for name, verb, text in (
        ("grant", _grant, "let an account, or the members of a project, use the hosts with some labels"),
        ("withdraw", _withdraw, "withdraw a grant"),
    ):
        granting = _add(host, name, verb, text, named=False)
        to = granting.add_mutually_exclusive_group(required=True)
        to.add_argument("--user", metavar="NAME", help="an account")
        to.add_argument("--project", metavar="ID", help="the owner and the members of a project")
        which = granting.add_mutually_exclusive_group(required=True)
        which.add_argument(
            "--label", type=_label, action="append", metavar="NAME=VALUE", help="may be repeated: all of them"
        )
        which.add_argument("--all", action="store_true", help="every host")
    _add_json(_add(host, "grants", _grants, "list the grants", named=False))
    listing = _add(host, "list", _list, "list the enrolled hosts", named=False)
    _add_json(listing)


def _add(verbs: Any, name: str, verb: Verb, text: str, *, named: bool = True) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--data-dir", type=Path, help="folder of the roster (GATEPOST_DATA_DIR, data)")
    if named:
        parser.add_argument("name", type=_host, metavar="NAME")
    parser.set_defaults(run=lambda options: _run(verb, options))
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON object for each")


def _host(text: str) -> str:
    if not is_host_id(text):
        raise argparse.ArgumentTypeError("a host has 1 to 64 letters, digits, dots, dashes or underscores")
    return text


def _label(text: str) -> tuple[str, str]:
    try:
        return parse_label(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _run(verb: Verb, options: argparse.Namespace) -> int:
    return in_data_folder(options, lambda settings: verb(options, settings, RosterFile(settings.data_dir.absolute())))


def _enroll(options: argparse.Namespace, settings: Settings, roster: RosterFile) -> None:
    labels = _labels(options.label)
    what = {"host": options.name, "labels": labels}
    _change(options, settings, roster, Kind.HOST_ENROLLED, what, lambda found: found.enroll(options.name, labels))
    _show(roster.read().hosts[options.name], roster.master())


def _rotate(options: argparse.Namespace, settings: Settings, roster: RosterFile) -> None:
    _usable(roster, options.name)
    what = {"host": options.name}
    _change(options, settings, roster, Kind.HOST_ROTATED, what, lambda found: found.rotate(options.name))
    _show(roster.read().hosts[options.name], roster.master())


def _revoke(options: argparse.Namespace, settings: Settings, roster: RosterFile) -> None:
    _usable(roster, options.name)
    what = {"host": options.name}
    _change(options, settings, roster, Kind.HOST_REVOKED, what, lambda found: found.revoke(options.name))
    print(f"# Remove its user from Redis too:\nACL DELUSER {redis_user(options.name)}")


def _usable(roster: RosterFile, name: str) -> None:
    if roster.read().enrolled(name) is None:
        raise Refusal(f"there is no host {name}")


def _list(options: argparse.Namespace, settings: Settings, roster: RosterFile) -> None:
    for host in sorted(roster.read().hosts.values(), key=lambda host: host.id):
        if options.json:
            print(json.dumps({"id": host.id, "labels": dict(host.labels), "revoked": host.revoked}))
        else:
            labels = " ".join(f"{name}={value}" for name, value in sorted(host.labels.items()))
            print(f"{host.id}\t{'revoked' if host.revoked else 'enrolled'}\t{labels}")


def _grant(options: argparse.Namespace, settings: Settings, roster: RosterFile) -> None:
    grant = _granted(options)
    with_database(_check_exists, options, settings, changes=False)
    _change(options, settings, roster, Kind.HOST_GRANTED, asdict(grant), lambda found: found.grant(grant))
    print(f"{grant.to} may use {_selected(grant)}.")


def _withdraw(options: argparse.Namespace, settings: Settings, roster: RosterFile) -> None:
    grant = _granted(options)
    if grant not in roster.read().grants:
        raise Refusal(f"there is no grant of these hosts to {grant.to}")
    _change(options, settings, roster, Kind.HOST_WITHDRAWN, asdict(grant), lambda found: found.withdraw(grant))
    print(f"{grant.to} may no longer use {_selected(grant)} by this grant.")


def _granted(options: argparse.Namespace) -> Grant:
    to = f"user:{options.user}" if options.user is not None else f"project:{options.project}"
    return Grant(to, _labels(options.label or []))


def _labels(given: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The labels of a command line, where a name that is repeated would widen or narrow what was meant."""
    labels = dict(given)
    if len(labels) < len(given):
        raise Refusal("a label has one value, so each name may be given once")
    return labels


def _selected(grant: Grant) -> str:
    labels = " ".join(f"{name}={value}" for name, value in sorted(grant.labels.items()))
    return f"the hosts with {labels}" if labels else "every host"


def _grants(options: argparse.Namespace, settings: Settings, roster: RosterFile) -> None:
    for grant in roster.read().grants:
        print(json.dumps(asdict(grant)) if options.json else f"{grant.to}\t{_selected(grant)}")


def _show(host: Enrolled, master: bytes) -> None:
    """Print what the operator copies, once to the host and once to Redis."""
    password = host.redis_password(master)
    print(f"# Settings of the agent on {host.id}, for its file .env (mode 600):")
    print(f"AGENT_ID={host.id}\nGATEPOST_HOST_SECRET={host.secret(master)}")
    print(f"REDIS_USERNAME={redis_user(host.id)}\nREDIS_PASSWORD={password}")
    print("# Its user of Redis, for redis-cli:")
    print(f"ACL SETUSER {redis_user(host.id)} {' '.join(redis_rules(host.id, password))}")


def _change(
    options: argparse.Namespace,
    settings: Settings,
    roster: RosterFile,
    kind: Kind,
    what: dict[str, Any],
    how: Callable[[Roster], Roster],
) -> None:
    """Record a change in the audit, then make it: what cannot be recorded is not done."""

    async def record(opened: Opened) -> None:
        await opened.audit.record(kind, actor(), "", what)

    with_database(record, options, settings, changes=True)
    roster.change(how)


async def _check_exists(opened: Opened) -> None:
    """Raises Refusal without the account or the project of a grant."""
    to = _granted(opened.options).to
    kind, _, name = to.partition(":")
    found = await (opened.identities.user_named(name) if kind == "user" else opened.projects.get(name))
    if found is None:
        raise Refusal(f"there is no {kind} {name}")
