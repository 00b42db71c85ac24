"""The settings of `agent`, in addition to those of the server; their names are those of existing agents."""

import os
import socket
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, field_validator

from backend.core.hosts.naming import is_host_id
from backend.runtime.settings import (
    EnvironmentSettings,
    Settings,
    SettingsError,
    read_environment,
    split_commas,
)


class AgentSettings(EnvironmentSettings):
    """What an operator can configure of the agent of a host. The aliases are the names in the environment."""

    redis_host: str = Field(
        "localhost", alias="REDIS_HOST", description="Host of Redis; REDIS_URL is used instead if set"
    )
    redis_port: int = Field(6379, alias="REDIS_PORT", ge=1, le=65535, description="Port of Redis")
    redis_username: str = Field("", alias="REDIS_USERNAME", description="User of Redis. Empty: the default user")
    redis_password: SecretStr | None = Field(None, alias="REDIS_PASSWORD", description="Password of Redis")
    redis_db: int = Field(0, alias="REDIS_DB", ge=0, description="Number of the database of Redis")
    redis_tls: bool = Field(False, alias="REDIS_TLS", description="Whether the connection to Redis uses TLS")
    redis_tls_ca: str = Field(
        "",
        alias="REDIS_TLS_CA",
        description="File with the certificates that Redis is checked against. Empty: those of the machine",
    )
    agent_id: str = Field("", alias="AGENT_ID", description="Id of this host. Empty: AGENT_HOSTNAME")
    agent_hostname: str = Field(
        "", alias="AGENT_HOSTNAME", description="Id of this host if AGENT_ID is empty. Empty: the name of the machine"
    )
    repositories: tuple[str, ...] = Field(
        ("/opt/app/config",),
        alias="GIT_REPO_PATH",
        description="Repositories that may be pulled, absolute paths, separated by commas",
    )
    containers: tuple[str, ...] = Field(
        ("grafana",), alias="DOCKER_CONTAINER_NAME", description="Containers that may be restarted, separated by commas"
    )
    heartbeat_interval: float = Field(
        30,
        alias="HEARTBEAT_INTERVAL",
        ge=1,
        le=60,
        description="Seconds between two heartbeats; a host without one for 90 seconds is offline",
    )
    command_timeout: float = Field(
        30, alias="COMMAND_TIMEOUT", gt=0, le=86400, description="Seconds a git command may run"
    )
    docker_timeout: float = Field(
        60, alias="DOCKER_TIMEOUT", gt=0, le=86400, description="Seconds a docker command may run"
    )
    docker_command: str = Field(
        "docker",
        alias="GATEPOST_DOCKER_COMMAND",
        description="Program that restarts containers: a name or an absolute path",
    )
    host_secret: SecretStr | None = Field(
        None, alias="GATEPOST_HOST_SECRET", description="Secret of this host, which `host enroll` prints"
    )
    run_profile: str = Field(
        "",
        alias="AGENT_RUN_PROFILE",
        description="Profile of the command `run`, which runs lines: a shipped one or a TOML file. Empty: there is no `run`",
    )
    run_folder: Path | None = Field(
        None,
        alias="AGENT_RUN_FOLDER",
        description="Folder in which `run` runs lines. Empty: `lines` in the data folder",
    )
    handlers: str = Field("", alias="AGENT_HANDLERS", description="Python file with further handlers of this host")

    @field_validator("repositories", "containers", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return split_commas(value)

    @field_validator("repositories")
    @classmethod
    def _are_absolute(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for path in value:
            if not os.path.isabs(path) or os.path.normpath(path) != path.rstrip("/"):
                raise ValueError("each must be an absolute path without '..'")
        return tuple(path.rstrip("/") for path in value)

    @field_validator("containers")
    @classmethod
    def _are_names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name.startswith("-") or not name.isprintable():
                raise ValueError("each must be the name of a container")
        return value

    @field_validator("agent_id", "agent_hostname")
    @classmethod
    def _is_host_id(cls, value: str) -> str:
        if value and not is_host_id(value):
            raise ValueError("must have 1 to 64 letters, digits, dots, dashes or underscores")
        return value

    @property
    def host(self) -> str:
        """The id of this host. Raises SettingsError if the name of the machine cannot be one."""
        name = self.agent_id or self.agent_hostname or socket.gethostname()
        if not is_host_id(name):
            raise SettingsError(
                f"AGENT_ID: set it, because the name of this machine, {name!r}, cannot be the id of a host"
            )
        return name

    def redis_arguments(self, settings: Settings) -> dict[str, Any]:
        """The arguments of a connection to Redis."""
        from backend.bus.link import connection_arguments

        if settings.redis_url:
            return connection_arguments(settings.redis_url.get_secret_value())
        scheme = "rediss" if self.redis_tls else "redis"
        arguments = connection_arguments(f"{scheme}://{self.redis_host}:{self.redis_port}/{self.redis_db}")
        if self.redis_username:
            arguments["username"] = self.redis_username
        if self.redis_tls_ca:
            arguments["ssl_ca_certs"] = self.redis_tls_ca
        if self.redis_password:
            arguments["password"] = self.redis_password.get_secret_value()
        return arguments

    @property
    def masked_values(self) -> tuple[str, ...]:
        """The secrets of the agent."""
        return tuple(secret.get_secret_value() for secret in (self.redis_password, self.host_secret) if secret)

    @property
    def secret(self) -> str | None:
        """The secret of this host."""
        return self.host_secret.get_secret_value() if self.host_secret else None


def load_agent_settings(**overrides: Any) -> AgentSettings:
    """Read the settings. Raises SettingsError, which names each invalid variable but not its value."""
    return read_environment(AgentSettings, overrides)
