"""The welcome message: where to go, and whether commands can run at all."""

from backend import __version__

UNKNOWN = "http://HOST:PORT"  # the server listens where it says so itself


def welcome(address: str | None, login_link: str, held: str) -> str:
    """The welcome of a server at a URL. `held` is why it runs no command, `login_link` the secret of the first
    administrator, if it was made now.
    """
    page = address or UNKNOWN
    ready = f", but runs no command. {held}" if held else ".\n"
    login = f"  login  {page}/#login={login_link}  (administrator, once, today)\n" if login_link else ""
    return (
        f"\nGatepost {__version__} is ready{ready}\n"
        f"  page   {page}/\n"
        f"{login}"
        f'  wscat  wscat -c {page.replace("http", "ws", 1)}/ws/terminal -x \'{{"command":"help"}}\' -w 2\n'
        f"  curl   curl -s {page}/health\n"
    )
