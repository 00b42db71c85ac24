"""The verbs of accounts: `user add|list|disable|enable|passwd|link`, `token create|list|revoke`.

They work on the configured database, even while the server runs, and record each change in the audit, as the user of
this machine who runs them. Exit codes: 0 done, 1 it cannot be done, 2 wrong usage.
The database is imported only by a verb that runs, because other verbs share this command line.
"""

from __future__ import annotations

import argparse
import asyncio
import getpass
import json
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.cli.actor import actor
from backend.cli.failures import EXIT_USAGE
from backend.core.audit.events import Kind
from backend.core.client_address import reachable
from backend.core.dataclasses import dataclass
from backend.core.errors import GatepostError
from backend.core.identity import PROFILE, ApiToken, Permission, Role, User, scopes_of, scopes_text
from backend.core.times import DAY_MS
from backend.runtime.clock import new_id, now_ms
from backend.runtime.settings import Settings, load_settings

if TYPE_CHECKING:
    from backend.storage.audit_log import SqlAuditLog
    from backend.storage.identities import SqlIdentities

EXIT_FAILED = 1
LINK_MINUTES = 15


@dataclass(frozen=True, slots=True)
class Job:
    """What a verb needs. `password_hash` is that of the password that was entered, if there was one."""

    options: argparse.Namespace
    settings: Settings
    identities: SqlIdentities
    audit: SqlAuditLog
    password_hash: str | None

    async def record(self, kind: Kind, **fields: Any) -> None:
        """Write what was done to the audit. Raises StorageError."""
        await self.audit.record(kind, actor(), "", fields)

    async def user(self, name: str) -> User:
        """The account with this name; the verb ends when there is none."""
        user = await self.identities.user_named(name)
        if user is None:
            raise Refusal(f"there is no user {name}")
        return user


class Refusal(Exception):
    """The verb ends here, with this message and exit code."""

    def __init__(self, message: str, code: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.code = code


Verb = Callable[[Job], Awaitable[None]]
Parsers = Any  # argparse's own type for subparsers is private


def add_verbs(verbs: Parsers) -> None:
    """Add `user` and `token` to the command line."""
    _add_user_verbs(verbs.add_parser("user", help="manage accounts").add_subparsers(required=True, metavar="VERB"))
    _add_token_verbs(verbs.add_parser("token", help="manage API tokens").add_subparsers(required=True, metavar="VERB"))


def _add_user_verbs(verbs: Parsers) -> None:
    add = _add(verbs, "add", _user_add, "add an account")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--role", choices=list(map(str, Role)), default="operator", help="what it may do (operator)")
    add.add_argument("--profile", default=PROFILE, help=f"policy profile of its terminal ({PROFILE})")
    _add_password_options(add).add_argument("--no-password", action="store_true", help="login by link or token only")
    _add_json(_add(verbs, "list", _user_list, "list the accounts"))
    for name, verb, text in (
        ("disable", _user_disable, "disable an account and end its tokens"),
        ("enable", _user_enable, "enable an account again"),
    ):
        _add(verbs, name, verb, text).add_argument("name", metavar="NAME")
    passwd = _add(verbs, "passwd", _user_passwd, "set a password and end older logins")
    passwd.add_argument("name", metavar="NAME")
    _add_password_options(passwd)
    link = _add(verbs, "link", _user_link, f"print a link for one login, valid {LINK_MINUTES} minutes")
    link.add_argument("name", metavar="NAME")
    link.add_argument("--url", help="where people reach the page (http://GATEPOST_HOST:PORT)")


def _add_token_verbs(verbs: Parsers) -> None:
    create = _add(verbs, "create", _token_create, "print a new API token, which is shown only now")
    create.add_argument("--user", required=True, metavar="NAME", help="whose token it is")
    create.add_argument("--name", required=True, metavar="LABEL", help="what it is for")
    create.add_argument("--scopes", type=_scopes, default=_scopes("read execute"), help='"read execute" (default)')
    create.add_argument("--days", type=_days, metavar="N", help="days until it ends (never)")
    listing = _add(verbs, "list", _token_list, "list API tokens")
    listing.add_argument("--user", metavar="NAME", help="of this account only")
    _add_json(listing)
    _add(verbs, "revoke", _token_revoke, "end an API token").add_argument("id", metavar="ID")


def _add(verbs: Parsers, name: str, verb: Verb, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    parser.add_argument("--data-dir", type=Path, help="folder of the SQLite database (GATEPOST_DATA_DIR, data)")
    parser.set_defaults(run=lambda options: _run(verb, options))
    return parser


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a JSON object for each")


def _add_password_options(parser: argparse.ArgumentParser) -> Any:
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    return group


def _scopes(text: str) -> frozenset[Permission]:
    try:
        return scopes_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"scopes are some of: {scopes_text(Permission)}") from None


def _days(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text[:6]) <= 36500 and len(text) <= 6):
        raise argparse.ArgumentTypeError("must be 1 to 36500 days")
    return int(text)


