"""The way out for commands: by which proxy hosts are reached, what is recorded of it, which settings of the machine commands get."""

import secrets
from functools import partial

from backend.core.audit.events import Kind
from backend.core.errors import StorageError
from backend.core.execution.model import Actor
from backend.core.policy.egress import LONGEST_NAME
from backend.core.ports import AuditLog
from backend.executors.local.egress import Connection, EgressProxies, lookup
from backend.executors.local.upstream import Upstream
from backend.runtime.settings import Settings, SettingsError

ITSELF = Actor("gatepost", "")  # the actor of a connection that names no execution
SECRET_BYTES = 12
# By which git, node, curl, pip and what uses OpenSSL find certificates.
CA_VARIABLES = (
    *("NODE_EXTRA_CA_CERTS", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"),
)


def egress_proxies(settings: Settings, audit: AuditLog) -> EgressProxies:
    """What the proxies of all rooms share. Raises SettingsError for a proxy of the machine that cannot be used."""
    return EgressProxies(
        lookup, partial(record, audit), partial(secrets.token_urlsafe, SECRET_BYTES), _upstream(settings)
    )


def _upstream(settings: Settings) -> Upstream | None:
    if not settings.proxy:
        return None
    try:
        return Upstream.parse(settings.proxy, settings.variable("NO_PROXY") or settings.variable("no_proxy"))
    except ValueError as error:
        raise SettingsError(f"HTTPS_PROXY: {error}") from None


async def record(audit: AuditLog, connection: Connection) -> bool:
    """Write a connection to the audit. False if it could not be written."""
    caller = connection.caller
    sent, received = connection.traffic or (None, None)
    fields = {
        "project": connection.project,
        "execution": caller.execution if caller else None,
        "host": connection.host[:LONGEST_NAME],  # it may be no name at all
        "port": connection.port,
        "rule": connection.decision.rule,
        "reason": None if connection.decision.allowed else connection.decision.reason,
        "sent": sent,
        "received": received,
    }
    actor = caller.actor if caller else ITSELF
    try:
        await audit.record(_kind(connection), actor.name, actor.address, fields)
    except StorageError:
        return False
    return True


def _kind(connection: Connection) -> Kind:
    if not connection.decision.allowed:
        return Kind.CONNECTION_REFUSED
    return Kind.CONNECTION_OPENED if connection.traffic is None else Kind.CONNECTION_CLOSED


def command_environment(settings: Settings) -> dict[str, str]:
    """The variables that the operator gives to all commands."""
    certificates = dict.fromkeys(CA_VARIABLES, str(settings.ca_bundle)) if settings.ca_bundle else {}
    given = {name: settings.variable(name) for name in settings.command_environment}
    return certificates | {name: value for name, value in given.items() if value}
