"""The welcome message: where to go, and whether commands can run at all."""

from backend import __version__
from backend.core.decisions import Decision

UNKNOWN = "http://HOST:PORT"  # the server listens where it says so itself


def welcome(address: str | None, login_link: str, refusal: Decision | None) -> str:
    """The welcome of a server at a URL. `login_link` is the secret of the first administrator, if it was made now."""
    page = address or UNKNOWN
    held = f", but runs no command. {refusal.reason}\n{refusal.hint}" if refusal else "."
    login = f"  login  {page}/#login={login_link}  (administrator, once, today)\n" if login_link else ""
    return (
        f"\nGatepost {__version__} is ready{held}\n\n"
        f"  page   {page}/\n"
        f"{login}"
        f'  wscat  wscat -c {page.replace("http", "ws", 1)}/ws/terminal -x \'{{"command":"help"}}\' -w 2\n'
        f"  curl   curl -s {page}/health\n"
    )
