"""Tools of JavaScript and Python as people install them: with the network, then built and tested without it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.api.world import World, access_token, new_project, running_world
from tests.needs import need
from tests.packages.registries import environment, registry_hosts

FILES = {
    "a.js": "console.log(process.memoryUsage().rss > 0, Object.keys(require('os').networkInterfaces()).length > 0)\n",
    "fork.js": "require('child_process').fork('./a.js')\n",
    "t.ts": "const shown: boolean = process.memoryUsage().rss > 0;\nconsole.log(shown);\n",
    "tsconfig.json": '{"compilerOptions":{"strict":true,"noEmit":true,"types":["node"],"skipLibCheck":true},"files":["t.ts"]}\n',
    "bad.js": "var  a = 1\n",
    "eslint.config.mjs": 'export default [{ rules: { "no-var": "error" } }];\n',
    "spec.cjs": "const http = require('http');\ndescribe('a server', () => { it('answers', (done) => {\n"
    "  const server = http.createServer((q, r) => r.end()).listen(0, '127.0.0.1', () =>\n"
    "    http.get({ port: server.address().port, host: '127.0.0.1' }, (r) => { r.resume(); server.close(); done(); }));\n"
    "}); });\n",
    "jest/a.test.js": "test('a', () => expect(1).toBe(1));\n",
    "three/a.test.js": "import { expect, test } from 'vitest';\ntest('a', () => expect(process.memoryUsage().rss).toBeGreaterThan(0));\n",
    "index.html": '<script type="module" src="/a.js"></script>\n',
    ".gitignore": "node_modules\ndist\n",
    "package.json": '{"private":true,"scripts":{"a":"node a.js","bun":"bun t.ts","prepare":"husky"},\n'
    '"lint-staged":{"*.js":"prettier --write"}}\n',
}
INSTALL = (
    "npm install --silent vite@7 vitest@3 typescript@5 @types/node@20 eslint@9 prettier@3 jest@30 mocha@11 tsx@4 esbuild@0.25"
    " webpack@5 webpack-cli@6 husky@9 lint-staged@16 pnpm@10 yarn@1 bun@1",
    "mkdir -p two && cd two && echo {} > package.json && npm install --silent vitest@2 && cp ../three/a.test.js .",
    "mkdir -p by-pnpm && cd by-pnpm && echo {} > package.json && npx pnpm add is-number",
    "mkdir -p by-yarn && cd by-yarn && echo '{}' > package.json && npx yarn add --registry $(npm config get registry) is-number",
)


@dataclass(frozen=True, slots=True)
class Bench:
    """A project with the tools."""

    world: World

    def run(self, line: str, **fields: Any) -> Any:
        """The execution of a line, with what it wrote."""
        who = access_token(self.world.users["ann"])
        body = {"project_id": self.world.project, "command": line, "timeout": 300, **fields}
        started = self.world.ask(who, "POST", "/api/executions", body).json()
        self.world.ask(who, "GET", f"{started['url']}/events", timeout=310)  # to its end
        written = self.world.ask(who, "GET", f"{started['url']}/output", None).json()["data"]
        return {**self.world.ask(who, "GET", started["url"]).json(), "written": written}

    def says(self, line: str, **fields: Any) -> str:
        """What a line writes that succeeds."""
        done = self.run(line, **fields)
        assert done["exit_code"] == 0, done
        return str(done["written"])


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """Everything is installed with the network, which is then off."""
    for tool in ("git", "node", "npm"):
        need(shutil.which(tool), tool)
    with running_world(tmp_path_factory.mktemp("tools"), environment()) as world:
        hosts = list(registry_hosts())
        world.project = new_project(world, allowed_extra=[], network=hosts, profile="workbench")
        bench = Bench(world)
        for name, text in FILES.items():
            bench.says(f"mkdir -p $(dirname {name}) < /dev/null; cat > {name}", stdin=text)
        for line in INSTALL:
            if bench.run(line)["exit_code"] != 0:  # a registry may fail once
                bench.says(line)
        changed = world.ask(
            access_token(world.users["root"]), "PATCH", f"/api/projects/{world.project}", {"network": False}
        )
        assert changed.status_code == 200
        yield bench


@pytest.mark.parametrize("line", ["npm run -s a", "npx node a.js", "sh -c 'node a.js; :'", "node fork.js"])
def test_every_process_sees_itself_and_its_interfaces(bench: Bench, line: str) -> None:
    assert bench.says(line) == "true true\n"


@pytest.mark.parametrize("folder", ["two", "three"])
@pytest.mark.parametrize("pool", ["forks", "threads"])
def test_vitest_ends(bench: Bench, folder: str, pool: str) -> None:
    assert "1 passed" in bench.says(f"cd {folder} && NO_COLOR=1 npx vitest run --pool={pool}", timeout=60)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("npx tsc --extendedDiagnostics", "Memory used"),
        ("echo 'a  =  1' | npx prettier --parser babel", "a = 1;"),
        ("npx jest --ci jest 2>&1", "1 passed"),
        ("npx mocha spec.cjs", "1 passing"),
        ("npx tsx t.ts", "true"),
        ("npm run -s bun", "true"),
        ("npx esbuild a.js --bundle --platform=node --outfile=dist/e.js 2>&1 && node dist/e.js", "true true"),
        ("npx webpack --mode production --target node --entry ./a.js -o dist/w && node dist/w/main.js", "true true"),
        ("npx vite build --outDir dist/v", "built in"),
    ],
)
def test_it_works_without_the_network(bench: Bench, line: str, said: str) -> None:
    assert said in bench.says(line)


def test_eslint_says_what_is_wrong(bench: Bench) -> None:
    done = bench.run("npx eslint bad.js")
    assert (done["exit_code"], "no-var" in done["written"]) == (1, True)


def test_a_server_of_one_line_is_reached_by_the_next(bench: Bench) -> None:
    """Its files are watched, not polled."""
    who = access_token(bench.world.users["ann"])
    body = {"project_id": bench.world.project, "command": "npx vite --port 5173 --host 127.0.0.1", "timeout": 120}
    started = bench.world.ask(who, "POST", "/api/executions", body).json()
    ask = "for i in $(seq 100); do curl -sf --noproxy '*' http://127.0.0.1:5173/ && break; sleep 0.2; done"
    assert "/a.js" in bench.says(ask)
    bench.world.ask(who, "POST", f"{started['url']}/cancel")


def test_a_commit_runs_the_hooks_and_holds_no_file_of_a_tool(bench: Bench) -> None:
    bench.says("git init -q && npm run -s prepare && echo 'npx lint-staged' > .husky/pre-commit")
    bench.says("git add -A && git commit -qm all 2>&1")
    assert bench.says("cat bad.js") == "var a = 1;\n"
    own = {*FILES, "package.json", "package-lock.json", ".husky/pre-commit"}
    others = {f"{folder}/{file}" for folder in ("two", "by-pnpm", "by-yarn") for file in ("package.json",)}
    locks = {"two/package-lock.json", "two/a.test.js", "by-pnpm/pnpm-lock.yaml", "by-yarn/yarn.lock"}
    assert set(bench.says("git ls-files").split()) == own | others | locks
    assert bench.says("git status --short") == ""
