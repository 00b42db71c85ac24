"""`serve`: the server."""

import argparse
import errno
import resource
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from backend.cli.workers import Workers
from backend.core.errors import reason_of
from backend.runtime.collector import nothing_is_garbage
from backend.runtime.settings import Settings, SettingsError, load_settings

MOST_WORKERS = 64
BACKLOG = 2048  # connections that wait, as with one process
SHUTDOWN_BOUND = 3  # seconds that open requests get when the server stops; commands have a grace of their own


def add_verbs(verbs: Any) -> None:
    """Add `serve` to the command line."""
    serve = verbs.add_parser("serve", help="serve the terminal")
    serve.add_argument("--host", help="address to listen on (GATEPOST_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (PORT, 8000)")
    serve.add_argument("--data-dir", type=Path, help="folder of recordings and workspace (GATEPOST_DATA_DIR, data)")
    serve.add_argument("--workers", type=int, default=1, help="processes that serve, which needs REDIS_URL (1)")
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    given = {name: getattr(options, name) for name in ("host", "port", "data_dir")}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    if options.workers == 1:
        return _work(settings, None)
    if not (1 < options.workers <= MOST_WORKERS and settings.redis_url):
        raise SettingsError(
            f"--workers: from 1 to {MOST_WORKERS}; several reach the executions of each other over Redis, so REDIS_URL must be set."
        )
    return _share(settings, options.workers)


def _share(settings: Settings, count: int) -> int:
    """Have several processes accept the connections of one socket."""
    with nothing_is_garbage():
        import backend.runtime.wiring  # noqa: F401  once, for all of them
    try:
        listening = socket.create_server((settings.host, settings.port), backlog=BACKLOG, family=_family(settings.host))
    except OSError as error:
        print(f"gatepost: cannot listen on {settings.host}:{settings.port}{_why(error)}", file=sys.stderr)
        return 1
    return Workers(count, lambda number, ready: _work(settings, listening, greets=number == 0, ready=ready)).run()


def _work(
    settings: Settings, listening: socket.socket | None, *, greets: bool = True, ready: Callable[[], object] = bool
) -> int:
    with nothing_is_garbage():
        server = _server(settings, ready, greets=greets)
    from backend.runtime.logs import release_output

    server.run([listening] if listening else None)
    release_output()
    return 0 if server.started else 1


def _server(settings: Settings, ready: Callable[[], object], *, greets: bool) -> Any:
    import uvicorn  # only this verb needs the web server

    from backend.runtime.wiring import create_app  # imports everything, which other verbs do without
    from backend.transports.bounded_socket import BoundedSocket
    from backend.transports.request_timeout import bounded_protocol

    # Each socket, viewer and command holds descriptors; the usual soft limit is a remnant of select().
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _server_class(uvicorn.Server, ready)(
        uvicorn.Config(
            create_app(settings, greets=greets),
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
            workers=1,  # see `_share`
            lifespan="off",  # see `_server_class`
            timeout_graceful_shutdown=SHUTDOWN_BOUND,
        )
    )


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


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


def _server_class(base: Any, ready: Callable[[], object]) -> Any:
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
                ready()
            except SystemExit as end:  # uvicorn has logged why it cannot listen, as JSON
                taken = f"{self.config.host}:{self.config.port}"
                print(f"gatepost: cannot listen on {taken}{_why(end.__context__)}", file=sys.stderr)
                raise

    return Server
