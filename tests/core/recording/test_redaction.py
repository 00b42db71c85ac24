"""Secrets in output, wherever it is cut and however they are written; and ordinary text left alone."""

import base64
import json
import re
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.core.recording.redaction import DEFAULT_PATTERNS, KEY_LINES, LINE_HELD, LONGEST_MATCH, Masks
from backend.core.recording.terminal_filter import TerminalFilter

VALUES = [
    "hunter2-Pa55w0rd",
    's3cr t/+"ä?&',
    "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo0NTY3ODkw",
    "abcdef",
    "line one!\nline two!\n",
]
MASKS = Masks.of(VALUES, DEFAULT_PATTERNS)
KEY = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEpAIBAAKCAQEA7bq4\n{}\nqQ==\n-----END RSA PRIVATE KEY-----".format(
    "\n".join(["Zm9vYmFy" * 8] * 5)
)
TOKENS = [
    *(f"gh{kind}_{'a1B2' * 9}" for kind in "pos"),
    "github_pat_11ABCDEFG0abcdefghijkl_mnopqrstuvwxyz",
    "AKIAIOSFODNN7EXAMPLE",
    "sk-proj-abcdefghij0123456789-_ABC",
    "xoxb-123456789012-1234567890123-AbCdEfGhIjKl",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVP-mBexample",
    "gp_aaaaaaaaaaaaaaaaaaaa",
    f"dc_{'a1-_' * 10}abc",
    "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
]


def forms(value: str) -> list[str]:
    raw = value.encode()
    plain = [value, quote(value, safe=""), quote(value), quote_plus(value), json.dumps(value)[1:-1]]
    plain.append(json.dumps(value, ensure_ascii=False)[1:-1])
    for before, after in ((b"", b""), (b"x", b"yz"), (b"xx", b"y"), (b"user:", b"\n")):
        plain.append(base64.b64encode(before + raw + after).decode())
        plain.append(base64.urlsafe_b64encode(before + raw + after).decode())
    return plain


def through(masks: Masks, *reads: bytes, release: bool = False) -> bytes:
    stream, found = masks.stream(), []
    for read in reads:
        found.append(stream.feed(read))
        if release:
            found.append(stream.release())
    found.append(stream.finish())
    assert not stream.held
    return b"".join(found)


def leaks(secret: bytes, output: bytes, length: int) -> bool:
    return any(secret[at : at + length] in output for at in range(len(secret) - length + 1))


@pytest.mark.parametrize("form", [form for value in VALUES for form in forms(value)])
@pytest.mark.parametrize("release", [False, True])
def test_a_value_in_any_form_split_anywhere_is_masked(form: str, release: bool) -> None:
    whole = f"before <{form}> after\n".encode()
    expected = through(MASKS, whole)
    assert not leaks(form.encode()[7:-7], expected, 4)
    assert b"[masked]" in expected
    shown = re.compile(re.escape(expected).replace(rb"\[masked\]", rb".{0,2}\[masked\]" if release else rb"\[masked\]"))
    for cut in range(len(whole) + 1):
        assert shown.fullmatch(through(MASKS, whole[:cut], whole[cut:], release=release))


@pytest.mark.parametrize("token", TOKENS)
@pytest.mark.parametrize("release", [False, True])
def test_what_looks_like_a_token_is_masked_wherever_it_is_split(token: str, release: bool) -> None:
    whole = f"token={token} ok\n".encode()
    assert through(MASKS, whole) == b"token=[masked] ok\n"
    for cut in range(len(whole) + 1):
        output = through(MASKS, whole[:cut], whole[cut:], release=release)
        assert output in {b"token=[masked] ok\n", b"token=%b[masked] ok\n" % token[:1].encode()} | {
            b"token=%b[masked] ok\n" % token[:2].encode()
        }


@pytest.mark.parametrize("step", [1, 2, 7, 30, 1000])
@pytest.mark.parametrize("release", [False, True])
def test_a_private_key_is_masked_up_to_its_end(step: int, release: bool) -> None:
    whole = f"the key:\n{KEY} and after\nmore\n".encode()
    output = through(MASKS, *(whole[at : at + step] for at in range(0, len(whole), step)), release=release)
    assert output.startswith(b"the key:\n")
    assert output.endswith(b"[masked] and after\nmore\n")
    assert not leaks(KEY.encode(), output, 6)
    assert output.count(b"\n") == whole.count(b"\n")


