"""The verbs of accounts: `user add|list|disable|enable|passwd|link`, `token create|list|revoke`.

They work on the configured database, even while the server runs, and record each change in the audit, as the user of
this machine who runs them. Exit codes: 0 done, 1 it cannot be done, 2 wrong usage.
The database is imported only by a verb that runs, because other verbs share this command line.
"""

from __future__ import annotations

import argparse
import getpass
import json
import secrets
import sys
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from backend.cli.actor import actor
from backend.cli.failures import EXIT_USAGE
from backend.cli.stored import Opened, Refusal, add_list, add_parser, add_verb, show_secret, with_database
from backend.core.audit.events import Kind
from backend.core.client_address import reachable
from backend.core.identity import PROFILE, ApiToken, Permission, Role, scopes_of, scopes_text
from backend.core.times import DAY_MS
from backend.runtime.clock import now_ms
from backend.runtime.settings import Settings

LINK_MINUTES = 15


Parsers = Any  # argparse's own type for subparsers is private
WithPassword = Callable[[Opened, str | None], Awaitable[None]]


def add_verbs(verbs: Parsers) -> None:
    """Add `user` and `token` to the command line."""
    _add_user_verbs(verbs.add_parser("user", help="manage accounts").add_subparsers(required=True, metavar="VERB"))
    _add_token_verbs(verbs.add_parser("token", help="manage API tokens").add_subparsers(required=True, metavar="VERB"))


def _add_user_verbs(verbs: Parsers) -> None:
    add = _add_with_password(verbs, "add", _user_add, "add an account")
    add.add_argument("name", metavar="NAME")
    add.add_argument("--role", choices=list(map(str, Role)), default="operator", help="what it may do (operator)")
    add.add_argument("--profile", default=PROFILE, help=f"policy profile of its terminal ({PROFILE})")
    _add_password_options(add).add_argument("--no-password", action="store_true", help="login by link or token only")
    add_list(verbs, _user_list, "list the accounts")
    for name, verb, text in (
        ("disable", _user_disable, "disable an account and end its tokens"),
        ("enable", _user_enable, "enable an account again"),
    ):
        add_verb(verbs, name, verb, text).add_argument("name", metavar="NAME")
    passwd = _add_with_password(verbs, "passwd", _user_passwd, "set a password and end older logins")
    passwd.add_argument("name", metavar="NAME")
    _add_password_options(passwd)
    link = add_verb(verbs, "link", _user_link, f"print a link for one login, valid {LINK_MINUTES} minutes")
    link.add_argument("name", metavar="NAME")
    link.add_argument("--url", help="where people reach the page (http://GATEPOST_HOST:PORT)")


def _add_token_verbs(verbs: Parsers) -> None:
    create = add_verb(verbs, "create", _token_create, "print a new API token, which is shown only now")
    create.add_argument("--user", required=True, metavar="NAME", help="whose token it is")
    create.add_argument("--name", required=True, metavar="LABEL", help="what it is for")
    create.add_argument("--scopes", type=_scopes, default=_scopes("read execute"), help='"read execute" (default)')
    create.add_argument("--days", type=_days, metavar="N", help="days until it ends (never)")
    listing = add_list(verbs, _token_list, "list API tokens")
    listing.add_argument("--user", metavar="NAME", help="of this account only")
    add_verb(verbs, "revoke", _token_revoke, "end an API token").add_argument("id", metavar="ID")


def _add_with_password(verbs: Parsers, name: str, verb: WithPassword, text: str) -> argparse.ArgumentParser:
    """Add a verb that gets the hash of a password."""

    def work(options: argparse.Namespace, settings: Settings) -> None:
        hashed = _password_hash(options)  # before the loop, which would keep Ctrl-C from the prompt
        with_database(lambda opened: verb(opened, hashed), options, settings, changes=True)

    return add_parser(verbs, name, text, work)


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


def _password_hash(options: argparse.Namespace) -> str | None:
    """Read or ask for a password, unless the account is to have none."""
    from backend.accounts.credentials import hash_password

    if getattr(options, "no_password", False):
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


