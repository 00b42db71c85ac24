"""What a runner makes of answers, also of those that are not the server's."""

from pathlib import Path

import pytest

from gatepost_django.client import Refused, Unavailable
from tests.runner.peer import peer

LOGIN = "<html>Please log in</html>"
HTML = {"Content-Type": "text/html; charset=utf-8"}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((200, LOGIN, HTML), "no JSON (text/html, status 200)"),
        ((401, LOGIN, HTML), "page to log in"),
        ((404, LOGIN, HTML), "status 404"),
        ((200, [1]), "no JSON"),
        ((302, "", {"Location": "https://login.example.com/?next=x"}), "redirect to login.example.com"),
        ((503, {"detail": "The database is away."}), "The database is away. (503)"),
        ((429, {"error": "Slowly."}), "Slowly. (429)"),
        ((500, {}), "(500)"),
        ((200, "{}", {"Content-Length": "99"}), "broke off"),
    ],
)
def test_what_may_succeed_later(answer: tuple[int, object, dict[str, str]], words: str) -> None:
    with peer(answer) as proxy:
        reply = proxy.server(timeout=0.5).client().ask("GET", "pending/")
        assert isinstance(reply, Unavailable)
        assert words in reply.reason


@pytest.mark.parametrize(
    ("answer", "words", "about_the_key"),
    [
        ((401, {"detail": "It was revoked.", "hint": "Create one."}), "It was revoked. Create one.", True),
        ((403, {"error": "No."}), "No.", True),
        ((400, {"detail": "The clock is 10 min ahead."}), "The clock is 10 min ahead.", False),
        ((413, LOGIN, HTML), "too large for a proxy", False),
    ],
)
def test_what_is_refused(answer: tuple[int, object], words: str, about_the_key: bool) -> None:
    with peer(answer) as server:
        reply = server.server().client().ask("GET", "pending/")
        assert isinstance(reply, Refused)
        assert words in reply.detail
        assert reply.is_about_the_key is about_the_key


def test_a_server_that_is_away_is_no_error() -> None:
    with peer((200, {})) as server:
        pass
    reply = server.server().client().ask("GET", "pending/")
    assert isinstance(reply, Unavailable)
    assert "Connection refused" in reply.reason
    assert "dc_key" not in reply.reason


def test_a_request_is_sent_again_with_its_nonce_and_waits_as_long_as_it_is_asked_to() -> None:
    pauses: list[float] = []
    with peer((503, {"detail": "x"}, {"Retry-After": "7"}), (502, LOGIN), (200, {"ok": True})) as server:
        reply = server.server(retries=3, pause=pauses.append).client().ask("POST", "heartbeat/", {"a": 1})
        assert reply == {"ok": True}
        assert len({headers["X-Request-Nonce"] for _, headers, _ in server.seen}) == 1
        assert [body for _, _, body in server.seen] == [{"a": 1}] * 3
        assert pauses == [7.0, 0.5]


def test_the_key_of_the_settings_is_sent_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login ann password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with peer((200, {})) as server:
        server.server().client().ask("POST", "executions/x/start/")
        path, headers, body = server.seen[0]
        assert (path, headers["Authorization"], body) == ("/api/runner/executions/x/start/", "Bearer dc_key", None)
        assert headers["Content-Type"] == "application/json"
        assert headers["Content-Length"] == "0"
