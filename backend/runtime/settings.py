"""The settings: the only reader of the environment. An invalid value prevents startup, and the error names it.

Values come from the environment, then from `.env`, then from `backend/.env`, both in the current folder. The table in
docs/settings.md lists every setting; a test compares it with this class.
"""

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from backend.core.dataclasses import dataclass
from backend.core.identity import LONGEST_PASSWORD, SHORTEST_PASSWORD
from backend.core.limits import Rate
from backend.core.notifications.model import EMAIL
from backend.core.policy.egress import Host, parse_hosts

ORIGIN = re.compile(r"(?:[a-z][a-z0-9+.-]*://[^/\s*@]+/?|null)", re.I)
SHORTEST_TOKEN = 16
SHORTEST_KEY = 32
VARIABLE = re.compile("[A-Za-z_][A-Za-z0-9_]*")
# What Gatepost sets itself, and its own secrets.
RESERVED = re.compile("GATEPOST_.*|DATABASE_URL|REDIS_URL|PATH|PWD|HOME|TMPDIR")
UID, NO_UID = re.compile("[0-9]{1,10}"), (1 << 32) - 1
HOST_NAME = re.compile(
    r"\*|(?=.*[a-zA-Z])[a-zA-Z0-9_](?:[a-zA-Z0-9_-]*[a-zA-Z0-9_])?(?:\.[a-zA-Z0-9_](?:[a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*"
)
URL_SCHEMES = {
    "database_url": ("postgres", "postgresql", "postgresql+asyncpg", "sqlite", "sqlite+aiosqlite"),
    "redis_url": ("redis", "rediss", "redis+unix"),
}


class SettingsError(Exception):
    """The environment contains an invalid value; the message names the variable."""


def data_exposed(data_dir: Path, folders: Sequence[tuple[str, str | Path]]) -> str:
    """The problem with the first of the named folders that contains the data folder; empty when none does.

    Commands may read the named folders. Links are followed, as the kernel does when it opens a folder to commands.
    """
    data = Path(os.path.realpath(data_dir))
    for name, folder in folders:
        if data.is_relative_to(os.path.realpath(folder)):
            return f"{name}: {folder} contains the data folder, which commands must not read"
    return ""


ENV_FILES = ("backend/.env", ".env")  # the later one wins