def test_the_mention_of_a_private_key_masks_no_more_than_its_line() -> None:
    assert MASKS.text('if "-----BEGIN PRIVATE KEY-----" in text:\n    return True\nx = 1\n') == (
        'if "[masked]\n    return True\nx = 1\n'
    )
    assert MASKS.text("a -----BEGIN PRIVATE KEY-----\\nMIIE\\n-----END PRIVATE KEY----- b") == "a [masked] b"


def test_a_private_key_without_end_is_masked_for_so_many_lines() -> None:
    lines = "-----BEGIN PRIVATE KEY-----\n" + "AAAA\n" * (KEY_LINES + 10)
    assert MASKS.text(lines).count("[masked]") == KEY_LINES


def test_only_the_password_of_an_address_is_masked() -> None:
    assert MASKS.text("git clone https://me:p4ss@host.test/x") == "git clone https://me:[masked]@host.test/x"
    assert MASKS.text("redis://:p4ss@host:6379/0") == "redis://:[masked]@host:6379/0"
    assert MASKS.text("http://host.test:8080/a@b mail a:b@c") == "http://host.test:8080/a@b mail a:b@c"


def test_secrets_that_overlap_are_one() -> None:
    masks = Masks.of(["abcdefgh", "ghijkl"], ())
    assert masks.text("xabcdefghijkly") == "x[masked]y"
    assert through(masks, b"xabcdefgh", b"ijkly") == b"x[masked]y"


def test_colours_do_not_hide_a_secret() -> None:
    whole = b"a \x1b[31mhun\x1b[1mter2-\x1b[0mPa55w0rd\x1b[m b\n"
    for cut in range(len(whole) + 1):
        output = through(MASKS, whole[:cut], whole[cut:])
        assert output == b"a \x1b[31m[masked]\x1b[1m\x1b[0m\x1b[m b\n"
    assert MASKS.text("\x1b[31mgh\x1b[0mp_" + "a" * 36 + "\x1b[0m") == "\x1b[31m[masked]\x1b[0m\x1b[0m"


@pytest.mark.parametrize("sequence", [b"\x1b[K", b"\x1b[0K", b"\x1b[2K", b"\x1b[G", b"\x1b[12G", b"\x1b[01;31m\x1b[K"])
def test_no_sequence_that_passes_the_terminal_filter_hides_a_secret(sequence: bytes) -> None:
    whole = b"a %bhunter2%b-Pa55w0rd%b b\n" % (sequence, sequence, sequence)
    assert TerminalFilter().feed(whole) == whole
    for cut in range(len(whole) + 1):
        assert through(MASKS, whole[:cut], whole[cut:]) == b"a %b[masked]%b%b b\n" % (sequence, sequence, sequence)


@pytest.mark.parametrize("prompt", [b"Password: ", b"gp", b"$ ", b">>> ", b"Continue? [y/N] ", b"http:", b"hu"])
def test_a_prompt_is_released(prompt: bytes) -> None:
    stream = MASKS.stream()
    assert stream.feed(prompt) == b""
    assert stream.held
    assert stream.release() == prompt
    assert not stream.held
    assert stream.release() == b""
    assert stream.finish() == b""


def test_what_may_be_the_start_of_a_secret_is_held_until_it_is_told() -> None:
    stream = MASKS.stream()
    assert stream.feed(b"see hunt") == b""
    assert stream.release() == b"see "
    assert stream.held
    assert stream.feed(b"er") == b""
    assert stream.release() == b""
    assert stream.feed(b"s and ") == b""
    assert stream.release() == b"hunters and "
    assert stream.feed(b"gp_abc") + stream.release() == b""
    assert stream.finish() == b"gp_abc"


def test_a_secret_written_slowly_shows_two_characters_at_most() -> None:
    for secret in (b"hunter2-Pa55w0rd", b"gp_" + b"a1" * 15):
        output = through(MASKS, *(bytes([code]) for code in b"- " + secret + b" -\n"), release=True)
        assert output in {b"- [masked] -\n", b"- %b[masked] -\n" % secret[:2]}


def test_short_values_and_empty_ones_are_no_secrets() -> None:
    masks = Masks.of(["", "abc", "abcde"], ())
    assert masks.text("abcde abc") == "abcde abc"
    assert through(Masks.of([], []), b"x", b"y\nz") == b"xy\nz"


