"""`host install`: a hardened systemd unit for the agent of this host."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backend.runtime.agent_settings import load_agent_settings
from backend.runtime.command_line import FOLDER
from backend.runtime.settings import load_settings

UNIT = Path("/etc/systemd/system/gatepost-agent.service")
TEXT = """\
[Unit]
Description=Gatepost agent: runs commands that arrive over Redis
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
User={user}
{groups}EnvironmentFile={environment}
Environment=GATEPOST_DATA_DIR={data}
WorkingDirectory={folder}
ExecStart={python} -m backend agent
Restart=always
RestartSec=5
# What runs is finished before the agent ends.
TimeoutStopSec={stop}
KillMode=mixed

# The agent confines its commands itself; this confines the agent.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ReadWritePaths={writable}
ProtectHome={home}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
LockPersonality=yes
SystemCallArchitectures=native
RemoveIPC=yes
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def add_verb(host: Any) -> None:
    """Add `install` to the verbs of `host`."""
    install = host.add_parser("install", help="write a systemd unit for the agent of this host")
    install.add_argument("--user", default="gatepost-agent", help="user that the agent runs as (gatepost-agent)")
    install.add_argument("--data-dir", type=Path, default=Path("/var/lib/gatepost-agent"), help="folder of its data")
    install.add_argument(
        "--env-file", type=Path, default=Path("/etc/gatepost-agent.env"), help="file with its settings"
    )
    install.add_argument("--output", type=Path, default=UNIT, help=f"file to write ({UNIT}); - prints it")
    install.set_defaults(run=_install)


def _install(options: argparse.Namespace) -> int:
    settings, own = load_settings(), load_agent_settings()
    text = unit(
        options.user,
        options.data_dir,
        options.env_file,
        own.repositories,
        docker=bool(own.containers),
        stop=max(own.command_timeout, own.docker_timeout),
        readable=settings.readable,
    )
    if str(options.output) == "-":
        print(text, end="")
        return 0
    try:
        options.output.write_text(text)
    except OSError as error:
        print(f"gatepost: {options.output}: {error.strerror}", file=sys.stderr)
        return 1
    print(_steps(options))
    return 0


def unit(
    user: str,
    data: Path,
    environment: Path,
    repositories: Sequence[str],
    *,
    docker: bool,
    stop: float,
    readable: Sequence[str] = (),
) -> str:
    """The text of the unit."""
    used = (*repositories, *readable, str(FOLDER))
    at_home = any(path.startswith(("/home/", "/run/user/", f"{os.path.expanduser('~root')}/")) for path in used)
    return TEXT.format(
        user=user,
        groups="SupplementaryGroups=docker\n" if docker else "",
        environment=environment,
        data=data,
        folder=FOLDER,
        python=sys.executable,
        stop=int(stop) + 30,
        writable=" ".join((str(data), *(f"-{path}" for path in repositories))),
        home="no" if at_home else "yes",
    )


def _steps(options: argparse.Namespace) -> str:
    user, data, env = options.user, options.data_dir, options.env_file
    return (
        f"Wrote {options.output}. As root:\n"
        f"  useradd --system --home-dir {data} --shell /usr/sbin/nologin {user}\n"
        f"  install -d -o {user} -g {user} -m 711 {data}\n"
        f"  install -o root -g {user} -m 640 .env {env}      # with what `host enroll` printed\n"
        f"  chown -R {user} REPOSITORY                       # each of GIT_REPO_PATH\n"
        f"  systemctl daemon-reload && systemctl enable --now {options.output.stem}\n"
    )