def _run(verb: Verb, options: argparse.Namespace) -> int:
    """Run a verb to its exit code. Raises SettingsError."""
    given = {} if options.data_dir is None else {"data_dir": options.data_dir}
    settings = load_settings(**given)
    try:
        hashed = _password_hash(options)  # before the loop, which would keep Ctrl-C from the prompt
        asyncio.run(_with_database(verb, options, settings, hashed))
    except Refusal as refusal:
        print(f"gatepost: {refusal}", file=sys.stderr)
        return refusal.code
    except GatepostError as error:
        print(f"gatepost: {error}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _password_hash(options: argparse.Namespace) -> str | None:
    """Read or ask for a password, where the verb takes one."""
    from backend.accounts.credentials import hash_password

    if "password_stdin" not in options or getattr(options, "no_password", False):
        return None
    try:
        return hash_password(_read_password() if options.password_stdin else _ask_password())
    except ValueError as error:
        raise Refusal(str(error), EXIT_USAGE) from None


def _read_password() -> str:
    return sys.stdin.readline().rstrip("\r\n")


def _ask_password() -> str:
    if not sys.stdin.isatty():
        raise Refusal("there is no terminal to ask for a password on; use --password-stdin", EXIT_USAGE)
    try:
        password = getpass.getpass("Password: ")
        again = getpass.getpass("Once more: ")
    except (EOFError, KeyboardInterrupt):
        raise Refusal("no password was given") from None
    if password != again:
        raise Refusal("the two passwords differ")
    return password


async def _with_database(verb: Verb, options: argparse.Namespace, settings: Settings, hashed: str | None) -> None:
    from backend.runtime.ledger import open_queue
    from backend.storage.audit_log import SqlAuditLog
    from backend.storage.database import Database, database_url
    from backend.storage.identities import SqlIdentities

    _make_folder(settings.data_dir)
    database = Database(database_url(settings.database, settings.data_dir))
    try:
        await database.migrate()
        queue = open_queue(settings.data_dir, database)
        audit = SqlAuditLog(queue)
        if verb not in (_user_list, _token_list):
            await audit.prepare()  # before the change: what cannot be recorded is not done
        await verb(Job(options, settings, SqlIdentities(database, now_ms, new_id), audit, hashed))
        await queue.close()
    finally:
        await database.close()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(mode=0o711, parents=True, exist_ok=True)  # commands of another user pass through to their workspace
    except OSError as error:
        raise Refusal(f"GATEPOST_DATA_DIR: {path}: {error.strerror}") from None


async def _user_add(job: Job) -> None:
    options = job.options
    try:
        user = await job.identities.add_user(options.name, Role(options.role), options.profile, job.password_hash)
    except ValueError as error:
        raise Refusal(str(error), EXIT_USAGE) from None
    if user is None:
        raise Refusal(f"the name {options.name} is taken")
    await job.record(Kind.USER_CREATED, user=user.name, role=str(user.role), profile=user.profile)
    print(f"Added {user.name}, {user.role}.")


async def _user_list(job: Job) -> None:
    users = await job.identities.users()
    if job.options.json:
        _print_json(map(asdict, users))
        return
    rows = [(user.name, user.role, user.profile, _state(user.disabled), _date(user.created_ms)) for user in users]
    _print_table(("NAME", "ROLE", "PROFILE", "STATE", "CREATED"), rows)


def _state(disabled: bool) -> str:
    return "disabled" if disabled else "enabled"


async def _user_disable(job: Job) -> None:
    await _set_disabled(job, True)


async def _user_enable(job: Job) -> None:
    await _set_disabled(job, False)


async def _set_disabled(job: Job, disabled: bool) -> None:
    user = await job.user(job.options.name)
    if user.disabled is not disabled:
        await job.identities.set_disabled(user.id, disabled)
        await job.record(Kind.USER_CHANGED, user=user.name, change=_state(disabled))
    print(f"{user.name} is {_state(disabled)}.")


async def _user_passwd(job: Job) -> None:
    user = await job.user(job.options.name)
    assert job.password_hash
    await job.identities.set_password(user.id, job.password_hash)
    await job.record(Kind.USER_CHANGED, user=user.name, change="password")
    print(f"{user.name} has a new password.")


async def _user_link(job: Job) -> None:
    from backend.accounts.credentials import new_login_link, secret_hash

    user = await job.user(job.options.name)
    if user.disabled:
        raise Refusal(f"{user.name} is disabled")
    link = new_login_link(secrets.token_bytes)
    await job.identities.add_link(secret_hash(link), user.id, now_ms() + LINK_MINUTES * 60_000)
    await job.record(Kind.LINK_CREATED, user=user.name, minutes=LINK_MINUTES)
    page = job.options.url or f"http://{reachable(job.settings.host)}:{job.settings.port}"
    # A fragment is never sent to a server, so the secret does not get into a log.
    print(f"{page.rstrip('/')}/#login={link}")


async def _token_create(job: Job) -> None:
    from backend.accounts.credentials import new_api_token, secret_hash

    options = job.options
    user = await job.user(options.user)
    secret = new_api_token(secrets.token_bytes)
    ends = now_ms() + options.days * DAY_MS if options.days else None
    try:
        token = await job.identities.add_token(user.id, options.name, options.scopes, secret_hash(secret), ends)
    except ValueError as error:
        raise Refusal(str(error), EXIT_USAGE) from None
    scopes = scopes_text(token.scopes)
    await job.record(Kind.TOKEN_CREATED, user=user.name, token=token.id, name=token.name, scopes=scopes)
    print(f"gatepost: token {token.id} of {user.name}; it is shown only now:", file=sys.stderr, flush=True)
    print(secret)


async def _token_list(job: Job) -> None:
    owner = await job.user(job.options.user) if job.options.user else None
    names = {user.id: user.name for user in await job.identities.users()}
    tokens = await job.identities.tokens(owner.id if owner else None)
    if job.options.json:
        _print_json(
            {**asdict(each), "scopes": scopes_text(each.scopes), "user": names[each.user_id]} for each in tokens
        )
        return
    rows = [(each.id, names[each.user_id], each.name, scopes_text(each.scopes), _end(each)) for each in tokens]
    _print_table(("ID", "USER", "NAME", "SCOPES", "ENDS"), rows)


def _end(token: ApiToken) -> str:
    if token.revoked_ms is not None:
        return "revoked"
    return "never" if token.expires_ms is None else _date(token.expires_ms)


async def _token_revoke(job: Job) -> None:
    if not await job.identities.revoke_token(job.options.id):
        raise Refusal(f"there is no token {job.options.id}, or it was revoked before")
    await job.record(Kind.TOKEN_REVOKED, token=job.options.id)
    print(f"The token {job.options.id} is revoked.")


def _date(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%MZ")


def _print_json(objects: Iterable[dict[str, Any]]) -> None:
    for each in objects:
        print(json.dumps(each, ensure_ascii=False))


def _print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = [head, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
