"""The package registries of this machine, as its npm and pip are configured, and what reaches them from a project."""

import ipaddress
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

# A certificate authority of this machine, under the names that tools read.
CA_NAMES = ("NODE_EXTRA_CA_CERTS", "PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
PYTHON = getattr(
    sys, "_base_executable", sys.executable
)  # that of the machine: the environment of the tests may have no pip
ASKS_PIP = "from pip._internal.cli.main_parser import create_main_parser as p; from pip._internal.commands import create_command as c; print(c('install').parse_args([])[0].index_url)"


@cache
def registry_hosts() -> tuple[str, ...]:
    """HOST:PORT of the registries, and their addresses where these are not public: a list must name such an address."""
    urls = [_said("npm", "config", "get", "registry"), *_index_urls(_said(PYTHON, "-c", ASKS_PIP))]
    hosts = {(parts.hostname or "", parts.port or 443) for parts in map(urlsplit, urls)}
    return tuple(sorted({entry for host, port in hosts for entry in _entries(host, port)}))


def environment() -> dict[str, str]:
    """Settings for a server whose projects reach the registries."""
    bundle = next((os.environ[name] for name in CA_NAMES if name in os.environ), "")
    proxies = {name: os.environ[name] for name in ("HTTPS_PROXY", "NO_PROXY") if name in os.environ}
    return {"GATEPOST_NAMESPACES": "true", "GATEPOST_CA_BUNDLE": bundle, **proxies}


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def _index_urls(index: str) -> Iterator[str]:
    """The index of pip, and the host that it names for files."""
    yield index
    request = Request(f"{index.rstrip('/')}/pytest/", headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urlopen(request, timeout=60) as answer:
        yield json.load(answer)["files"][0]["url"]


def _entries(host: str, port: int) -> Iterator[str]:
    yield f"{host}:{port}"
    for *_, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        if not ipaddress.ip_address(str(address[0])).is_global:
            yield f"[{address[0]}]:{port}" if ":" in str(address[0]) else f"{address[0]}:{port}"
