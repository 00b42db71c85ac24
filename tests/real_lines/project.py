"""A small project as lines are sent in: a git repository with a few commits, sources, tests, scripts and data."""

import json
import subprocess
from pathlib import Path

PACKAGE = {
    "name": "shop",
    "version": "1.0.0",
    "private": True,
    "scripts": {
        "build": "node scripts/build.js",
        "dev": "node server.js",
        "lint": "node -e 0",
        "start": "node server.js",
        "test": "node --test tests/",
    },
    "dependencies": {"react": "18.0.0"},
}
SOURCE = "import { add } from './util';\n\n// TODO: totals\n" + "".join(
    f"export const n{n} = add({n}, 1);\n" for n in range(30)
)
SERVER = """const server = require('http').createServer((_, answer) => answer.end('ok\\n'));
server.listen(process.env.PORT || 3000, '127.0.0.1', () => console.log('ready'));
"""
FILES = {
    "README.md": "# Shop\n\nHow to run it.\n\n" + "A line about it.\n" * 20,
    "package.json": json.dumps(PACKAGE, indent=2) + "\n",
    "package-lock.json": json.dumps({"name": "shop", "lockfileVersion": 3, "packages": {"": {"name": "shop"}}}) + "\n",
    "tsconfig.json": '{"compilerOptions": {"strict": true}}\n',
    ".gitignore": "node_modules/\ndist/\n.venv/\n__pycache__/\n*.log\n",
    ".env.example": "# settings\nPORT=3000\nDEBUG=app\n",
    "Makefile": "all: build\nbuild:\n\t@mkdir -p dist && echo built > dist/app.js\ntest:\n\t@echo tested\n",
    "src/app.ts": SOURCE,
    "src/main.ts": "import { n1 } from './app';\nconsole.log(n1);\n",
    "src/util.ts": "export const add = (a: number, b: number) => a + b;\n",
    "src/parser.py": "def parse(text: str) -> list[str]:\n    return text.split()\n",
    "src/components/Card.tsx": "export default function Card() {\n  useEffect(() => {});\n  return useState(1); // foo\n}\n",
    "tests/app.test.js": "require('node:test')('adds', () => require('node:assert').equal(1 + 1, 2));\n",
    "tests/app.test.ts": "test('logs in', () => {});\n",
    "tests/test_app.py": "import unittest\n\n\nclass Test(unittest.TestCase):\n    def test_one(self) -> None:\n        pass\n",
    "app/__init__.py": "",
    "app/main.py": "import json\nimport os\n\n\ndef hello() -> None:\n    print('hello')\n\n\ndef main() -> None:\n    hello()\n    print(os.path.sep, json.dumps([1]))\n\n\nmain()\n",
    "app.py": "__version__ = '1.0'\n",
    "script.py": "print('ran')\n",
    "server.js": SERVER,
    "scripts/build.js": "const fs = require('fs');\nfs.mkdirSync('dist', { recursive: true });\nfs.writeFileSync('dist/app.js', 'app');\n",
    "scripts/build.sh": "#!/bin/sh\nmkdir -p dist\necho built\n",
    "packages/core/index.js": "module.exports = 1;\n",
    "frontend/package.json": '{"name": "front", "scripts": {"build": "node -e 0", "test": "node -e 0"}}\n',
    "api/package.json": '{"name": "api", "scripts": {"test": "node -e 0"}}\n',
    "web/package.json": '{"name": "web", "scripts": {"test": "node -e 0"}}\n',
    "backend/test_x.py": "def test_x():\n    pass\n",
    "docs/notes.md": "notes\n",
    "notes.md": "notes\n",
    "a.txt": "one\ntwo\n",
    "b.txt": "two\nthree\n",
    "f.txt": "a\n\nb\n",
    "n.txt": "1\n2\n3\n",
    "list.txt": "a.txt\nb.txt\nb.txt\n",
    "urls.txt": "http://127.0.0.1:1/\n",
    "data.txt": "b\na\nb\n",
    "data.csv": "name,n,city\nann,3,Ulm\nbob,1,Bonn\n",
    "big.csv": "1,2\n" * 2500,
    "a.json": '[{"id": 1, "name": "a"}]\n',
    "b.json": '[{"id": 2, "name": "b"}]\n',
    "old.ts": "const a = 1;\n",
    "new.ts": "const a = 2;\n",
    "old.txt": "old\n",
    "new.txt": "new\n",
    "log.txt": "1\n2\n",
    "server.log": "ready\nERROR x\n",
    "build.log": "an error here\n",
    "big.log": "line\n" * 100,
    "data.bin": "\x01\x02" * 200,
    "app.bin": "strings in it\n",
    "a.bin": "same",
    "b.bin": "same",
    "a": "1\n2\n",
    "b": "2\n3\n",
    "config.json": "{}\n",
    "tmp.json": "{}\n",
    "dist/app.js": "app\n",
    "dist1/a": "1\n",
    "dist2/a": "1\n",
    "backup/.keep": "",
    "lib/Makefile": "clean:\n\t@echo cleaned\nall:\n\t@echo all\n",
    "fix.patch": "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n-one\n+uno\n two\n",
}
COMMITS = """git init -q -b main && git config user.name Ann && git config user.email ann@example.com
git add -A && git commit -qm 'first'
echo '// more' >> src/app.ts && echo two >> README.md && git commit -qam 'second' && git tag v0.9
echo '// most' >> src/app.ts && git commit -qam 'third'
git branch topic && echo '// foo now' >> src/util.ts && mkdir empty"""
ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "LC_CTYPE": "C.UTF-8",
    "GIT_EDITOR": "true",
    "GIT_CONFIG_NOSYSTEM": "1",
}


def seed(folder: Path) -> None:
    """Make the project in a folder that is there."""
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for name in ("scripts/build.sh", "scripts/build.js"):
        (folder / name).chmod(0o755)
    subprocess.run(["sh", "-ec", COMMITS], cwd=folder, env={**ENVIRONMENT, "HOME": str(folder)}, check=True)
