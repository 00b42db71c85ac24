"""docs/hosts.md, followed as it is written with two hosts, and the page with a command on each of them side by side."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, expect
from redis import Redis as Client

from tests import preloaded
from tests.accounts import gatepost
from tests.e2e.page.visits import ONE_LOOP, WAIT, Visit, account, is_known, log_in, new_context, new_visit, open_page
from tests.host_agent.agents import docker_stand_in, git, repositories
from tests.ports import free_port
from tests.preloaded import Process
from tests.redis_server import running_redis
from tests.serving import ROOT, Server, start, wait_until

STEPS = re.findall(r"^    (\S.*(?:\n      \S.*)*)$", (ROOT / "docs/hosts.md").read_text(), re.M)


def step(beginning: str) -> str:
    """A command of the page."""
    found: list[str] = [each for each in STEPS if each.startswith(beginning)]
    assert found, f"docs/hosts.md has no {beginning}"
    return found[0].replace("\\\n", " ")


@dataclass
class Host:
    """A folder on a host, with the settings that were copied there."""

    folder: Path
    repository: Path

    @property
    def env(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "GATEPOST_DATA_DIR": str(self.folder / "data")}

    def is_current(self) -> bool:
        """Whether its repository has the last commit of its remote."""
        return git("log", "-1", "--format=%s", cwd=self.repository) == "add second"

    def check(self) -> "subprocess.CompletedProcess[str]":
        _, _, *words = shlex.split(step("python3 run.py agent --check"))
        return preloaded.run(words, self.folder, self.env)

    @contextmanager
    def agent(self) -> Iterator[Process]:
        _, _, *words = shlex.split("python3 run.py agent")
        assert "\n`python3 run.py agent` on the host" in (ROOT / "docs/hosts.md").read_text()
        with (self.folder / "log").open("wb") as log, Path(os.devnull).open("rb") as none:
            process = preloaded.start(words, self.folder, self.env, (none, log, log))
        try:
            yield process
        finally:
            process.send_signal(15)
            process.wait(30)


@dataclass
class Hosts:
    """A server and its two hosts."""

    server: Server
    token: str
    hosts: dict[str, Host]

    def curl(self, beginning: str, *changes: tuple[str, str]) -> Any:
        """The response to a request of the page, with its host, its port and its repository changed."""
        command = step(beginning)
        for old, new in (("http://127.0.0.1:8000", self.server.url), *changes):
            assert old in command
            command = command.replace(old, new)
        env = {"PATH": os.environ["PATH"], "TOKEN": self.token}
        done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True, timeout=30, check=True)
        return json.loads(done.stdout)


def enrolled(server: Server, redis: Any, name: str, port: int, folder: Path) -> Host:
    """Enroll a host as the page says, copy its settings there, and add what the page names."""
    _, _, *words = shlex.split(step("python3 run.py host enroll web-01"))
    printed = gatepost(server.folder, *(name if word == "web-01" else word for word in words)).stdout.splitlines()
    [acl] = [line for line in printed if line.startswith("ACL SETUSER")]
    redis.execute_command(*shlex.split(acl))
    folder.mkdir(mode=0o711)
    places = repositories(folder / "git")
    added = {
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": port,
        "GIT_REPO_PATH": places.clone,
        "DOCKER_CONTAINER_NAME": "grafana",
        "GATEPOST_DOCKER_COMMAND": docker_stand_in(folder / "bin"),
        "GATEPOST_READABLE": places.remote,
        "AGENT_RUN_PROFILE": "agent",
        "HEARTBEAT_INTERVAL": 1,
    }
    settings = [line for line in printed if line.partition("=")[0].isupper() and line != acl]
    (folder / ".env").write_text("\n".join([*settings, *(f"{name}={value}" for name, value in added.items())]))
    places.commit("second")
    return Host(folder, places.clone)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder, port = tmp_path_factory.mktemp("hosts"), free_port()
    folder.chmod(0o711)
    (folder / "server").mkdir()
    with ExitStack() as ending:
        redis = ending.enter_context(running_redis("--port", str(port)))
        server = start(folder / "server", {"REDIS_URL": redis.url})
        ending.callback(server.stop)
        token = account(server, "ann")
        _, _, *words = shlex.split(step("python3 run.py host grant --user ann").replace("staging", "production"))
        gatepost(server.folder, *words)
        admin = Client(unix_socket_path=str(redis.path))
        found = {name: enrolled(server, admin, name, port, folder / name) for name in ("web-01", "web-02")}
        for host in found.values():
            ending.enter_context(host.agent())
        hosts = Hosts(server, token, found)

        def online() -> bool:
            seen = hosts.curl("curl -s http://127.0.0.1:8000/api/hosts -H")
            return {each["id"] for each in seen if each["status"] == "online"} == set(found)

        wait_until(online, "both hosts", 30)
        yield hosts


def test_the_steps_of_the_page_work(hosts: Hosts) -> None:
    for name, host in hosts.hosts.items():
        done = host.check()
        assert (done.returncode, "failed" in done.stdout) == (0, False), done.stdout
        assert "GATEPOST_HOST_SECRET" not in done.stdout
        change = (("web-01", name), ("/opt/app/config", str(host.repository)))
        begun = hosts.curl("curl -s http://127.0.0.1:8000/api/hosts/web-01/commands", *change)
        wait_until(host.is_current, f"the pull\n{begun}", 30)
    listed = '"hosts":["web-01","web-02"]'
    for chosen in (listed, '"labels":{"env":"production"}'):
        both = hosts.curl("curl -s http://127.0.0.1:8000/api/hosts/commands", (listed, chosen))
        assert both["summary"] == {"succeeded": 2}
        assert [(each["host"], each["output"]) for each in both["results"]] == [
            ("web-01", "pong\n"),
            ("web-02", "pong\n"),
        ]


def line(wanted: str) -> Callable[[str], bool]:
    """Whether a screen has a line, which is not that of the command."""
    return lambda text: wanted in (each.strip() for each in text.splitlines())


@ONE_LOOP
async def test_the_page_runs_a_command_on_two_hosts_side_by_side(browser: Browser, hosts: Hosts) -> None:
    context = await new_context(browser, viewport={"width": 900, "height": 900})
    first = await open_page(context, hosts.server)
    await log_in(first, "ann")
    await is_known(first, "ann")
    second = await new_visit(await new_context(browser, viewport={"width": 900, "height": 900}), hosts.server)
    await second.page.goto(hosts.server.url)
    await second.state("ready")
    await log_in(second, "ann")
    await is_known(second, "ann")
    for visit, name in ((first, "web-01"), (second, "web-02")):
        await visit.type(f"@{name} run 'echo {name} begins; tail -f /dev/null'")
    for visit, name, other in ((first, "web-01", "web-02"), (second, "web-02", "web-01")):
        await visit.shows(line(f"{name} begins"))
        assert other not in "".join(await visit.rows())
        await visit.state("running")  # both at once
    for visit in (first, second):
        await visit.page.press("#line", "Control+c")
        await visit.state("ready")
        visit.is_clean()
    await first.type("@web-01 echo pong of the page")
    await first.shows(line("pong of the page"))
    await both_at_once(first, hosts)
    for visit in (first, second):
        await visit.page.context.close()


async def both_at_once(visit: Visit, hosts: Hosts) -> None:
    """Hosts that are chosen by a label run one line, each in a box of its own; all of it can be stopped, and run again."""
    page, results = visit.page, visit.page.locator("#hosts-body article")
    await page.click("#hosts")
    await page.locator("#hosts-body select").select_option(label="online, env=production")
    for name in hosts.hosts:
        await expect(page.get_by_label(f"{name} · online · env=production")).to_be_checked(timeout=WAIT)
    await page.get_by_label("Command", exact=True).last.fill("run 'pwd; echo begun; tail -f /dev/null'")
    await page.click("#hosts-body button[type=submit]")
    for at, (name, host) in enumerate(hosts.hosts.items()):
        await expect(results.nth(at).locator("h3")).to_have_text(name)
        await expect(results.nth(at).locator("pre")).to_have_text(
            f"{host.folder / 'data/lines'}\nbegun\n", timeout=WAIT
        )
    await expect(page.locator("#hosts-note")).to_have_text("2 running")
    await page.get_by_role("button", name="Stop all").click()
    await expect(page.locator("#hosts-note")).to_have_text("2 cancelled", timeout=WAIT)
    await page.click("#hosts-back")
    await page.get_by_label("web-02 · online").check(timeout=WAIT)
    await page.get_by_label("Command", exact=True).last.fill("git_status /not/configured")
    await page.press("#hosts-body input[name=line]", "Enter")
    await expect(page.locator("#hosts-note")).to_have_text("1 failed", timeout=WAIT)
    await expect(results.locator("pre")).to_contain_text("Repository path not allowed")
    await page.click("#hosts-close")
    visit.is_clean()
