"""The settings of a runner."""

import pytest

from gatepost_django.configuration import Found, find, wrong_settings

KEY = {"GATEPOST_API_KEY": "dc_x"}


def test_our_name_comes_before_that_of_a_published_runner() -> None:
    both = {"MANAGECOMMAND_API_KEY": "dc_old", "GATEPOST_API_KEY": "dc_new"}
    assert find(both, "API_KEY") == Found("GATEPOST_API_KEY", "dc_new")
    old = find({"DJANGOCOMMAND_API_KEY": "dc_old"}, "API_KEY")
    assert old is not None
    assert old.is_foreign


def test_what_is_not_set_is_wrong() -> None:
    assert [each.setting for each in wrong_settings({})] == ["GATEPOST_API_KEY", "GATEPOST_SERVER_URL"]


def test_a_key_that_is_wrong_is_not_shown() -> None:
    (wrong,) = wrong_settings({"MANAGECOMMAND_API_KEY": "s3cret", "GATEPOST_SERVER_URL": "https://a.example"})
    assert wrong.setting == "MANAGECOMMAND_API_KEY"
    assert "s3cret" not in wrong.message + wrong.hint


@pytest.mark.parametrize("url", ["https://a.example", "http://localhost:8000", "http://[::1]:8000"])
def test_addresses_that_are_right(url: str) -> None:
    assert wrong_settings(KEY | {"GATEPOST_SERVER_URL": url}) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example",
        "http://localhost.a.example",
        "http://localhost@a.example",
        "ftp://x",
        "",
        "http://[",
        "https://",
    ],
)
def test_addresses_that_are_wrong(url: str) -> None:
    assert len(wrong_settings(KEY | {"GATEPOST_SERVER_URL": url})) == 1


def test_http_to_a_host_that_the_project_trusts() -> None:
    trusted = {"GATEPOST_SERVER_URL": "http://gate:8000", "GATEPOST_ALLOW_HTTP_HOSTS": ["gate"]}
    assert wrong_settings(KEY | trusted) == []