class EnvironmentSettings(BaseModel):
    """Settings whose aliases are the names of variables."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _empty_is_default(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """An empty variable means the default, as in a .env file with the value left out."""
        return {name: value for name, value in values.items() if value != ""}


AnySettings = TypeVar("AnySettings", bound=EnvironmentSettings)


def split_commas(value: Any) -> Any:
    """The entries of a list; a value that is no text is one already."""
    return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value


class Settings(EnvironmentSettings):
    """What an operator can configure. The aliases are the names in the environment."""

    host: str = Field("127.0.0.1", alias="GATEPOST_HOST", description="Address that `serve` listens on")
    port: int = Field(8000, alias="PORT", ge=0, le=65535, description="Port that `serve` listens on")
    data_dir: Path = Field(
        Path("data"), alias="GATEPOST_DATA_DIR", description="Folder for the database, keys, recordings and workspaces"
    )
    database_url: SecretStr | None = Field(
        None, alias="DATABASE_URL", description="PostgreSQL URL. Empty: a SQLite file in the data folder"
    )
    redis_url: SecretStr | None = Field(
        None,
        alias="REDIS_URL",
        description="Redis URL for state shared between servers (rate limits, bus). Empty: each server keeps its own",
    )
    workspace: Path | None = Field(
        None,
        alias="GATEPOST_WORKSPACE",
        description="Folder in which commands run. Empty: `workspace` in the data folder",
    )
    profile: str = Field(
        "terminal",
        alias="GATEPOST_PROFILE",
        description="Policy profile of visitors: its name or the path of a TOML file",
    )
    profiles: Path | None = Field(
        None,
        alias="GATEPOST_PROFILES",
        description="Folder of policy profiles, NAME.toml each, in addition to the shipped ones",
    )
    access_token: SecretStr | None = Field(
        None,
        alias="GATEPOST_ACCESS_TOKEN",
        description="Shared token that anonymous visitors must present. Empty: no token is required",
    )
    access_token_file: Path | None = Field(
        None, alias="GATEPOST_ACCESS_TOKEN_FILE", description="File that contains the access token"
    )
    disk_margin: int = Field(
        64 * 2**20,
        alias="GATEPOST_DISK_MARGIN",
        ge=0,
        description="Free bytes required on the disk of the data folder; with less, no command runs",
    )
    workspace_limit: int = Field(
        2 * 2**30,
        alias="GATEPOST_WORKSPACE_LIMIT",
        ge=0,
        description="Bytes a workspace may hold. 0 disables this limit and the file-count limit",
    )
    workspace_files: int = Field(
        200_000,
        alias="GATEPOST_WORKSPACE_FILES",
        ge=1,
        description="Files, folders and links a workspace may hold",
    )
    visitors: bool = Field(
        True, alias="GATEPOST_VISITORS", description="Whether the terminal accepts commands without an account"
    )
    secret_key: SecretStr | None = Field(
        None,
        alias="GATEPOST_SECRET_KEY",
        description="Key that signs the access tokens of accounts, at least 32 bytes. Empty: one is generated in the data folder",
    )
    admin_password_file: Path | None = Field(
        None,
        alias="GATEPOST_ADMIN_PASSWORD_FILE",
        description="File that contains the password of the first administrator. Empty: the log shows a login link",
    )
    token_lifetime: int = Field(
        3600, alias="GATEPOST_TOKEN_LIFETIME", ge=60, le=86400, description="Seconds an access token is valid"
    )
    allowed_origins: tuple[str, ...] = Field(
        (),
        alias="GATEPOST_ALLOWED_ORIGINS",
        description="Additional origins whose pages may connect and read `/` and `/health`, separated by commas",
    )
    command_rate: str = Field(
        "10/5 minutes", alias="GATEPOST_COMMAND_RATE", description="Command rate of each connection and of each address"
    )
    user_rate: str = Field("30/minute", alias="GATEPOST_USER_RATE", description="Command rate of each account")
    schedules_per_account: int = Field(
        50, alias="GATEPOST_SCHEDULES_PER_ACCOUNT", ge=0, description="Schedules an account may have. 0: none"
    )
    notifications_per_account: int = Field(
        20, alias="GATEPOST_NOTIFICATIONS_PER_ACCOUNT", ge=0, description="Notifications an account may have. 0: none"
    )
    notify_hosts: str = Field(
        "",
        alias="GATEPOST_NOTIFY_HOSTS",
        description="Private addresses that webhooks may be sent to, such as 10.1.2.3:8443 or 10.1.0.0/16:443, separated by commas",
    )
    smtp_url: SecretStr | None = Field(
        None,
        alias="GATEPOST_SMTP_URL",
        description="Mail server of notifications: `smtp://HOST:587`, `smtps://HOST` or, without encryption, `smtp+plain://HOST:25`, with the user and the password before the host as in any URL. Empty: no e-mail",
    )
    smtp_from: str = Field(
        "gatepost@localhost", alias="GATEPOST_SMTP_FROM", description="Address that e-mail of notifications comes from"
    )
    schedule_interval: int = Field(
        60,
        alias="GATEPOST_SCHEDULE_INTERVAL",
        ge=60,
        le=86400,
        description="Shortest interval at which a schedule may be due, in seconds",
    )
    check_rate: str = Field(
        "60/5 minutes",
        alias="GATEPOST_CHECK_RATE",
        description="Rate of checks, which run nothing, of each connection, of each address and of each account",
    )
    api_rate: str = Field("600/minute", alias="GATEPOST_API_RATE", description="Rate of API requests of each account")
    http_rate: str = Field(
        "120/minute", alias="GATEPOST_HTTP_RATE", description="Rate of HTTP requests of each address"
    )
    command_timeout: float = Field(
        60,
        alias="GATEPOST_COMMAND_TIMEOUT",
        gt=0,
        description="Seconds a command may run unless the request sets a timeout",
    )
    longest_timeout: float = Field(
        300, alias="GATEPOST_LONGEST_TIMEOUT", gt=0, description="Longest timeout an account may request, in seconds"
    )
    memory_limit: int = Field(
        2 * 2**30,
        alias="GATEPOST_MEMORY_LIMIT",
        ge=64 * 2**20,
        description="Bytes of memory a command may use; three quarters of it are the heap of node",
    )
    process_limit: int = Field(
        256, alias="GATEPOST_PROCESS_LIMIT", ge=8, description="Processes and threads a command may have at once"
    )
    cpu_limit: int = Field(
        600, alias="GATEPOST_CPU_LIMIT", ge=1, description="Seconds of processor time each process of a command may use"
    )
    file_size_limit: int = Field(
        2**30,
        alias="GATEPOST_FILE_SIZE_LIMIT",
        ge=2**20,
        description="Bytes of the largest file a command may write",
    )
    output_limit: int = Field(
        10 * 2**20,
        alias="GATEPOST_OUTPUT_LIMIT",
        ge=1024,
        description="Bytes of output a command may write before it is stopped",
    )
    concurrent_per_principal: int = Field(
        4,
        alias="GATEPOST_CONCURRENT_PER_PRINCIPAL",
        ge=1,
        description="Concurrent commands of each connection or account",
    )
    concurrent_total: int = Field(
        32, alias="GATEPOST_CONCURRENT_TOTAL", ge=1, description="Concurrent commands in total"
    )
    accounts_share: int = Field(
        25,
        alias="GATEPOST_ACCOUNTS_SHARE",
        ge=0,
        le=90,
        description="Percentage of the concurrent commands and terminal connections that visitors leave to accounts",
    )
    detach_grace: float = Field(
        60, alias="GATEPOST_DETACH_GRACE", ge=0, description="Seconds a command keeps running without a viewer"
    )
    retention_days: float = Field(
        30, alias="GATEPOST_RETENTION_DAYS", gt=0, description="Days before a recording is deleted"
    )
    retention_bytes: int = Field(
        2**30,
        alias="GATEPOST_RETENTION_BYTES",
        ge=0,
        description="Total bytes of recordings; above it the oldest of the account with the most are deleted",
    )
    history_days: float = Field(
        365, alias="GATEPOST_HISTORY_DAYS", gt=0, description="Days an execution stays in the history"
    )
    audit_days: float = Field(
        0, alias="GATEPOST_AUDIT_DAYS", ge=0, description="Days an event stays in the audit. 0: forever"
    )
    masked_names: tuple[str, ...] = Field(
        (),
        alias="GATEPOST_MASKED_NAMES",
        description="Environment variables whose values are masked in output, audit and logs, separated by commas",
    )
    masked_patterns: tuple[str, ...] = Field(
        (),
        alias="GATEPOST_MASKED_PATTERNS",
        description="Regular expressions for additional text to mask, one per line",
    )
    raw_output: bool = Field(
        False,
        alias="GATEPOST_RAW_OUTPUT",
        description="Whether recordings contain terminal control sequences; viewers always get filtered output",
    )
    run_as: str = Field(
        "nobody", alias="GATEPOST_RUN_AS", description="User that runs the commands when the service runs as root"
    )
    workspace_uids: str = Field(
        "2000000000-2000065535",
        alias="GATEPOST_WORKSPACE_UIDS",
        description="Users, by number, of the workspaces of accounts and projects, each its own, when the service runs as "
        "root. Empty: all are those of GATEPOST_RUN_AS",
    )
    protection_minimum: Literal["L0", "L1", "L2", "L3"] = Field(
        "L2", alias="GATEPOST_PROTECTION_MINIMUM", description="Minimum protection level; below it no command runs"
    )
    namespaces: Literal["auto", "true", "false"] = Field(
        "auto",
        alias="GATEPOST_NAMESPACES",
        description="Whether commands run in namespaces of their project (L3). `auto`: where the kernel permits it",
    )
    readable: tuple[str, ...] = Field(
        (),
        alias="GATEPOST_READABLE",
        description="Additional folders that commands may read and run programs from, separated by commas",
    )
    egress: tuple[str, ...] = Field(
        (),
        alias="GATEPOST_EGRESS",
        description="Hosts that commands of new projects may reach, separated by commas: `registry.example.org:443`, "
        "`*.example.org`. Needs L3. Empty: their network is off",
    )
    ca_bundle: Path | None = Field(
        None,
        alias="GATEPOST_CA_BUNDLE",
        description="File of the certificates that git, node, curl, pip and others trust in commands. Empty: the system's",
    )
    command_environment: tuple[str, ...] = Field(
        (),
        alias="GATEPOST_COMMAND_ENVIRONMENT",
        description="Variables of the service that all commands get, separated by commas. Secrets of Gatepost are refused",
    )
    command_home: Path | None = Field(
        None,
        alias="GATEPOST_COMMAND_HOME",
        description="Folder whose content each home of commands begins with, such as `.npmrc`",
    )
    connections_per_address: int = Field(
        20,
        alias="GATEPOST_CONNECTIONS_PER_ADDRESS",
        ge=1,
        description="Concurrent terminal connections from one address",
    )
    connections_total: int = Field(
        1000, alias="GATEPOST_CONNECTIONS_TOTAL", ge=1, description="Concurrent terminal connections in total"
    )
    visitor_idle: float = Field(
        300,
        alias="GATEPOST_VISITOR_IDLE",
        gt=0,
        description="Seconds without a command after which a visitor is disconnected while half of the places for visitors are taken",
    )
    http_connections_per_address: int = Field(
        100,
        alias="GATEPOST_HTTP_CONNECTIONS_PER_ADDRESS",
        ge=1,
        description="Concurrent HTTP connections from one address, in addition to its terminal connections. Not limited behind proxies",
    )
    host_names: tuple[str, ...] = Field(
        (),
        alias="GATEPOST_HOST_NAMES",
        description="Host names by which browsers reach the server, in addition to those of the machine, separated by commas",
    )
    trusted_proxy_hops: int = Field(
        0,
        alias="TRUSTED_PROXY_HOPS",
        ge=0,
        description="Number of trusted reverse proxies in front of the server",
    )
    metrics: bool = Field(True, alias="GATEPOST_METRICS", description="Whether /metrics is served")
    compression: bool = Field(
        False,
        alias="GATEPOST_COMPRESSION",
        description="Whether `serve` offers permessage-deflate, which doubles the memory of a socket",
    )
    log_level: str = Field("info", alias="LOG_LEVEL", description="Log level: debug, info, warning or error")
    programs: Path | None = Field(
        None,
        alias="GATEPOST_PROGRAMS",
        description="TOML file that lists outside programs: command line, variables, network, folders, home",
    )
    pyguard_command: str = Field("pyguard", alias="PYGUARD_COMMAND", description="Command line that runs for `pyguard`")
    pyguard_network: str = Field(
        "api.anthropic.com:443,api.groq.com:443",
        alias="PYGUARD_NETWORK",
        description="Hosts and ports that pyguard may connect to, separated by commas, or `none`",
    )
    anthropic_api_key: SecretStr | None = Field(
        None, alias="ANTHROPIC_API_KEY", description="API key passed to pyguard, which needs it for `fix` and `analyze`"
    )
    groq_api_key: SecretStr | None = Field(None, alias="GROQ_API_KEY", description="Further API key passed to pyguard")
    cockpit_shared_secret: SecretStr | None = Field(
        None,
        alias="COCKPIT_SHARED_SECRET",
        description="Secret that signs commands for hosts and their answers over Redis",
    )
    allow_unsigned_hosts: bool = Field(
        False,
        alias="GATEPOST_ALLOW_UNSIGNED_HOSTS",
        description="Whether commands for hosts may be unsigned; any client of Redis can then run them",
    )

    @field_validator(
        "allowed_origins", "host_names", "masked_names", "readable", "egress", "command_environment", mode="before"
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_commas(value)

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """One that no browser sends would never match."""
        for origin in value:
            if not ORIGIN.fullmatch(origin):
                raise ValueError("each must be an origin: https://ops.example.org, with a port if it has one")
        return value

    @field_validator("host_names")
    @classmethod
    def _are_host_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name == "*" or not HOST_NAME.fullmatch(name):
                raise ValueError("each must be the name of a host: gate.example.org, without scheme and port")
        return tuple(name.lower() for name in value)

    @field_validator("egress")
    @classmethod
    def _are_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(str, parse_hosts(" ".join(value))))

    @field_validator("command_environment")
    @classmethod
    def _are_no_secrets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        secrets = {field.alias for field in cls.model_fields.values() if field.annotation == SecretStr | None}
        for name in value:
            if check_variable(name) in secrets:
                raise ValueError(f"{name} is a secret of Gatepost; an outside program can get it (GATEPOST_PROGRAMS)")
        return value

    @field_validator("ca_bundle", "command_home")
    @classmethod
    def _is_there(cls, value: Path | None, info: Any) -> Path | None:
        """A missing one would show as an error of every command."""
        if value and not (value.is_dir() if info.field_name == "command_home" else value.is_file()):
            raise ValueError(f"{value}: there is no such {'folder' if info.field_name == 'command_home' else 'file'}")
        return value and value.absolute()

    @field_validator("masked_patterns", mode="before")
    @classmethod
    def _split_lines(cls, value: Any) -> Any:
        return tuple(filter(None, value.splitlines())) if isinstance(value, str) else value

    @field_validator("masked_patterns")
    @classmethod
    def _are_patterns(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"invalid regular expression: {error}") from error
        return value

    @field_validator("check_rate", "command_rate", "http_rate", "user_rate", "api_rate")
    @classmethod
    def _is_rate(cls, value: str) -> str:
        Rate.parse(value)
        return value

    @field_validator("database_url", "redis_url")
    @classmethod
    def _is_url(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        """Validated here because the message must not contain the value."""
        if value is not None:
            _check_url(value.get_secret_value(), URL_SCHEMES[info.field_name])
        return value

    @field_validator("notify_hosts")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        if any(host.network is None for host in parse_hosts(value)):
            raise ValueError("each must be an address or a range of addresses, with a port if it is not 80 or 443")
        return value

    @field_validator("smtp_url")
    @classmethod
    def _is_mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        """Validated here because the message must not contain the value."""
        if value is not None:
            _check_url(value.get_secret_value(), ("smtp", "smtps", "smtp+plain"))
        return value

    @field_validator("smtp_from")
    @classmethod
    def _is_address(cls, value: str) -> str:
        if not EMAIL.fullmatch(value):
            raise ValueError("must be an e-mail address")
        return value

    @field_validator("pyguard_network")
    @classmethod
    def _is_network(cls, value: str) -> str:
        for entry in pyguard_hosts(value):
            Address.parse(entry)
        return value

    @field_validator("workspace_uids")
    @classmethod
    def _is_range(cls, value: str) -> str:
        uid_range(value)
        return value

    @field_validator("pyguard_command")
    @classmethod
    def _is_command_line(cls, value: str) -> str:
        shlex.split(value)
        return value

    @field_validator("log_level")
    @classmethod
    def _is_level(cls, value: str) -> str:
        if value.lower() not in {"debug", "info", "warning", "error"}:
            raise ValueError("must be debug, info, warning or error")
        return value.lower()

    @model_validator(mode="after")
    def _check_token(self) -> Self:
        token = self.token
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise ValueError(f"GATEPOST_ACCESS_TOKEN must have at least {SHORTEST_TOKEN} characters")
        if self.secret_key and len(self.secret_key.get_secret_value().encode()) < SHORTEST_KEY:
            raise ValueError(f"GATEPOST_SECRET_KEY must have at least {SHORTEST_KEY} bytes")
        return self

    @field_validator("admin_password_file", "access_token_file")
    @classmethod
    def _holds_text(cls, value: Path | None) -> Path | None:
        """Read already now: later, only the first startup would find what is wrong."""
        if value and (problem := _unreadable(value)):
            raise ValueError(f"{value}: {problem}")
        return value

    @field_validator("admin_password_file")
    @classmethod
    def _holds_password(cls, value: Path | None) -> Path | None:
        password = _content(value) if value else None
        if password is not None and not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
            raise ValueError(f"{value}: a password must have {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters")
        return value

    @model_validator(mode="after")
    def _check_folders(self) -> Self:
        workspaces = [("GATEPOST_WORKSPACE", self.workspace)] if self.workspace else []
        readable = [("GATEPOST_READABLE", folder) for folder in self.readable]
        homes = [("GATEPOST_COMMAND_HOME", self.command_home)] if self.command_home else []
        if exposed := data_exposed(self.data_dir, [*workspaces, *readable, *homes]):
            raise ValueError(exposed)
        return self

    @property
    def admin_password(self) -> str | None:
        """The password of the first administrator, if there is a file for it."""
        return _content(self.admin_password_file) if self.admin_password_file else None

    @property
    def token(self) -> str | None:
        """The access token, from the file or from the variable."""
        if self.access_token_file:
            return _content(self.access_token_file)
        return self.access_token.get_secret_value() if self.access_token else None

    @property
    def database(self) -> str | None:
        """The URL of the database in plain text; None for the file in the data folder."""
        return self.database_url.get_secret_value() if self.database_url else None

    @property
    def masked_values(self) -> tuple[str, ...]:
        """The secrets of the service itself and the values of the variables that must be masked."""
        own = (self.secret_key, self.anthropic_api_key, self.groq_api_key, self.cockpit_shared_secret)
        values = [secret.get_secret_value() for secret in own if secret]
        values.append(self.token or "")
        secrets = (self.redis_url, self.smtp_url)
        urls = (self.database, self.proxy, *(each.get_secret_value() for each in secrets if each))
        values += [urlsplit(url).password or "" for url in urls if url]
        values += [value for name in self.masked_names if (value := self.variable(name))]
        return tuple(values)

    def variable(self, name: str) -> str:
        """The value of a variable of the service's environment, or of a `.env` file; empty if it has none."""
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if field.alias == name and isinstance(value, SecretStr):
                return value.get_secret_value()
        found = (_values_in(file).get(name) for file in reversed(ENV_FILES))
        return os.environ.get(name) or next(filter(None, found), "")

    @property
    def proxy(self) -> str:
        """The URL of the machine's own proxy, by which the egress proxy reaches hosts; empty where it has none."""
        return self.variable("HTTPS_PROXY") or self.variable("https_proxy")

    @property
    def notify_addresses(self) -> tuple[Host, ...]:
        """The private addresses that webhooks may be sent to."""
        return parse_hosts(self.notify_hosts)

    @property
    def workspace_dir(self) -> Path:
        """The folder in which commands run, absolute."""
        return (self.workspace or self.data_dir / "workspace").absolute()