async def _record(opened: Opened, kind: Kind, **fields: Any) -> None:
    """Write what was done to the audit. Raises StorageError."""
    await opened.audit.record(kind, actor(), "", fields)


async def _user_add(opened: Opened, hashed: str | None) -> None:
    options = opened.options
    try:
        user = await opened.identities.add_user(options.name, Role(options.role), options.profile, hashed)
    except ValueError as error:
        raise Refusal(str(error), EXIT_USAGE) from None
    if user is None:
        raise Refusal(f"the name {options.name} is taken")
    await _record(opened, Kind.USER_CREATED, user=user.name, role=str(user.role), profile=user.profile)
    print(f"Added {user.name}, {user.role}.")


async def _user_list(opened: Opened) -> None:
    users = await opened.identities.users()
    if opened.options.json:
        _print_json(map(asdict, users))
        return
    rows = [(user.name, user.role, user.profile, _state(user.disabled), _date(user.created_ms)) for user in users]
    _print_table(("NAME", "ROLE", "PROFILE", "STATE", "CREATED"), rows)


def _state(disabled: bool) -> str:
    return "disabled" if disabled else "enabled"


async def _user_disable(opened: Opened) -> None:
    await _set_disabled(opened, True)


async def _user_enable(opened: Opened) -> None:
    await _set_disabled(opened, False)


async def _set_disabled(opened: Opened, disabled: bool) -> None:
    user = await opened.user(opened.options.name)
    if user.disabled is not disabled:
        await opened.identities.set_disabled(user.id, disabled)
        await _record(opened, Kind.USER_CHANGED, user=user.name, change=_state(disabled))
    print(f"{user.name} is {_state(disabled)}.")


async def _user_passwd(opened: Opened, hashed: str | None) -> None:
    user = await opened.user(opened.options.name)
    assert hashed
    await opened.identities.set_password(user.id, hashed)
    await _record(opened, Kind.USER_CHANGED, user=user.name, change="password")
    print(f"{user.name} has a new password.")


async def _user_link(opened: Opened) -> None:
    from backend.accounts.credentials import new_login_link, secret_hash

    user = await opened.user(opened.options.name)
    if user.disabled:
        raise Refusal(f"{user.name} is disabled")
    link = new_login_link(secrets.token_bytes)
    await opened.identities.add_link(secret_hash(link), user.id, now_ms() + LINK_MINUTES * 60_000)
    await _record(opened, Kind.LINK_CREATED, user=user.name, minutes=LINK_MINUTES)
    page = opened.options.url or f"http://{reachable(opened.settings.host)}:{opened.settings.port}"
    # A fragment is never sent to a server, so the secret does not get into a log.
    print(f"{page.rstrip('/')}/#login={link}")


async def _token_create(opened: Opened) -> None:
    from backend.accounts.credentials import new_api_token, secret_hash

    options = opened.options
    user = await opened.user(options.user)
    secret = new_api_token(secrets.token_bytes)
    ends = now_ms() + options.days * DAY_MS if options.days else None
    try:
        token = await opened.identities.add_token(user.id, options.name, options.scopes, secret_hash(secret), ends)
    except ValueError as error:
        raise Refusal(str(error), EXIT_USAGE) from None
    scopes = scopes_text(token.scopes)
    await _record(opened, Kind.TOKEN_CREATED, user=user.name, token=token.id, name=token.name, scopes=scopes)
    show_secret(f"token {token.id} of {user.name}", secret)


async def _token_list(opened: Opened) -> None:
    owner = await opened.user(opened.options.user) if opened.options.user else None
    names = {user.id: user.name for user in await opened.identities.users()}
    tokens = await opened.identities.tokens(owner.id if owner else None)
    if opened.options.json:
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


async def _token_revoke(opened: Opened) -> None:
    if not await opened.identities.revoke_token(opened.options.id):
        raise Refusal(f"there is no token {opened.options.id}, or it was revoked before")
    await _record(opened, Kind.TOKEN_REVOKED, token=opened.options.id)
    print(f"The token {opened.options.id} is revoked.")


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
