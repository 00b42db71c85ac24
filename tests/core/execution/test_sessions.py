"""Sessions: bounded, apart from each other, and over when nobody uses them."""

from backend.core.decisions import Decision
from backend.core.execution.sessions import IDLE, MOST, NOTHING_KEPT, Kept, Session, Sessions


def named(sessions: Sessions, principal: str, name: str) -> Session:
    found = sessions.named(principal, name)
    assert isinstance(found, Session)
    return found


def test_a_session_keeps_the_place_of_each_principal_and_target() -> None:
    sessions = Sessions(lambda: 0.0)
    named(sessions, "user:ann", "a").keep("user:ann", "project:p", Kept("src"))
    assert named(sessions, "user:ann", "a").at("user:ann", "project:p") == Kept("src")
    assert named(sessions, "user:ann", "a").at("user:ann", "project:q") == NOTHING_KEPT
    assert named(sessions, "user:ann", "b").at("user:ann", "project:p") == NOTHING_KEPT
    assert named(sessions, "user:bob", "a").at("user:bob", "project:p") == NOTHING_KEPT


def test_an_account_has_so_many_sessions_and_no_more_until_one_is_idle() -> None:
    now = 0.0
    sessions = Sessions(lambda: now)
    for number in range(MOST):
        named(sessions, "user:ann", str(number)).keep("user:ann", "local", Kept("src"))
    refused = sessions.named("user:ann", "more")
    assert isinstance(refused, Decision)
    assert (refused.rule, bool(refused.hint)) == ("limits.sessions", True)
    named(sessions, "user:bob", "more")
    now = IDLE - 1
    assert named(sessions, "user:ann", "0").at("user:ann", "local") == Kept("src")
    now = IDLE
    named(sessions, "user:ann", "more")
    assert named(sessions, "user:ann", "0").at("user:ann", "local") == Kept("src")
    assert named(sessions, "user:ann", "1").at("user:ann", "local") == NOTHING_KEPT
    assert len(sessions.known["user:ann"]) == 3