def check_variable(name: str) -> str:
    """The name of a variable that commands may get. Raises ValueError."""
    if not VARIABLE.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a variable")
    if RESERVED.fullmatch(name):
        raise ValueError(f"{name} is reserved for Gatepost itself")
    return name


@dataclass(frozen=True, slots=True)
class Address:
    """A host and its port, as an operator writes them: `api.example.org:443`, `127.0.0.1:8443`, `[::1]:8443`, `*:443`."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, which names what was expected."""
        host, _, port = text.rpartition(":")
        if not (port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 1 << 16):
            raise ValueError(f"{text!r} is not HOST:PORT, such as api.example.org:443")
        address = cls(host.removeprefix("[").removesuffix("]"), int(port))
        if not (HOST_NAME.fullmatch(host) or (address.is_number and (":" in address.host) == host.startswith("["))):
            raise ValueError(f"{host!r} is not the name or the address of a host")
        return address

    @property
    def is_number(self) -> bool:
        """Whether it is an IP address, which needs no name service."""
        try:
            ip_address(self.host)
        except ValueError:
            return False
        return True


def uid_range(value: str) -> range:
    """The users of GATEPOST_WORKSPACE_UIDS. Raises ValueError."""
    if not value:
        return range(0)
    first, _, last = value.partition("-")
    if not (UID.fullmatch(first) and UID.fullmatch(last) and 0 < int(first) <= int(last) < NO_UID):
        raise ValueError(f"{value!r} is not FIRST-LAST, such as 200000-265535")
    return range(int(first), int(last) + 1)