@pytest.mark.parametrize("length", [4000, LINE_HELD - 3, LINE_HELD + 10, 3 * LINE_HELD])
@pytest.mark.parametrize("step", [1000, 4093, 32768])
def test_a_secret_deep_in_a_long_line_is_masked(length: int, step: int) -> None:
    for secret in (b"hunter2-Pa55w0rd", b"gp_" + b"a1" * 2000):
        whole = b"." * length + b" " + secret + b" ."
        output = through(MASKS, *(whole[at : at + step] for at in range(0, len(whole), step)))
        assert output == b"." * length + b" [masked] ."


def test_no_more_than_a_line_is_kept_of_output_without_line_ends() -> None:
    stream = MASKS.stream()
    given = sum(len(stream.feed(b"gp_" + b"x" * 32765)) for _ in range(100))
    assert given
    assert len(stream.finish()) <= 2 * LINE_HELD


def test_a_line_that_grows_for_long_is_not_kept() -> None:
    stream = MASKS.stream()
    for percent in range(2000):
        assert stream.feed(b"\r%d%% done" % percent) + stream.release() == b"\r%d%% done" % percent
    assert len(b"".join(stream._line)) <= 2 * LONGEST_MATCH


@given(
    st.lists(st.tuples(st.integers(0, 9000), st.sampled_from(TOKENS + VALUES[:2])), max_size=20),
    st.integers(500, 40000),
)
@settings(max_examples=100)
def test_a_long_line_cut_anywhere_gives_the_same(parts: list[tuple[int, str]], step: int) -> None:
    whole = b"".join(b"." * count + b" " + secret.encode() + b" " for count, secret in parts)
    output = through(MASKS, *(whole[at : at + step] for at in range(0, len(whole), step)))
    assert output == b"".join(b"." * count + b" [masked] " for count, _ in parts)


PLAIN = [
    r"tok_[a-z0-9]{3,5}x?y*z",
    r"a\.b\-[^ \n]{2}c{3}",
    r"\btok-\d{2,4}-\w+;",
    r"[A-F]{2}[0-9]{3,}",
    r"k=(?P<secret>[0-9]+)&",
    r"\dtok",
    r"qq[^\n\\]c+d",
    r"(?<!\w)\\\[[]x-z]+\]",
]


class TestPatternsOfAnOperator:
    @pytest.mark.parametrize(
        "pattern", [r"tok_[a-z0-9]{8,}", r"(?i)TOK_\w{8,}", r"(?:tok|key)_.{8,12}", r"\b[t]ok_[^ ]+"]
    )
    def test_a_match_in_a_line_is_found_wherever_it_is_split(self, pattern: str) -> None:
        masks = Masks.of([], [pattern])
        whole = b"x" * 30 + b" tok_abcd1234 \nnext\n"
        expected = through(masks, whole)
        assert b"abcd" not in expected
        assert expected.endswith(b"\nnext\n")
        for cut in range(len(whole) + 1):
            assert through(masks, whole[:cut], whole[cut:]) == expected

    def test_one_that_cannot_be_told_from_its_start_has_the_line_wait(self) -> None:
        stream = Masks.of([], [r"(?:a|b)+secret"]).stream()
        assert stream.feed(b"one\nPassword: ") == b"one\n"
        assert stream.release() == b""
        assert stream.finish() == b"Password: "

    def test_a_plain_one_has_only_its_start_wait(self) -> None:
        stream = Masks.of([], [r"tok_[a-z]{8,}"]).stream()
        assert stream.feed(b"Password: ") + stream.release() == b"Password: "
        assert stream.feed(b"a tok") + stream.release() == b"a "
        assert stream.feed(b"en ") + stream.release() == b"token "

    def test_it_sees_one_line(self) -> None:
        masks = Masks.of([], [r"a\s+b", r"[^x]{5}z", r"^id \d+$", "q*"])
        assert masks.text("a\nb\n123\n45z\n") == "a\nb\n123\n45z\n"
        assert masks.text("id 1\nid 2\nno id 3") == "[masked]\n[masked]\nno id 3"

    def test_a_group_named_secret_is_masked_alone(self) -> None:
        assert Masks.of([], [r"pin=(?P<secret>\d+)"]).text("pin=1234 ") == "pin=[masked] "

    @pytest.mark.parametrize("step", [999, 32768])
    def test_a_long_match_in_a_line_without_end_is_found(self, step: int) -> None:
        masks = Masks.of([], [r"(?:<)a+>"])
        for before in (LINE_HELD - 2000, LINE_HELD + 5000):
            whole = b"." * before + b"<" + b"a" * (LONGEST_MATCH - 2) + b">" + b"." * LINE_HELD
            output = through(masks, *(whole[at : at + step] for at in range(0, len(whole), step)))
            assert output == b"." * before + b"[masked]" + b"." * LINE_HELD

    @given(st.data(), st.sampled_from(PLAIN))
    @settings(max_examples=200)
    def test_the_start_of_a_match_waits(self, data: st.DataObject, pattern: str) -> None:
        masks = Masks.of([], [pattern])
        match = data.draw(st.from_regex(pattern, fullmatch=True, alphabet=st.characters(codec="ascii"))).encode()
        for cut in range(len(match)):
            assert masks.possible_start(b"= " + match[:cut]) <= 2
        for cut in range(3, len(match)):
            output = through(masks, b"= " + match[:cut], match[cut:] + b" =\n", release=True)
            assert b"[masked]" in output
            if "secret" not in pattern:
                assert match not in output

    @pytest.mark.parametrize("pattern", PLAIN)
    def test_a_plain_one_lets_prompts_go(self, pattern: str) -> None:
        stream = Masks.of([], [pattern]).stream()
        assert stream.feed(b"Enter the word: ") + stream.release() == b"Enter the word: "

    def test_one_that_is_none_is_refused(self) -> None:
        for pattern in ("(", "pässword"):
            with pytest.raises(re.error):
                Masks.of([], [pattern])


