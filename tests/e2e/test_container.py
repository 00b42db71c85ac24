"""The image, with as little as a container can be given. Wants a Docker engine: `docker version` has to answer."""

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.executors.local.run_as import CAPABILITIES
from tests.client import output
from tests.outside import documented_dockerfile, make_wheel
from tests.serving import wait_until

pytestmark = pytest.mark.container

ROOT = Path(__file__).parent.parent.parent
VISITOR = (Path(__file__).parent / "in_container.py").read_text()
BUILD_BOUND = 900.0  # seconds; the base image and packages may have to be fetched
BOUND = 60.0
NARROW = (
    *(
        "--read-only",
        "--cap-drop",
        "ALL",
        *(f"--cap-add={name}" for name in CAPABILITIES),
        "--security-opt",
        "no-new-privileges",
        "--network",
        "none",
    ),
    *("--pids-limit", "128", "--memory", "512m", "--tmpfs", "/tmp"),
)
SECRET = "planted-in-the-container"
ATTACK = """
id -u
for pid in /proc/[0-9]* 1 self; do cat /proc/${pid##*/}/environ; done 2>/dev/null
cat /data/gatepost.db /data/tokens.key /data/audit.key /data/recordings/* /app/backend/server.py 2>/dev/null
ls /data /app 2>/dev/null
echo x > /data/new; echo x > /tmp/new; kill -9 1; kill -9 -1
"""


def docker(*words: str, given: str | None = None, bound: float = BOUND) -> str:
    """What it prints; fails with what it complains of."""
    done = subprocess.run(["docker", *words], input=given, capture_output=True, text=True, timeout=bound, check=False)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this source."""
    if not shutil.which("docker") or subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker engine answers")
    docker("build", "--network", "host", "-t", "gatepost-test", str(ROOT), bound=BUILD_BOUND)
    return "gatepost-test"


@pytest.fixture
def container(image: str) -> Iterator[str]:
    """One that runs."""
    words = ["-e", f"CANARY={SECRET}", "-e", "PYGUARD_COMMAND=env", "-e", "PYGUARD_NETWORK=none"]
    yield from _running(image, *NARROW, *words, "-e", "GATEPOST_COMMAND_RATE=100/minute")


def _running(image: str, *words: str) -> Iterator[str]:
    name = f"gatepost-test-{secrets.token_hex(4)}"
    docker("run", "-d", "--name", name, *words, image)
    try:
        wait_until(lambda: "is ready" in _logs(name), "the container to be ready", BOUND)
        yield name
    finally:
        docker("rm", "-f", "-v", name)


def _logs(name: str) -> str:
    done = subprocess.run(["docker", "logs", name], capture_output=True, text=True, timeout=BOUND, check=False)
    return done.stdout + done.stderr


def _protection(name: str) -> Any:
    return json.loads(docker("exec", name, "python", "-m", "backend", "protection", "--json"))


def _run(name: str, *lines: tuple[str, str]) -> list[list[dict[str, Any]]]:
    told = docker("exec", "-i", name, "python", "-c", VISITOR, given=json.dumps(lines))
    return [json.loads(line) for line in told.splitlines()]


def test_commands_are_held_as_on_a_machine(container: str) -> None:
    found = _protection(container)
    assert found["level"] == "L2"
    assert [test["name"] for test in found["tests"] if not test["passed"]] == ["run in namespaces"]
    assert found["uid"] == 10002
    print(f"{', '.join(found['layers'])}; {len(found['tests'])} attempts held")


def test_a_command_runs_and_gets_nothing_of_the_service(container: str) -> None:
    [echo, attack, after] = _run(container, ("echo hi", ""), ("pyguard sh", ATTACK), ("echo still here", ""))
    assert (output(echo), echo[-1]["protection"]) == ("hi\n", "L2")
    assert output(attack) == "10002\n"
    assert SECRET not in json.dumps(attack)
    assert output(after) == "still here\n"
    print(f"echo hi took {echo[-1]['duration_ms']} ms")


@pytest.fixture
def guarded(image: str, tmp_path: Path) -> Iterator[str]:
    """A container of the image that docs/containers.md builds from ours."""
    make_wheel(tmp_path)
    (tmp_path / "Dockerfile").write_text(documented_dockerfile().replace("FROM gatepost\n", f"FROM {image}\n"))
    docker("build", "-t", f"{image}-pyguard", str(tmp_path), bound=BUILD_BOUND)
    yield from _running(f"{image}-pyguard", *NARROW)


def test_an_image_with_an_outside_program_runs_it(guarded: str) -> None:
    [listed] = _run(guarded, ("pyguard list-patterns", ""))
    assert output(listed) == "patterns: 3\n"
    assert docker("exec", guarded, "python", "-m", "backend", "user", "list", "--json")
    assert "#login=" in _logs(guarded)


def test_it_stops_in_order(container: str) -> None:
    docker("stop", "-t", "10", container)
    assert docker("inspect", "-f", "{{.State.ExitCode}}", container) == "0"
