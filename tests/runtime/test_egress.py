"""The way out for commands, as an operator configures it, and what is recorded of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from backend.core.audit.events import Kind
from backend.core.decisions import Decision, Risk
from backend.core.errors import StorageError
from backend.core.execution.model import Actor
from backend.executors.local.egress import Caller, Connection
from backend.runtime.egress import CA_VARIABLES, command_environment, egress_proxies, record
from backend.runtime.settings import Settings, SettingsError, env_names, load_settings

CALLER = Caller("01ARZ3NDEKTSV4RRFFQ69G5FAV", Actor("user:ann", "10.0.0.1"))
LISTED = Decision(True, "network.listed", Risk.MODERATE, "The host is listed.")
REFUSED = Decision.deny("network.host", "It is not listed.")
CONNECTION = Connection("shop", CALLER, "x.example", 443, LISTED)
PROXY_VARIABLES = ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in (*env_names(), *PROXY_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


class Log:
    """Keeps what is recorded, or cannot."""

    def __init__(self, works: bool = True) -> None:
        self.works = works
        self.events: list[tuple[Kind, str, str, Mapping[str, Any]]] = []

    async def record(self, kind: Kind, actor: str, address: str, fields: Mapping[str, Any]) -> None:
        if not self.works:
            raise StorageError("The disk is full.")
        self.events.append((kind, actor, address, fields))


@pytest.mark.parametrize(
    ("connection", "kind", "actor", "fields"),
    [
        (CONNECTION, "connection_opened", CALLER.actor, {"execution": CALLER.execution, "sent": None, "reason": None}),
        (
            Connection("shop", CALLER, "x.example", 443, LISTED, (5, 0)),
            "connection_closed",
            CALLER.actor,
            {"sent": 5, "received": 0},
        ),
        (
            Connection("shop", None, "x.example", 443, REFUSED),
            "connection_refused",
            Actor("gatepost", ""),
            {"execution": None, "rule": "network.host", "reason": "It is not listed."},
        ),
    ],
)
async def test_each_connection_is_an_event(connection: Connection, kind: str, actor: Actor, fields: Any) -> None:
    log = Log()
    assert await record(log, connection)
    [(recorded, name, address, found)] = log.events
    assert (recorded, name, address) == (kind, actor.name, actor.address)
    assert {"project": "shop", "host": "x.example", "port": 443, **fields}.items() <= found.items()


async def test_what_is_no_name_takes_no_more_than_a_name() -> None:
    log = Log()
    await record(log, Connection("shop", None, "x" * 16_000, 443, REFUSED))
    assert log.events[0][3]["host"] == "x" * 253


async def test_one_that_cannot_be_recorded_is_said_so() -> None:
    assert not await record(Log(works=False), CONNECTION)


class TestSettings:
    def test_the_proxy_of_the_machine_is_used(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert egress_proxies(load_settings(), Log()).upstream is None
        monkeypatch.setenv("https_proxy", "http://me:canary-password@proxy.example:3128")
        monkeypatch.setenv("NO_PROXY", ".inside.example")
        upstream = egress_proxies(load_settings(), Log()).upstream
        assert upstream
        assert (upstream.host, upstream.port, upstream.spares("x.inside.example")) == ("proxy.example", 3128, True)
        assert "canary" not in repr(upstream)
        assert "canary-password" in load_settings().masked_values

    def test_one_that_cannot_be_used_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HTTPS_PROXY", "socks5://me:canary@proxy.example")
        with pytest.raises(SettingsError, match="HTTPS_PROXY: must be a proxy such as") as raised:
            egress_proxies(load_settings(), Log())
        assert "canary" not in str(raised.value)

    def test_certificates_and_listed_variables_reach_commands(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        assert command_environment(load_settings()) == {}
        (tmp_path / "ca.pem").write_text("")
        monkeypatch.setenv("npm_config_registry", "https://registry.example/")
        monkeypatch.setenv("GATEPOST_CA_BUNDLE", "ca.pem")
        monkeypatch.setenv("GATEPOST_COMMAND_ENVIRONMENT", "npm_config_registry, PIP_CERT, UNSET")
        monkeypatch.setenv("PIP_CERT", "/etc/pip.pem")  # named by the operator, so it is the one that is used
        assert command_environment(load_settings()) == {
            **dict.fromkeys(CA_VARIABLES, str(tmp_path / "ca.pem")),
            "npm_config_registry": "https://registry.example/",
            "PIP_CERT": "/etc/pip.pem",
        }

    @pytest.mark.parametrize(
        "name",
        [
            *("GATEPOST_SECRET_KEY", "GATEPOST_ACCESS_TOKEN", "DATABASE_URL", "REDIS_URL", "ANTHROPIC_API_KEY"),
            *("GROQ_API_KEY", "COCKPIT_SHARED_SECRET", "GATEPOST_ANYTHING", "PATH", "HOME", "a=b", "1A"),
        ],
    )
    def test_no_secret_of_the_service_does(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEPOST_COMMAND_ENVIRONMENT", f"LANG,{name}")
        with pytest.raises(SettingsError, match="GATEPOST_COMMAND_ENVIRONMENT"):
            load_settings()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("GATEPOST_EGRESS", "https://x.example"),
            ("GATEPOST_CA_BUNDLE", "missing.pem"),
            ("GATEPOST_COMMAND_HOME", "missing"),
        ],
    )
    def test_what_cannot_be_used_is_named(self, name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, value)
        with pytest.raises(SettingsError, match=name):
            load_settings()

    def test_a_list_is_stored_in_one_form(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GATEPOST_EGRESS", "X.Example., *.y.example:443,x.example")
        assert load_settings().egress == ("x.example", "*.y.example:443")
        assert Settings.model_fields["egress"].default == ()  # the repository names no registry
