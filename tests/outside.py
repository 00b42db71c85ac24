"""A program as an operator installs one next to Gatepost: a Python of its own, a virtual environment, and its API."""

import datetime
import json
import os
import shutil
import ssl
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from backend.executors.local.outside import SEARCH_PATH
from tests.needs import need

# Stands for pyguard: asks its API with its key, writes what it gets, and lives in its home as the real one does.
GUARD = """
import json, os, ssl, subprocess, sys, urllib.request
from pathlib import Path

def settings():
    file = Path.home() / ".claude/settings.json"
    return json.loads(file.read_text()) if file.exists() else {}

def ask(text):
    key = os.environ.get("ANTHROPIC_API_KEY")
    if not key:
        return "Not logged in"
    context = ssl.create_default_context(cafile=str(Path(__file__).with_name("ca.pem")))
    asked = urllib.request.Request(API, text.encode(), {"x-api-key": key})
    with urllib.request.urlopen(asked, timeout=5, context=context) as answer:
        return json.load(answer)["text"]

def main():
    verb, *words = sys.argv[1:]
    for hook in settings().get("hooks", []):
        subprocess.run(hook, shell=True)
    if verb == "list-patterns":
        print("patterns: 3")
    elif verb == "wait":
        (Path.home() / "secret").write_text("mine")
        print(Path.home(), flush=True)
        sys.stdin.read()
    else:
        answer = ask(Path(words[0]).read_text())
        Path(words[1]).write_text(answer)
        transcripts = Path.home() / ".claude/transcripts"
        transcripts.mkdir(parents=True)
        (transcripts / "one.json").write_text(answer)
        print("home", Path.home(), "written", words[1])

if __name__ == "__main__":
    main()
"""


@dataclass
class Api:
    """A fake API over TLS on loopback, and what it was asked."""

    port: int
    ca: bytes
    asked: list[tuple[str, str]] = field(default_factory=list)  # key and text


@contextmanager
def fake_api(folder: Path) -> Iterator[Api]:
    """It upper-cases what it is sent."""
    ca, chain = _certificates(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["content-length"])).decode()
            api.asked.append((self.headers["x-api-key"], text))
            body = json.dumps({"text": text.upper()}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    api = Api(server.server_port, ca)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _certificates(folder: Path) -> tuple[bytes, Path]:
    """A CA, and a file with a certificate for localhost and its key."""
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "The CA of a test")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    authority = x509.BasicConstraints(ca=True, path_length=0)
    ca = _certificate(ca_name, ca_name, ca_key.public_key()).add_extension(authority, critical=True)
    hosts = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))])
    own = _certificate(name, ca_name, key.public_key()).add_extension(hosts, critical=False)
    chain = folder / "chain.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(private + own.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM))
    return ca.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.PEM), chain


def _certificate(name: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(issuer).public_key(key)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day)


def documented_dockerfile() -> str:
    """The Dockerfile of docs/containers.md for an image with an outside program."""
    page = (Path(__file__).parent.parent / "docs/containers.md").read_text()
    return page.split("```dockerfile\n")[1].split("```")[0]


def make_wheel(folder: Path) -> Path:
    """The program as a wheel named pyguard, with a command of that name."""
    wheel = folder / "pyguard-1.0-py3-none-any.whl"
    about = "pyguard-1.0.dist-info"
    files = {
        "guard.py": GUARD,
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: pyguard\nVersion: 1.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{about}/entry_points.txt": "[console_scripts]\npyguard = guard:main\n",
    }
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"{about}/RECORD", "".join(f"{name},,\n" for name in files))
    return wheel


def install_guard(folder: Path, api: Api) -> Path:
    """Install the program in a virtual environment of a Python outside /usr; returns the environment."""
    python = _python_outside_usr(folder / "python")
    environment = folder / "venv"
    subprocess.run([python, "-m", "venv", "--without-pip", environment], check=True, capture_output=True)
    (package,) = (environment / "lib").glob("python3*/site-packages")
    url = f"https://localhost:{api.port}/"
    (package / "guard.py").write_text(GUARD.replace("API,", f"{url!r},"))
    (package / "ca.pem").write_bytes(api.ca)
    script = environment / "bin/guard"
    script.write_text(f"#!{environment}/bin/python\nfrom guard import main\nmain()\n")
    script.chmod(0o755)
    return environment


def _python_outside_usr(prefix: Path) -> Path:
    """A Python with a prefix of its own, made of the one of the machine."""
    installed = shutil.which("python3", path=SEARCH_PATH)
    need(installed, "python3 for commands")
    real = Path(os.path.realpath(str(installed)))
    library = real.parent.parent / "lib" / real.name
    need(library.is_dir(), f"the library of {real.name}")
    (prefix / "bin").mkdir(parents=True)
    shutil.copy2(real, prefix / "bin" / real.name)
    (prefix / "bin/python3").symlink_to(real.name)
    left_out = shutil.ignore_patterns("__pycache__", "test", "dist-packages", "site-packages", "config-*")
    shutil.copytree(library, prefix / "lib" / real.name, ignore=left_out, copy_function=_link)
    return prefix / "bin/python3"


def _link(source: str, target: str) -> None:
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)
