"""Settings: defaults, named refusals, secrets."""

from pathlib import Path

import pytest

from backend.runtime.settings import Settings, SettingsError, env_names, load_settings


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in env_names():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_defaults_need_no_configuration() -> None:
    settings = load_settings()
    assert (settings.host, settings.port, settings.profile, settings.token) == ("127.0.0.1", 8000, "terminal", None)
    assert settings.workspace_dir == Path.cwd() / "data/workspace"


def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in env_names():
        monkeypatch.setenv(name, "")
    assert load_settings() == Settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "eighty"),
        ("PORT", "70000"),
        ("GATEPOST_COMMAND_RATE", "often"),
        ("GATEPOST_HTTP_RATE", "0/minute"),
        ("GATEPOST_COMMAND_TIMEOUT", "0"),
        ("GATEPOST_OUTPUT_LIMIT", "-1"),
        ("GATEPOST_METRICS", "perhaps"),
        ("TRUSTED_PROXY_HOPS", "-1"),
        ("LOG_LEVEL", "loud"),
        ("PYGUARD_COMMAND", "python3 'x"),
        ("GATEPOST_ACCESS_TOKEN", "short-secret"),
        ("GATEPOST_ACCESS_TOKEN_FILE", "/no/such/file"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert name in str(raised.value)
    assert "short-secret" not in str(raised.value)
    assert "Value error" not in str(raised.value)


@pytest.mark.parametrize("name", ["GATEPOST_WORKSPACE", "GATEPOST_READABLE"])
@pytest.mark.parametrize("folder", [".", "data", "/", "link", "elsewhere/.."])
def test_a_folder_that_holds_the_data_folder_is_refused(
    name: str, folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv(name, folder)
    with pytest.raises(SettingsError, match=f"{name}: {folder} contains the data folder"):
        load_settings()
    assert load_settings(data_dir="/srv/gatepost") if folder != "/" else True


def test_a_folder_beside_or_in_the_data_folder_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEPOST_READABLE", "data/shared, elsewhere, dat")
    monkeypatch.setenv("GATEPOST_WORKSPACE", "data/mine")
    assert load_settings().readable == ("data/shared", "elsewhere", "dat")


def test_origins_are_a_list_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEPOST_ALLOWED_ORIGINS", "https://a.test, https://b.test,")
    assert load_settings().allowed_origins == ("https://a.test", "https://b.test")


def test_the_token_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a token from a file\n")
    monkeypatch.setenv("GATEPOST_ACCESS_TOKEN_FILE", str(tmp_path / "token"))
    assert load_settings().token == "a token from a file"


def test_a_dot_env_file_is_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("GATEPOST_COMMAND_TIMEOUT=7\nSOMETHING_ELSE=1\n")
    assert load_settings().command_timeout == 7


def test_a_dot_env_file_in_backend_is_read_and_yields_to_the_other(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend/.env").write_text("GATEPOST_COMMAND_TIMEOUT=7\nGATEPOST_DETACH_GRACE=8\n")
    (tmp_path / ".env").write_text("GATEPOST_COMMAND_TIMEOUT=9\n")
    assert (load_settings().command_timeout, load_settings().detach_grace) == (9, 8)


def test_the_environment_comes_before_the_files_and_what_is_given_before_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("PORT=1\nGATEPOST_HOST=of-the-file\ngatepost_profile=lower\nLOG_LEVEL=debug\n")
    monkeypatch.setenv("PORT", "2")
    monkeypatch.setenv("gatepost_host", "in-lower-case")
    monkeypatch.setenv("LOG_LEVEL", "")  # the default
    settings = load_settings(port=3)
    assert (load_settings().port, settings.port) == (2, 3)
    assert (settings.host, settings.profile, settings.log_level) == ("in-lower-case", "lower", "info")


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "canary-key")
    monkeypatch.setenv("GATEPOST_ACCESS_TOKEN", "canary-token-long")
    assert "canary" not in repr(load_settings())


def test_a_variable_of_an_outside_program_is_found_in_both_files_and_masked(tmp_path: Path) -> None:
    (tmp_path / "backend").mkdir()
    (tmp_path / "backend/.env").write_text("REVIEW_KEY=of-the-earlier-file\nOTHER_KEY=only-there\n")
    (tmp_path / ".env").write_text("REVIEW_KEY=of-the-later-file\nGATEPOST_MASKED_NAMES=REVIEW_KEY,OTHER_KEY\n")
    settings = load_settings()
    assert (settings.variable("REVIEW_KEY"), settings.variable("OTHER_KEY")) == ("of-the-later-file", "only-there")
    assert {"of-the-later-file", "only-there"} <= set(settings.masked_values)