PIECES = st.one_of(
    st.sampled_from([form.encode() for value in VALUES for form in forms(value)]),
    st.sampled_from([token.encode() for token in TOKENS]),
    st.sampled_from(
        [b"\n", b" ", b"gp_", b"eyJ", b"://", b"a:b@", b"abc", b"\x1b[1m", b"hunter", b"\r\n", b"AAAA", KEY.encode()]
    ),
    st.sampled_from([b"-----BEGIN PRIVATE KEY-----", b"-----END PRIVATE KEY-----", b"-----"]),
    st.binary(max_size=6),
)
WHOLES = st.lists(PIECES, max_size=15).map(b"".join)


@given(WHOLES, st.lists(st.integers(0, 400), max_size=6))
@settings(max_examples=300)
def test_reads_cut_anywhere_give_the_same(whole: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), max([len(whole), *cuts])]
    output = through(MASKS, *(whole[start:end] for start, end in pairwise(edges)))
    assert output == through(MASKS, whole) == MASKS.complete(whole)
    assert output == through(MASKS, *(bytes([code]) for code in whole))


@given(WHOLES, st.lists(st.integers(0, 400), max_size=6))
@settings(max_examples=200)
def test_what_is_no_secret_is_never_lost(whole: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), max([len(whole), *cuts])]
    masks = Masks.of(["not in there"], [r"never_[a-z]{8,}"])
    assert through(masks, *(whole[start:end] for start, end in pairwise(edges)), release=True) == whole


def test_ordinary_output_is_left_alone() -> None:
    folder = Path(__file__).parents[3]
    pages = [*(folder / "backend").rglob("*.py"), *(folder / "docs").rglob("*.md"), *(folder / "bench").rglob("*.py")]
    text = "".join(page.read_text() for page in pages if page.parent.name != "redaction")
    masks = Masks.of(["hunter2-Pa55w0rd"], DEFAULT_PATTERNS)
    assert [line for line in text.splitlines() if "[masked]" in masks.text(line)] == []
    assert masks.text(ORDINARY) == ORDINARY


ORDINARY = """\
commit 4ae62ec1d2b1a0f5c6e7d8091a2b3c4d5e6f7081
index 9c1e6f0..b7a1d33 100644
task-aaaaaaaaaaaaaaaaaaaaaaaaaaaa risk-assessment-of-the-whole-thing disk-wwn-0x5000c500a1b2c3d4e5
systemd-ask-password-console.path loaded active waiting Dispatch Password Requests to Console
test_gp_something_with_a_long_name_here PASSED  map_gp_to_address_of_the_thing
http://localhost:3000/ user@host.test ssh://git@github.com:22/x.git https://example.org/a:b/c@d
550e8400-e29b-41d4-a716-446655440000 sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855
keyJoin.eyJ a.b.c package-lock sha512-9vAhSBVaN1xZYqXxYhZ6hcrPvk0W8HbSPrLqZ==
-----BEGIN CERTIFICATE-----
MIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBaMQswCQYDVQQGEwJJ
-----END CERTIFICATE-----
"""
