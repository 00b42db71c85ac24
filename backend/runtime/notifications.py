"""The notifier of this server and its senders."""

import secrets

from backend.application.executions import ExecutionService
from backend.application.notifications import NotificationService, Subjects
from backend.application.notifier import Notifier
from backend.core.notifications.ports import Notifications
from backend.core.ports import AuditLog
from backend.executors.local.egress import own_addresses
from backend.notifiers.mail import Mail, MailServer
from backend.notifiers.senders import Senders
from backend.notifiers.webhook import Webhooks
from backend.runtime.clock import new_id, now_ms
from backend.runtime.persistence import Stores
from backend.runtime.schedules import random
from backend.runtime.settings import Settings


def build_senders(settings: Settings) -> Senders:
    """Webhooks, and e-mail where there is a mail server."""
    url = settings.smtp_url
    mail = Mail(MailServer.parse(url.get_secret_value()), settings.smtp_from) if url else None
    return Senders(Webhooks(own_addresses, settings.notify_addresses), mail)


def build_notifications(
    store: Notifications, subjects: Subjects, audit: AuditLog, settings: Settings
) -> NotificationService:
    """What clients and the command line do with notifications."""
    return NotificationService(
        store=store,
        subjects=subjects,
        sender=build_senders(settings),
        audit=audit,
        most=settings.notifications_per_account,
        now_ms=now_ms,
        new_id=new_id,
        randomness=secrets.token_bytes,
    )


def build_notifier(stores: Stores, service: ExecutionService, senders: Senders) -> Notifier:
    """The notifier of this server."""
    return Notifier(
        store=stores.notifications,
        service=service,
        users=stores.identities,
        sender=senders,
        now_ms=now_ms,
        new_id=new_id,
        random=random,
    )
