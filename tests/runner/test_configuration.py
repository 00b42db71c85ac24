"""The settings of a runner."""

import pytest

from gatepost_django.configuration import Configuration, Found, find, foreign_names, read_configuration, wrong_settings

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
        "https://a.example:port",
        "https://a.example:99999",
        "https://a example",
        "https://a.example\nb",
    ],
)
def test_addresses_that_are_wrong(url: str) -> None:
    assert len(wrong_settings(KEY | {"GATEPOST_SERVER_URL": url})) == 1


def test_http_to_a_host_that_the_project_trusts() -> None:
    trusted = {"GATEPOST_SERVER_URL": "http://gate:8000", "GATEPOST_ALLOW_HTTP_HOSTS": ["gate"]}
    assert wrong_settings(KEY | trusted) == []


RIGHT = KEY | {"GATEPOST_SERVER_URL": "https://a.example/gate/"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HEARTBEAT_INTERVAL", 4),
        ("HEARTBEAT_INTERVAL", "30"),
        ("HEARTBEAT_INTERVAL", True),
        ("REQUEST_TIMEOUT", float("nan")),
        ("MAX_RETRIES", -1),
        ("MAX_RETRIES", 1.5),
        ("ALLOW_HTTP_HOSTS", "localhost"),
        ("ALLOWED_COMMANDS", ("migrate")),
        ("ALLOWED_COMMANDS", (("migrate",), "check")),
        ("DISALLOWED_COMMANDS", None),
        ("METADATAONLY_COMMANDS", "dumpdata"),
        ("USE_BLOCKLIST", "no"),
        ("STATE_DIR", "state"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_a_hint(name: str, value: object) -> None:
    for prefix in ("GATEPOST_", "MANAGECOMMAND_"):
        (wrong,) = wrong_settings(RIGHT | {prefix + name: value})
        assert (wrong.setting, bool(wrong.hint)) == (prefix + name, True)
        assert wrong.setting in wrong.message


def test_defaults_are_those_of_the_published_runners() -> None:
    found = read_configuration(RIGHT)
    assert isinstance(found, Configuration)
    assert found.server_url == "https://a.example/gate"
    assert (found.heartbeat_interval, found.request_timeout, found.max_retries) == (30, 30, 3)
    assert found.metadata_only == {"dumpdata"}
    assert not found.commands.blocklist


def test_a_project_of_a_published_runner_changes_its_server() -> None:
    old = {
        "DJANGOCOMMAND_API_KEY": "dc_x",
        "DJANGOCOMMAND_ALLOWED_COMMANDS": [],
        "DJANGOCOMMAND_SERVER_URL": "http://[::1]",
    }
    found = read_configuration(old)
    assert isinstance(found, Configuration)
    assert found.commands.allowed == ()
    assert foreign_names(old) == ["DJANGOCOMMAND_API_KEY", "DJANGOCOMMAND_SERVER_URL", "DJANGOCOMMAND_ALLOWED_COMMANDS"]
    assert foreign_names(RIGHT) == []


def test_a_server_with_a_password_in_its_address_is_refused() -> None:
    (wrong,) = wrong_settings(KEY | {"GATEPOST_SERVER_URL": "https://ann:s3cret@a.example"})
    assert "s3cret" not in wrong.message + wrong.hint
