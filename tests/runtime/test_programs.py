"""The table of outside programs: what it says, and what it refuses."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from backend.core.policy.profile import MissingVariables
from backend.executors.local.process_spec import Ports
from backend.runtime.programs import OutsidePrograms, outside_programs
from backend.runtime.settings import Settings, SettingsError

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ANTHROPIC_API_KEY", "GROQ_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def table(text: str, **values: Any) -> OutsidePrograms:
    file = Path("programs.toml")
    file.write_text(text)
    return outside_programs(Settings(programs=file, **values))


def short(**values: Any) -> OutsidePrograms:
    return outside_programs(Settings(**values))


def test_pyguard_is_an_entry_like_any_other() -> None:
    program = short(pyguard_command="python3 -P '/opt/my guard.py'").programs["pyguard"]
    assert program.command == ("python3", "-P", "/opt/my guard.py")
    assert (program.ports, program.home) == (Ports((443,), names=True), "private")


def test_the_page_shows_what_pyguard_stands_for() -> None:
    page = (ROOT / "docs/settings.md").read_text()
    for block in re.findall(r"^```toml\n(.*?)^```", page, re.S | re.M):
        Path("programs.toml").write_text(block)
        [(name, program)] = {name: table(block).programs[name] for name in tomllib.loads(block)}.items()
        assert name == "review" or program == short().programs["pyguard"]
    assert "[review]" in page


def test_values_come_from_the_environment_or_the_env_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST", "value of the first")
    Path(".env").write_text("SECOND=value of the second\nFIRST=another\n")
    found = table('[tool]\ncommand = ["tool"]\nenvironment = ["FIRST", "UNSET"]\nrequired = ["SECOND"]')
    assert found.environment("tool") == {"FIRST": "value of the first", "SECOND": "value of the second"}
    assert {"value of the first", "value of the second"} <= set(found.secrets)


def test_keys_of_the_settings_reach_pyguard() -> None:
    found = short(anthropic_api_key="first", groq_api_key="second")
    assert found.environment("pyguard") == {"ANTHROPIC_API_KEY": "first", "GROQ_API_KEY": "second"}
    assert found.missing == {}


def test_what_is_required_and_not_set_is_missing() -> None:
    assert short(groq_api_key="second").missing == {
        "pyguard": MissingVariables(("ANTHROPIC_API_KEY",), ("fix", "analyze"))
    }
    found = table('[tool]\ncommand = ["tool"]\nrequired = ["FIRST_KEY", "SECOND_KEY"]')
    assert found.missing["tool"] == MissingVariables(("FIRST_KEY", "SECOND_KEY"))


def test_a_module_is_not_searched_for_in_the_workspace() -> None:
    found = table('[tool]\ncommand = ["python3", "-m", "tool"]\n[other]\ncommand = ["python3", "/opt/x.py"]')
    assert found.environment("tool") == {"PYTHONSAFEPATH": "1"}
    assert found.environment("other") == {}


@pytest.mark.parametrize(
    ("network", "ports"),
    [
        ([], None),
        (["127.0.0.1:8443", "[::1]:443"], Ports((443, 8443))),
        (["api.example.org:443", "localhost:443"], Ports((443,), names=True)),
        (["*:443"], Ports((443,), names=True)),
    ],
)
def test_hosts_are_ports_and_names(network: list[str], ports: Ports | None) -> None:
    assert table(f'[tool]\ncommand = ["tool"]\nnetwork = {network}').programs["tool"].ports == ports


def test_none_is_no_network() -> None:
    assert short(pyguard_network="none").programs["pyguard"].ports is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[tool", "Expected"),
        ('tool = "x"', "tool: "),
        ("[tool]", "tool.command: Field required"),
        ("[tool]\ncommand = []", "tool.command: "),
        ('[tool]\ncommand = "tool --flag"', "tool.command: Input should be a valid list"),
        ("[tool]\ncommand = [1]", "tool.command.0: Input should be a valid string"),
        ('[tool]\ncommand = ["bin/tool"]', "tool.command: 'bin/tool' is neither"),
        ('[tool]\ncommand = ["a\\u0000b"]', "tool.command: a NUL"),
        ('[tool]\ncommand = ["tool"]\nkeys = []', "tool.keys: Extra inputs are not permitted"),
        ('[tool]\ncommand = ["tool"]\nenvironment = ["A=b"]', "tool.environment.0: 'A=b' is not the name"),
        ('[tool]\ncommand = ["tool"]\nenvironment = ["DATABASE_URL"]', "tool.environment.0: DATABASE_URL is reserved"),
        ('[tool]\ncommand = ["tool"]\nrequired = ["GATEPOST_SECRET_KEY"]', "tool.required.0: GATEPOST_SECRET_KEY is"),
        ('[tool]\ncommand = ["tool"]\nnetwork = ["example.org"]', "tool.network.0: 'example.org' is not HOST:PORT"),
        ('[tool]\ncommand = ["tool"]\nnetwork = ["example.org:0"]', "tool.network.0: "),
        ('[tool]\ncommand = ["tool"]\nnetwork = ["example.org:65536"]', "tool.network.0: "),
        ('[tool]\ncommand = ["tool"]\nnetwork = ["a b:443"]', "tool.network.0: 'a b' is not the name"),
        ('[tool]\ncommand = ["tool"]\nnetwork = ["https://example.org:443"]', "tool.network.0: 'https://example.org'"),
        ('[tool]\ncommand = ["tool"]\nnetwork = ["::1:443"]', "tool.network.0: '::1' is not the name"),
        ('[tool]\ncommand = ["tool"]\nnetwork = ["1.2.3.999:443"]', "tool.network.0: "),
        ('[tool]\ncommand = ["tool"]\nreadable = ["opt"]', "tool.readable.0: 'opt' is not an absolute path"),
        ('[tool]\ncommand = ["tool"]\nhome = "elsewhere"', "tool.home: Input should be 'private' or 'workspace'"),
        ('["../tool"]\ncommand = ["tool"]', "../tool: this is not the plain name"),
        ('[help]\ncommand = ["tool"]', "help: Gatepost answers this command itself"),
    ],
)
def test_a_mistake_is_named_with_its_file_program_and_field(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as raised:
        table(text)
    assert str(raised.value).startswith(f"GATEPOST_PROGRAMS: programs.toml: {message}")


def test_a_misplaced_key_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as raised:
        table('[tool]\ncommand = ["tool"]\nANTHROPIC_API_KEY = "canary"')
    assert "tool.ANTHROPIC_API_KEY" in str(raised.value)
    assert "canary" not in str(raised.value)


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SettingsError, match=r"GATEPOST_PROGRAMS: nowhere\.toml: No such file"):
        outside_programs(Settings(programs="nowhere.toml"))
    Path("binary.toml").write_bytes(b"\xff")
    with pytest.raises(SettingsError, match=r"GATEPOST_PROGRAMS: binary\.toml: "):
        outside_programs(Settings(programs="binary.toml"))


def test_pyguard_is_described_in_one_place() -> None:
    with pytest.raises(SettingsError, match=r"PYGUARD_NETWORK: pyguard is in programs\.toml too"):
        table('[pyguard]\ncommand = ["guard"]', pyguard_network="none")
    assert table('[pyguard]\ncommand = ["guard"]').programs["pyguard"].required == ()


@pytest.mark.parametrize("command", ["./guard", " "])
def test_a_short_form_that_cannot_be_used_is_named(command: str) -> None:
    with pytest.raises(SettingsError, match=r"^PYGUARD_COMMAND: "):
        short(pyguard_command=command)


@pytest.mark.parametrize("line", ["command = ['{place}/tool']", "command = ['x']\nreadable = ['{place}']"])
def test_the_data_folder_is_in_none_that_a_program_reads(line: str, tmp_path: Path) -> None:
    (tmp_path / "tool").touch(mode=0o755)
    with pytest.raises(SettingsError, match=r"GATEPOST_PROGRAMS: programs\.toml: tool: .* contains the data folder"):
        table(f"[tool]\n{line.format(place=tmp_path)}")
