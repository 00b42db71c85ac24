"""How the first administrator logs in: by the link in the log, or by the password in a file."""

from pathlib import Path

import httpx
import pytest

from tests.conftest import StartServer
from tests.e2e.test_starting import serve_in_vain

PASSWORD = "canary password of the admin"


def login(url: str, password: str) -> int:
    form = {"username": "admin", "password": password}
    return httpx.post(f"{url}/api/auth/token", data=form, trust_env=False, verify=False).status_code


def test_the_password_of_a_file_is_that_of_the_first_administrator(start_server: StartServer, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    server = start_server({"GATEPOST_ADMIN_PASSWORD_FILE": str(file)})
    assert login(server.url, PASSWORD) == 200
    assert login(server.url, "another password") == 401
    server.stop()
    assert "#login=" not in server.logs, "one way in is enough"
    assert PASSWORD not in server.logs
    file.write_text("a later password that is not used")
    again = start_server({"GATEPOST_ADMIN_PASSWORD_FILE": str(file)})
    assert (login(again.url, PASSWORD), login(again.url, file.read_text())) == (200, 401)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        (b"canary", "a password must have 10 to 256 characters"),
        (b"\xff" * 12, "not text"),
    ],
)
def test_a_file_that_cannot_be_used_stops_the_start_and_is_named(
    content: bytes | None, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_bytes(content)
    done = serve_in_vain(tmp_path, {"GATEPOST_ADMIN_PASSWORD_FILE": str(file)})
    assert done.returncode == 2
    assert "GATEPOST_ADMIN_PASSWORD_FILE" in done.stderr
    assert f"{file}: {message}" in done.stderr
    assert "canary" not in done.stderr
    assert "Traceback" not in done.stderr
