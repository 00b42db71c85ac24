"""Refresh frontend/vendor from npm: `python3 scripts/vendor_frontend.py`. Needs npm; standard library only.

Takes the files below out of the pinned packages, drops the references to source maps, which are not shipped, and writes
the table of versions and hashes that a test checks.
"""

import hashlib
import json
import re
import subprocess
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parent.parent / "frontend" / "vendor"
PACKAGES = {
    "@xterm/xterm@6.0.0": {
        "lib/xterm.mjs": "xterm.mjs",
        "css/xterm.css": "xterm.css",
        "LICENSE": "LICENSE-xterm",
    },
    "@xterm/addon-fit@0.11.0": {"lib/addon-fit.mjs": "addon-fit.mjs", "LICENSE": "LICENSE-addon-fit"},
    "swagger-ui-dist@5.35.0": {
        "swagger-ui-bundle.js": "swagger-ui-bundle.js",
        "swagger-ui.css": "swagger-ui.css",
        "LICENSE": "LICENSE-swagger-ui",
        "NOTICE": "NOTICE-swagger-ui",
        # The licences of what is bundled in it, under the name that its first line gives.
        "swagger-ui-bundle.js.LICENSE.txt": "swagger-ui-bundle.js.LICENSE.txt",
    },
}
SOURCE_MAP = re.compile(rb"\n?(//# sourceMappingURL=\S+|/\*# sourceMappingURL=\S+?\s*\*/)\s*$")
HEAD = """\
# Vendored files

Made by `scripts/vendor_frontend.py`; not edited by hand. The references to source maps are removed.

| file | package | licence | SHA-256 |
|---|---|---|---|
"""


def main() -> None:
    """Fetch, strip, write and list."""
    VENDOR.mkdir(parents=True, exist_ok=True)
    rows = [row for package, files in PACKAGES.items() for row in vendor(package, files)]
    (VENDOR / "README.md").write_text(HEAD + "".join(f"{row}\n" for row in rows))


def vendor(package: str, files: dict[str, str]) -> list[str]:
    """Copy the files of one package; returns their rows of the table."""
    with tempfile.TemporaryDirectory() as folder:
        # Scripts of packages are not run: some report the installation to their makers.
        options = ["--silent", "--no-save", "--ignore-scripts", "--prefix", folder]
        subprocess.run(["npm", "install", *options, package], check=True)
        source = Path(folder, "node_modules", package.rpartition("@")[0])
        licence = json.loads((source / "package.json").read_text())["license"]
        rows = []
        for name, target in files.items():
            data = SOURCE_MAP.sub(b"\n", (source / name).read_bytes())
            (VENDOR / target).write_bytes(data)
            rows.append(f"| `{target}` | {package} | {licence} | `{hashlib.sha256(data).hexdigest()}` |")
        return rows


if __name__ == "__main__":
    main()
