"""What waits on disk, and its way to the server."""

import threading
from pathlib import Path

import pytest

from gatepost_django.delivery import Delivery
from gatepost_django.protocol import End
from gatepost_django.spool import SMALLEST, Chunk, Spool, Text, left_behind
from gatepost_django.standing import Active, Denied, Standing
from tests.runner.peer import Peer, peer

ID = "01a22368-a70b-208a-965b-58262488832a"
LOGIN = (200, "<html>Please log in</html>")


def filled(folder: Path, *texts: str, end: bool = True) -> Spool:
    spool = Spool(folder / f"{ID}.jsonl")
    spool.claim("nonce", "migrate")
    spool.confirm()
    for number, text in enumerate(texts):
        spool.add(Text(text, number % 2 == 1, 1.5))
    if end:
        spool.add(End(0, "success"))
    return spool


def taken(spool: Spool) -> list[Chunk]:
    found = []
    while chunk := spool.next(0):
        found.append(chunk)
        spool.advance(chunk)
    return found


def test_records_come_out_in_their_order_with_numbers(tmp_path: Path) -> None:
    spool = filled(tmp_path, "a\n", "b\n")
    expected: list[Text | End] = [Text("a\n", False, 1.5), Text("b\n", True, 1.5), End(0, "success")]
    assert taken(spool) == [Chunk(number, record) for number, record in enumerate(expected, 1)]


def test_a_spool_goes_on_where_a_runner_that_was_killed_has_stopped(tmp_path: Path) -> None:
    spool = filled(tmp_path, "a\n", "b\n", end=False)
    first = spool.next(0)
    assert first
    spool.advance(first)
    with spool.path.open("ab") as file:
        file.write(b'{"text": "half a li')  # the runner was killed while it wrote
    (again,) = left_behind(tmp_path)
    again.add(End(-9, "failed"))
    assert taken(again) == [Chunk(2, Text("b\n", True, 1.5)), Chunk(3, End(-9, "failed"))]
    again.delete()
    assert not list(tmp_path.iterdir())


def test_what_is_too_large_is_divided_and_numbered_as_it_is_sent(tmp_path: Path) -> None:
    spool = filled(tmp_path, "x" * 1000 + "y" * 24, end=False)
    large = spool.next(0)
    assert large
    assert spool.divide(large)
    half = spool.next(0)
    assert half
    assert not spool.divide(Chunk(1, Text("x" * SMALLEST, False, 1.5)))
    parts = [chunk.record.text for chunk in taken(spool) if isinstance(chunk.record, Text)]
    assert (parts, half.number) == (["x" * 512, "x" * 488 + "y" * 24], 1)


def test_a_writer_wakes_the_sender(tmp_path: Path) -> None:
    spool = filled(tmp_path, end=False)
    assert spool.next(0.01) is None
    threading.Timer(0.05, lambda: spool.add(End(0, "success"))).start()
    assert spool.next(10) == Chunk(1, End(0, "success"))


def deliver(spool: Spool, server: Peer, standing: Standing) -> bool:
    return Delivery(standing, threading.Event()).deliver(spool, server.server().client())


def accepted() -> Standing:
    standing = Standing()
    standing.set(Active())
    return standing


@pytest.mark.parametrize(
    "trouble",
    [
        LOGIN,
        (413, "<html>too large</html>"),
        (503, {"detail": "The database is away."}),
        (400, {"detail": "The clock of this runner is 10 min ahead of that of the server."}),
        (407, "<html>"),
        (301, "", {"Location": "https://x/"}),
    ],
)
def test_nothing_is_lost_to_trouble_on_the_way(trouble: tuple[int, object], tmp_path: Path) -> None:
    with peer(trouble, (200, {"ok": True})) as server:
        assert deliver(filled(tmp_path, "a" * 600, "b\n"), server, accepted())
        sent = [body for _, _, body in server.seen[1:]]
        output = [(each["chunk_number"], each["segments"][0]["content"], each["is_stderr"]) for each in sent[:-1]]
        assert [number for number, _, _ in output] == list(range(1, len(output) + 1))
        assert "".join(text for _, text, _ in output) == "a" * 600 + "b\n"
        assert sent[-1] == {"exit_code": 0, "status": "success"}
        assert not list(tmp_path.iterdir())


def test_a_key_that_is_refused_holds_all_until_it_is_accepted(tmp_path: Path) -> None:
    standing = accepted()
    with peer((401, {"detail": "It was revoked."}), (200, {"ok": True})) as server:
        sending = threading.Thread(target=deliver, args=(filled(tmp_path, "a\n"), server, standing), daemon=True)
        sending.start()
        with standing.changed:
            assert standing.changed.wait_for(lambda: standing.state == Denied("It was revoked."), 10)
        standing.set(Active())
        sending.join(10)
        assert len(server.seen) == 3


def test_what_the_server_does_not_know_any_more_is_not_sent_for_ever(tmp_path: Path) -> None:
    with peer((404, {"detail": "There is no such execution."})) as server:
        assert deliver(filled(tmp_path, "a\n"), server, accepted())
        assert len(server.seen) == 1


def test_a_piece_that_is_refused_costs_no_other(tmp_path: Path) -> None:
    with peer((422, {"detail": "No."}), (200, {"ok": True})) as server:
        assert deliver(filled(tmp_path, "a\n", "b\n"), server, accepted())
        assert len(server.seen) == 3


def test_a_full_spool_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost_django.spool.FULL", 100)
    spool = filled(tmp_path, "x" * 200)
    assert spool.is_full
    taken(spool)
    assert not spool.is_full
