"""E-mail by the mail server of the operator."""

import json
import ssl
from email.message import EmailMessage
from functools import partial
from typing import Self
from urllib.parse import unquote, urlsplit

from backend.core.dataclasses import dataclass
from backend.core.notifications.model import EMAIL, Delivery, Failure, Notification
from backend.notifiers.waiting import in_thread

PATIENCE = 20.0  # seconds that the mail server may take for a step
PORTS = {"smtp": 587, "smtps": 465, "smtp+plain": 25}


@dataclass(frozen=True, slots=True)
class MailServer:
    """A mail server: `smtp://` with STARTTLS, `smtps://` with TLS, `smtp+plain://` without encryption."""

    scheme: str
    host: str
    port: int
    user: str
    password: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """Raises ValueError, which does not repeat the URL."""
        parts = urlsplit(url)
        if parts.scheme not in PORTS or not parts.hostname:
            raise ValueError(
                "must be smtp://HOST:PORT, smtps://HOST or smtp+plain://HOST, with the user and the password before the host"
            )
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.scheme, parts.hostname, parts.port or PORTS[parts.scheme], user, password)


@dataclass(frozen=True, slots=True)
class Mail:
    """Sends mail from one address."""

    server: MailServer
    sender: str

    async def send(self, notification: Notification, delivery: Delivery) -> Failure | None:
        """Send a delivery; why it was not accepted."""
        try:
            await in_thread(partial(self._send, _message(self.sender, notification, delivery)))
        except OSError as error:
            return Failure(f"the mail server did not accept it: {type(error).__name__}")
        return None

    def _send(self, message: EmailMessage) -> None:
        import smtplib  # most servers send no mail

        server, tls = self.server, ssl.create_default_context()
        if server.scheme == "smtps":
            client: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=PATIENCE, context=tls)
        else:
            client = smtplib.SMTP(server.host, server.port, timeout=PATIENCE)
        with client:
            if server.scheme == "smtp":
                client.starttls(context=tls)
            if server.user:
                client.login(server.user, server.password)
            client.send_message(message)


def _message(sender: str, notification: Notification, delivery: Delivery) -> EmailMessage:
    content = json.loads(delivery.body)["execution"] or {"event": delivery.event}
    message = EmailMessage()
    message["From"], message["To"] = sender, notification.email or ""
    message["Subject"] = f"[Gatepost] {notification.name}: {delivery.event}"
    message["Message-ID"] = f"<{delivery.id}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    lines = [f"{name}: {value}" for name, value in content.items() if value is not None]
    message.set_content("\n".join(line.replace("\r", " ") for line in lines) + "\n")
    return message


def email_refusal(address: str) -> str:
    """Why nothing can be sent to an address; empty if it can be tried."""
    return "" if EMAIL.fullmatch(address) else "that is no e-mail address"
