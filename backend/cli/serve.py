"""`serve`: the server."""

import argparse
import errno
import resource
import sys
from pathlib import Path
from typing import Any

from backend.core.errors import reason_of
from backend.runtime.collector import nothing_is_garbage
from backend.runtime.settings import Settings, load_settings

SHUTDOWN_BOUND = 3  # seconds that open requests get when the server stops; commands have a grace of their own


def add_verb(verbs: Any) -> None:
    """Add `serve` to the command line."""
    serve = verbs.add_parser("serve", help="serve the terminal")
    serve.add_argument("--host", help="address to listen on (GATEPOST_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (PORT, 8000)")
    serve.add_argument("--data-dir", type=Path, help="folder of recordings and workspace (GATEPOST_DATA_DIR, data)")
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    with nothing_is_garbage():
        server = _server(options)
    from backend.runtime.telemetry import release_output

    server.run()
    release_output()
    return 0 if server.started else 1


def _server(options: argparse.Namespace) -> Any:
    import uvicorn  # only this verb needs the web server

    from backend.runtime.wiring import create_app  # imports everything, which other verbs do without
    from backend.transports.bounded_socket import BoundedSocket
    from backend.transports.request_timeout import bounded_protocol

    given = {name: getattr(options, name) for name in ("host", "port", "data_dir")}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    # Each socket, viewer and command holds descriptors; the usual soft limit is a remnant of select().
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _server_class(uvicorn.Server)(
        uvicorn.Config(
            create_app(settings),
            host=settings.host,
            port=settings.port,
            loop="backend.runtime.event_loop:new_event_loop",
            http=bounded_protocol(hard // 2, _connections_of_an_address(settings)),
            ws=BoundedSocket,
            ws_max_size=64 * 1024,
            ws_per_message_deflate=settings.compression,
            proxy_headers=False,  # TRUSTED_PROXY_HOPS determines the address
            server_header=False,
            access_log=False,
            log_config=None,
            workers=1,  # the limits are counted in this process
            lifespan="off",  # see `_server_class`
            timeout_graceful_shutdown=SHUTDOWN_BOUND,
        )
    )


def _why(error: BaseException | None) -> str:
    """Why the server cannot listen, and what to do."""
    if not isinstance(error, OSError) or error.errno == errno.EADDRINUSE:
        return ". Try another port: --port 8001"
    if error.errno == errno.EACCES:
        return ": ports below 1024 are for root. Try another port: --port 8001"
    return f": {reason_of(error)}. GATEPOST_HOST or --host must be an address of this machine, such as 127.0.0.1"


def _connections_of_an_address(settings: Settings) -> int | None:
    """Each terminal begins as an HTTP connection. Behind proxies all clients have the address of a proxy."""
    if settings.trusted_proxy_hops:
        return None
    return settings.connections_per_address + settings.http_connections_per_address


def _server_class(base: Any) -> Any:
    """The server class that starts and ends the application itself, and reports errors in one line."""

    class Server(base):  # type: ignore[misc]
        async def _serve(self, sockets: Any = None) -> None:
            application = self.config.app
            # uvicorn would print an error at startup as a traceback; here it reaches `main`, which prints one line.
            async with application.router.lifespan_context(application):
                await super()._serve(sockets)

        async def shutdown(self, sockets: Any = None) -> None:
            await super().shutdown(sockets)
            # uvicorn would raise the signal once more, so that an orderly end looked like a crash.
            self._captured_signals.clear()

        async def startup(self, sockets: Any = None) -> None:
            try:
                await super().startup(sockets)
            except SystemExit as end:  # uvicorn has logged why it cannot listen, as JSON
                taken = f"{self.config.host}:{self.config.port}"
                print(f"gatepost: cannot listen on {taken}{_why(end.__context__)}", file=sys.stderr)
                raise

    return Server
