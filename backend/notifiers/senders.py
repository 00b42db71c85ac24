"""Sends each notification the way it asks for."""

from backend.core.dataclasses import dataclass
from backend.core.notifications.model import Delivery, Failure, Notification
from backend.notifiers.mail import Mail, email_refusal
from backend.notifiers.webhook import Webhooks

NO_MAIL = "this server sends no e-mail: GATEPOST_SMTP_URL is not set"


@dataclass(frozen=True, slots=True)
class Senders:
    """Webhooks, and e-mail where a mail server is configured; see `Sender`."""

    webhooks: Webhooks
    mail: Mail | None

    async def send(self, notification: Notification, delivery: Delivery) -> Failure | None:
        """Send one message; why it was not accepted."""
        if notification.url:
            return await self.webhooks.send(notification, delivery)
        return await self.mail.send(notification, delivery) if self.mail else Failure(NO_MAIL, final=True)

    def refusal(self, url: str | None, email: str | None) -> str:
        """Why nothing can be sent there; empty if it can be tried."""
        if url is not None:
            return self.webhooks.refusal(url)
        return email_refusal(email or "") if self.mail else NO_MAIL
