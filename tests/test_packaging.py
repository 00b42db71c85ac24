"""What is shipped: pins, the image, the process files."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from backend.executors.local.outside import find_program
from backend.runtime.agent_settings import AgentSettings
from backend.runtime.settings import env_names
from tests.client import output, terminal
from tests.conftest import StartServer
from tests.needs import need
from tests.outside import documented_dockerfile, make_wheel

ROOT = Path(__file__).parent.parent


def lines(name: str) -> list[str]:
    return [line for line in (ROOT / name).read_text().splitlines() if line and not line.startswith(("#", "-r"))]


def test_every_requirement_is_pinned() -> None:
    for line in lines("requirements.txt") + lines("tests/requirements.txt"):
        assert re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][^ ]*", line), line


def test_what_the_package_requires_can_be_read_by_its_builder() -> None:
    """It reads requirements, but no options of pip such as `-r`."""
    dynamic = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["dynamic"]
    files = [name for value in dynamic.values() for name in value.get("file", [])]
    assert files == ["requirements.txt"]
    assert not [line for name in files for line in (ROOT / name).read_text().splitlines() if line.startswith("-")]


def test_uvloop_is_not_among_them() -> None:
    assert not any("uvloop" in line for line in lines("requirements.txt") + lines("tests/requirements.txt"))


def test_the_direct_dependencies_have_a_reason() -> None:
    reasons = (ROOT / "docs/decisions/dependencies.md").read_text().lower().replace("_", "-")
    for file in ("requirements.txt", "tests/requirements.txt"):
        direct = (ROOT / file).read_text().split("# What they bring")[0]
        for name in re.findall(r"^([A-Za-z][A-Za-z0-9_-]*)==", direct, re.M):
            assert name.lower().replace("_", "-") in reasons, name


def test_the_image_runs_commands_as_other_users_than_the_service() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert re.search(r"^FROM python:3\.14-slim$", text, re.M)
    assert not re.search(r"^USER", text, re.M)
    assert re.search(r"GATEPOST_RUN_AS=[1-9]\d* ", text)
    assert re.search(r"GATEPOST_WORKSPACE_UIDS=[1-9]\d*-[1-5]\d{4}$", text, re.M)  # exist in most user namespaces
    assert re.search(r"^HEALTHCHECK .*/health", text, re.M)


def test_the_image_holds_compiled_code() -> None:
    """No container writes any, and to compile it takes a fifth of a start."""
    text = (ROOT / "Dockerfile").read_text()
    assert "PYTHONDONTWRITEBYTECODE=1" in text
    assert text.index("COPY backend backend") < text.index("RUN python -m compileall -q backend")


def test_procfile_and_heroku_run_the_same() -> None:
    procfile = (ROOT / "Procfile").read_text().strip()
    run = (ROOT / "heroku.yml").read_text().split("run:")[1].strip()
    assert run == procfile
    assert 'TRUSTED_PROXY_HOPS: "1"' in (ROOT / "heroku.yml").read_text()


def test_the_example_environment_names_every_setting() -> None:
    assert re.findall(r"^# ([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.M) == [
        *env_names(),
        *env_names(AgentSettings),
    ]


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    found = hadolint if hadolint.exists() else shutil.which("hadolint")
    need(found, "hadolint")
    done = subprocess.run([str(found), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_has_nothing_to_say_on_the_image_of_the_page() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    found = hadolint if hadolint.exists() else shutil.which("hadolint")
    need(found, "hadolint")
    ours = [str(found), "--ignore", "DL3006", "-"]  # without a tag: the image was built here
    done = subprocess.run(ours, input=documented_dockerfile(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def instructions(name: str, text: str) -> list[str]:
    """The arguments of an instruction of a Dockerfile."""
    joined = text.replace("\\\n", " ")
    return [line.removeprefix(name).strip() for line in joined.splitlines() if line.startswith(f"{name} ")]


def test_the_image_of_the_page_goes_on_from_ours() -> None:
    ours, theirs = (ROOT / "Dockerfile").read_text(), documented_dockerfile()
    assert instructions("USER", theirs) == instructions("USER", ours) == []
    assert f"docker build -t {instructions('FROM', theirs)[0]} ." in (ROOT / "README.md").read_text()


async def test_what_the_image_of_the_page_does_works(start_server: StartServer, tmp_path: Path) -> None:
    """Its steps on this machine, in other folders, with a stand-in for pyguard."""
    need(python := find_program("python3"), "python3 for commands")
    place = tmp_path / "opt"
    make_wheel(tmp_path)
    [step] = instructions("RUN", documented_dockerfile())
    step = (
        step.replace("/tmp/", f"{tmp_path}/").replace("/opt/pyguard", str(place)).replace("python -m", f"{python} -m")
    )
    done = subprocess.run(["sh", "-c", step], capture_output=True, text=True, check=False)
    need(not done.returncode or "ensurepip" not in done.stdout, "python3-venv")
    assert done.returncode == 0, done.stdout + done.stderr
    variables = dict(entry.split("=", 1) for entry in instructions("ENV", documented_dockerfile()))
    env = {name: value.replace("/opt/pyguard", str(place)) for name, value in variables.items()}
    assert set(env) <= set(env_names())
    async with terminal(start_server({**env, "PYGUARD_NETWORK": "none"})) as client:
        assert output(await client.run("pyguard list-patterns")) == "patterns: 3\n"
        assert (await client.run("pyguard fix a.py b.py"))[-1]["rule"] == "program.key"


def test_the_gate_can_be_run() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