def pyguard_hosts(value: str) -> list[str]:
    """The entries of PYGUARD_NETWORK."""
    return [] if value.strip() == "none" else [entry for entry in map(str.strip, value.split(",")) if entry]


def _content(file: Path) -> str:
    """What a file contains, without the line break at its end."""
    return file.read_text().strip()


def _unreadable(file: Path) -> str:
    """Why a file cannot be read as text; empty if it can."""
    try:
        file.read_text(encoding="utf-8")
    except OSError as error:
        return f"{error.strerror}"
    except UnicodeDecodeError:
        return "not text in UTF-8"
    return ""


def _check_url(url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        known = parts.scheme in schemes and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"must be a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}")


def load_settings(**overrides: Any) -> Settings:
    """Read the settings. Raises SettingsError, which names each invalid variable but not its value."""
    for file in filter(Path.is_file, map(Path, ENV_FILES)):
        if problem := _unreadable(file):
            raise SettingsError(f"{file}: {problem}. Settings are read from it; correct or delete it.")
    return read_environment(Settings, overrides)


def read_environment(kind: type[AnySettings], overrides: Mapping[str, Any]) -> AnySettings:
    """Settings of a kind. Raises SettingsError, which names each invalid variable but not its value."""
    given = {kind.model_fields[name].alias: value for name, value in overrides.items()}
    try:
        return kind.model_validate({**_variables(kind), **given})
    except ValidationError as error:
        raise SettingsError("\n".join(map(_fault, error.errors()))) from None


def _fault(error: ErrorDetails) -> str:
    """A variable and what is wrong with it, without the jargon of the library that found it."""
    return f"{'.'.join(map(str, error['loc'])) or 'settings'}: {error['msg'].removeprefix('Value error, ')}"


def _variables(kind: type[EnvironmentSettings]) -> dict[str, str]:
    """Those of the environment and of the .env files, where their names may also be in lower case."""
    sources: list[Mapping[str, str | None]] = [*map(_values_in, ENV_FILES), os.environ]  # the later one wins
    found = {name.lower(): value for source in sources for name, value in source.items()}
    return {name: value for name in env_names(kind) if (value := found.get(name.lower())) is not None}


def _values_in(file: str) -> Mapping[str, str | None]:
    """The variables of a .env file; none where it does not exist."""
    if not os.path.exists(file):
        return {}
    from dotenv import dotenv_values  # most servers have no such file

    return dotenv_values(file)


def env_names(kind: type[EnvironmentSettings] = Settings) -> list[str]:
    """The environment variables of all settings of a kind."""
    return [str(field.alias) for field in kind.model_fields.values()]
