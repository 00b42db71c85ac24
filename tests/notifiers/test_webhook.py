"""Webhooks over real sockets: where they may go, and what they say."""

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import pytest

from backend.core.notifications.model import Delivery, EventType, Failure, Notification
from backend.core.notifications.rules import new_secret, signature
from backend.core.policy.egress import parse_hosts
from backend.executors.local.egress import own_addresses
from backend.notifiers import webhook
from backend.notifiers.mail import Mail, MailServer
from backend.notifiers.senders import NO_MAIL, Senders
from backend.notifiers.webhook import Webhooks
from tests.notifiers.receivers import receiving

BODY = '{"event":"failed","execution":{"id":"E","command":"ls \\u00e4","status":"failed"}}'
DELIVERY = Delivery("D" * 26, "N", "E", EventType.FAILED, BODY, 0, 0)


def to(url: str | None = None, email: str | None = None) -> Notification:
    return Notification("N", "U", "a name", "executions", frozenset(EventType), url, email, new_secret(b"k" * 32), 0)


def listing(port: int) -> Webhooks:
    return Webhooks(own_addresses, parse_hosts(f"127.0.0.1:{port}"))


async def test_a_message_is_signed_and_arrives_once() -> None:
    async with receiving() as receiver:
        notification = to(f"http://127.0.0.1:{receiver.port}/hook?a=1")
        assert await listing(receiver.port).send(notification, DELIVERY) is None
    ((headers, body),) = receiver.requests
    assert (headers["line"], headers["host"]) == ("POST /hook?a=1 HTTP/1.1", f"127.0.0.1:{receiver.port}")
    assert (headers["webhook-id"], body) == (DELIVERY.id, BODY.encode())
    stamp = int(headers["webhook-timestamp"])
    assert headers["webhook-signature"] == signature(notification.secret, DELIVERY.id, stamp, body)


