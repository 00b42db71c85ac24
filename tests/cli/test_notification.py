"""`python -m backend notification …`."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import pytest

from backend.cli.main import main
from tests.api.world import audit
from tests.cli.printed import printed
from tests.notifiers.receivers import receiving

URL = "http://127.0.0.1:{}/secret-path"


pytestmark = pytest.mark.usefixtures("ann")


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> list[str]:
    """What a verb of `notification` prints, both streams."""
    return printed(capsys, "notification", *words, code=code)


def listed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in said(capsys, "list", "--json")]


async def test_a_webhook_is_added_from_standard_input_tested_and_deleted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with receiving() as receiver:
        url = URL.format(receiver.port)
        monkeypatch.setenv("GATEPOST_NOTIFY_HOSTS", f"127.0.0.1:{receiver.port}")
        monkeypatch.setattr("sys.stdin", io.StringIO(f"{url}\n"))
        added = await asyncio.to_thread(said, capsys, "add", "page us", "--user", "ann", "--url", "-")
        assert added[0].startswith("whsec_")
        assert "shown only now" in added[1]
        (found,) = await asyncio.to_thread(listed, capsys)
        assert (found["owner"], found["url"], found["events"]) == ("ann", url, ["failed", "lost", "recovered"])
        assert added[0] not in json.dumps(found)
        assert await asyncio.to_thread(said, capsys, "test", found["id"]) == ["The receiver has accepted the message."]
        ((headers, body),) = receiver.requests
        assert json.loads(body)["event"] == "test"
        assert headers["webhook-signature"].startswith("v1,")
        receiver.answer = b"HTTP/1.1 500 no\r\n\r\n"
        refused = await asyncio.to_thread(said, capsys, "test", found["id"], code=1)
        assert refused == ["gatepost: the message was not accepted: the receiver answered 500"]
    await asyncio.to_thread(said, capsys, "rm", found["id"])
    assert await asyncio.to_thread(listed, capsys) == []
    kinds = [each["kind"] for each in audit(tmp_path / "data") if each["kind"].startswith("notification_")]
    assert kinds == [f"notification_{what}" for what in ("created", "tested", "tested", "deleted")]


REFUSED: list[tuple[list[str], str]] = [
    (["--user", "bob", "--url", "https://example.com/"], "there is no user bob"),
    (["--user", "ann", "--url", "http://127.0.0.1/"], "[notification.address]"),
    (["--user", "ann", "--email", "a@example.com"], "[notification.address]"),
    (["--user", "ann", "--url", "https://example.com/", "--subject", "moon:1"], "a subject is executions"),
    (["--user", "ann", "--url", "https://example.com/", "--subject", "schedule:1"], "[schedule.unknown]"),
    (["--user", "ann", "--url", "https://example.com/", "--subject", "project:1"], "[project.unknown]"),
    (["--user", "ann", "--url", "https://example.com/", "--subject", "execution:1"], "[execution.unknown]"),
]


def test_what_cannot_be_added_and_what_does_not_exist(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in REFUSED:
        assert message in said(capsys, "add", "x", *words, code=1)[0]
    assert listed(capsys) == []
    for words in (["test", "1"], ["deliveries", "1"], ["rm", "1"], ["repeat", "1", "2"]):
        assert "[notification.unknown]" in said(capsys, *words, code=1)[0]
    with pytest.raises(SystemExit):
        main(["notification", "add", "x", "--user", "ann", "--url", "https://example.com/", "--events", "never"])