async def test_servers_that_do_not_answer_leave_commands_their_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are judged in the threads of the service, of which a machine has a few."""
    answer = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer.wait(30) and [])
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mail = Mail(MailServer.parse(f"smtp+plain://127.0.0.1:{silent.getsockname()[1]}"), "gate@example.org")
        work = [mail.send(to(email="a@example.org"), DELIVERY), webhook.resolve("example.org", 443)]
        sending = [asyncio.create_task(each) for each in work]
        try:
            await asyncio.sleep(0)
            assert await asyncio.wait_for(asyncio.to_thread(lambda: "judged"), 60) == "judged"
            assert not any(task.done() for task in sending)
        finally:
            answer.set()
            silent.close()
            await asyncio.gather(*sending, return_exceptions=True)


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """The example of the specification."""
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{}/",
        "http://localhost:{}/",
        "http://[::ffff:127.0.0.1]:{}/",
        "http://0.0.0.0:{}/",
        "http://2130706433:{}/",
        "http://127.1:{}/",
        "http://10.0.0.1:{}/",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1]/",
        "http://100.64.0.1/",
    ],
)
async def test_no_message_goes_to_a_private_address(url: str) -> None:
    async with receiving() as receiver:
        failure = await Webhooks(own_addresses).send(to(url.format(receiver.port)), DELIVERY)
    assert failure
    assert failure.final
    assert receiver.requests == []


async def test_the_address_that_was_judged_is_the_one_that_is_used() -> None:
    """A name that leads elsewhere at each look-up is looked up once; with one forbidden address it is refused whole."""
    asked: list[str] = []

    async def changing(host: str, port: int) -> list[Any]:
        asked.append(host)
        return (
            [ip_address("93.184.216.34"), ip_address("127.0.0.1")]
            if host == "mixed.example"
            else [ip_address("10.0.0.8")]
        )

    async with receiving() as receiver:
        sender = Webhooks(own_addresses, (), changing)
        for host in ("mixed.example", "private.example"):
            failure = await sender.send(to(f"http://{host}:{receiver.port}/"), DELIVERY)
            assert failure
            assert failure.final
    assert asked == ["mixed.example", "private.example"]
    assert receiver.requests == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", "the receiver answered 302"),
        (b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "the receiver answered 500"),
        (b"SSH-2.0-OpenSSH_9\r\n", "not one of HTTP"),
        (b"", "not one of HTTP"),
        (b"x" * 200_000, "ValueError"),
    ],
)
async def test_what_is_no_success_is_tried_again(answer: bytes, reason: str) -> None:
    async with receiving(answer) as receiver:
        failure = await listing(receiver.port).send(to(f"http://127.0.0.1:{receiver.port}/"), DELIVERY)
    assert failure
    assert (reason in failure.reason, failure.final) == (True, False)
    assert len(receiver.requests) == 1  # a redirect is not followed


async def test_a_receiver_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PATIENCE", 0.05)

    async def never(host: str, port: int) -> list[Any]:
        await asyncio.Event().wait()
        return []

    assert await Webhooks(own_addresses, (), never).send(to("http://slow.example/"), DELIVERY) == Failure(
        "no answer within 0 s"
    )


async def test_nothing_listens() -> None:
    async with receiving() as receiver:
        port = receiver.port
    failure = await listing(port).send(to(f"http://127.0.0.1:{port}/"), DELIVERY)
    assert failure
    assert not failure.final


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.org/",
        "example.org",
        "https://",
        "https://user:secret@example.org/",
        "https://example.org/#part",
        "https://example.org/a b",
        "https://example.org/\r\nHost: evil",
        "https://exämple.org/",
        "https://example.org:99999/",
        "https://example.org:0x50/",
        "https://" + "x" * 2000,
        "https://[::1/",
        "https://..",
    ],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    assert Webhooks(own_addresses).refusal(url)


async def test_mail_arrives() -> None:
    async with receiving(mail=True) as receiver:
        mail = Mail(MailServer.parse(f"smtp+plain://127.0.0.1:{receiver.port}"), "gate@example.org")
        assert await Senders(Webhooks(own_addresses), mail).send(to(email="ann@example.org"), DELIVERY) is None
    text = "\n".join(receiver.lines)
    for line in ("Subject: [Gatepost] a name: failed", "To: ann@example.org", "status: failed"):
        assert line in text


async def test_a_mail_server_that_is_gone_is_tried_again() -> None:
    async with receiving(mail=True) as receiver:
        port = receiver.port
    mail = Mail(MailServer.parse(f"smtp+plain://user:canary@127.0.0.1:{port}"), "gate@example.org")
    failure = await mail.send(to(email="ann@example.org"), DELIVERY)
    assert failure
    assert not failure.final
    assert "canary" not in failure.reason


@pytest.mark.parametrize("email", ["", "ann", "ann@", "a@b\nBcc: all@example.org", "a@b,c@d", "@b", "a@" + "b" * 300])
def test_what_is_no_address_is_refused(email: str) -> None:
    mail = Mail(MailServer.parse("smtps://mail.example.org"), "gate@example.org")
    assert Senders(Webhooks(own_addresses), mail).refusal(None, email)
    assert Senders(Webhooks(own_addresses), None).refusal(None, email) == NO_MAIL


async def test_a_public_address_of_this_machine_is_posted_to_only_where_it_is_listed() -> None:
    here = ip_address("93.184.216.34")

    async def named(host: str, port: int) -> list[Any]:
        return [here]

    sender = Webhooks(lambda found: {here}.intersection(found), (), named)
    assert "this machine" in sender.refusal("http://93.184.216.34/")
    failure = await sender.send(to("http://here.example/"), DELIVERY)
    assert failure
    assert (failure.final, "this machine" in failure.reason) == (True, True)
    listed = Webhooks(sender.own, parse_hosts("93.184.216.34:80"))
    assert listed.refusal("http://93.184.216.34/") == ""


async def test_a_name_is_reached_by_any_of_its_addresses() -> None:
    async def resolve(host: str, port: int) -> list[Any]:
        return [ip_address("127.0.0.9"), ip_address("127.0.0.1")]

    async with receiving() as receiver:
        hosts = parse_hosts(f"127.0.0.9:{receiver.port}, 127.0.0.1:{receiver.port}")
        assert (
            await Webhooks(own_addresses, hosts, resolve).send(to(f"http://a.test:{receiver.port}/"), DELIVERY) is None
        )
    assert len(receiver.requests) == 1
