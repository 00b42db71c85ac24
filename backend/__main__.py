"""The command line: `python -m backend serve`, `policy check`, and the verbs of accounts and of the audit."""

import argparse
import json
import resource
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from backend import __version__, accounts_cli, audit_cli
from backend.core.addresses import reachable
from backend.core.admission import Plan, judge, read
from backend.core.decisions import Decision
from backend.core.errors import GatepostError
from backend.core.lexer import Word
from backend.core.policy import Profile, ProfileError
from backend.core.targets import Target
from backend.profiles import load_profile
from backend.settings import Settings, SettingsError, load_settings

EXIT_USAGE = 2
EXIT_DENIED = 126
SHUTDOWN_BOUND = 3  # seconds that open requests get when the server stops; commands have a grace of their own


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
    except (SettingsError, ProfileError, GatepostError) as error:
        print(f"gatepost: {error}", file=sys.stderr)
        return EXIT_USAGE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gatepost", description="One guarded gate through which commands run.")
    parser.add_argument("--version", action="version", version=f"gatepost {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    serve = verbs.add_parser("serve", help="serve the terminal")
    serve.add_argument("--host", help="address to listen on (GATEPOST_HOST, 127.0.0.1)")
    serve.add_argument("--port", type=int, help="port to listen on (PORT, 8000)")
    serve.add_argument("--data-dir", type=Path, help="folder of recordings and workspace (GATEPOST_DATA_DIR, data)")
    serve.set_defaults(run=_serve)
    policy = verbs.add_parser("policy", help="ask the policy").add_subparsers(required=True, metavar="VERB")
    check = policy.add_parser("check", help="judge command lines without running them")
    check.add_argument("--profile", default="terminal", help="a shipped profile, or the path of a TOML file")
    check.add_argument("--json", action="store_true", help="print JSON on a terminal too")
    check.add_argument(
        "lines", nargs="*", metavar="LINE", help="a command line; without any, they come from standard input"
    )
    check.set_defaults(run=_check)
    protection = verbs.add_parser("protection", help="try out what holds commands on this machine")
    protection.add_argument("--data-dir", type=Path, help="folder that the cage is built in (GATEPOST_DATA_DIR, data)")
    protection.add_argument("--json", action="store_true", help="print JSON on a terminal too")
    protection.set_defaults(run=_protection)
    accounts_cli.add_verbs(verbs)
    audit_cli.add_verbs(verbs)
    return parser


def _serve(options: argparse.Namespace) -> int:
    import uvicorn  # only this verb needs the web server

    from backend.server import create_app  # imports everything, which other verbs do without
    from backend.transports.patience import bounded_protocol

    given = {name: getattr(options, name) for name in ("host", "port", "data_dir")}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    # Each socket, viewer and command holds descriptors; the usual soft limit is a remnant of select().
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    application = create_app(settings)
    server = _server_class(uvicorn.Server)(
        uvicorn.Config(
            application,
            host=settings.host,
            port=settings.port,
            loop="asyncio",  # uvloop forks the whole process for every command
            http=bounded_protocol(hard // 2),
            ws="websockets-sansio",
            ws_max_size=64 * 1024,
            ws_per_message_deflate=settings.compression,
            proxy_headers=False,  # addresses are counted by TRUSTED_PROXY_HOPS
            server_header=False,
            access_log=False,
            log_config=None,
            workers=1,  # the limits are counted in this process
            lifespan="off",  # see `_server_class`
            timeout_graceful_shutdown=SHUTDOWN_BOUND,
        )
    )
    server.run()
    return 0 if server.started else 1


def _server_class(base: Any) -> Any:
    """The server class that starts and ends the application itself, and tells once it listens how to reach it."""

    class Server(base):  # type: ignore[misc]
        async def _serve(self, sockets: Any = None) -> None:
            application = self.config.app
            # uvicorn would write what goes wrong at the start as a trace; here it reaches `main`, which says it in a line.
            async with application.router.lifespan_context(application):
                await super()._serve(sockets)

        async def shutdown(self, sockets: Any = None) -> None:
            await super().shutdown(sockets)
            # uvicorn would raise the signal once more, so that an orderly end looked like a crash.
            self._captured_signals.clear()

        async def startup(self, sockets: Any = None) -> None:
            try:
                await super().startup(sockets)
            except SystemExit:  # uvicorn has logged why it cannot listen
                taken = f"{self.config.host}:{self.config.port}"
                print(f"gatepost: cannot listen on {taken}. Try another port: --port 8001", file=sys.stderr)
                raise
            if self.started:
                port = self.servers[0].sockets[0].getsockname()[1]
                state = self.config.app.state
                refusal = state.guard.unprotected()
                welcome = _welcome(self.config.host, port, state.stores.login_link, refusal)
                print(welcome, file=sys.stderr, flush=True)

    return Server


def _welcome(host: str, port: int, ticket: str, refusal: Decision | None) -> str:
    """What the start says: where to go, and whether commands can run at all."""
    address = f"{reachable(host)}:{port}"
    held = f", but runs no command. {refusal.reason}\n{refusal.hint}" if refusal else "."
    login = f"  login  http://{address}/#login={ticket}  (administrator, once, today)\n" if ticket else ""
    return (
        f"\nGatepost {__version__} is ready{held}\n\n"
        f"  page   http://{address}/\n"
        f"{login}"
        f'  wscat  wscat -c ws://{address}/ws/terminal -x \'{{"command":"help"}}\' -w 2\n'
        f"  curl   curl -s http://{address}/health\n"
    )


def _protection(options: argparse.Namespace) -> int:
    from backend.guard import build_guard

    settings = load_settings(**({"data_dir": options.data_dir} if options.data_dir else {}))
    found = build_guard(settings).protection
    plain = sys.stdout.isatty() and not options.json
    print(found.table() if plain else json.dumps(found.as_json()))
    return 0 if found.meets(settings.protection_minimum) else 1


def _check(options: argparse.Namespace) -> int:
    profile = load_profile(options.profile)
    settings = load_settings()
    lines: Iterable[str] = options.lines or (line.rstrip("\n") for line in sys.stdin)
    plain = sys.stdout.isatty() and not options.json
    allowed = True
    for line in lines:
        verdict = judge_line(profile, line, settings)
        allowed &= verdict["allowed"]
        print(_sentence(verdict) if plain else json.dumps(verdict, ensure_ascii=False), flush=True)
    return 0 if allowed else EXIT_DENIED


class _AsWritten:
    """A workspace that is not looked at: globs stay as they are, links are not followed."""

    def __init__(self, root: PurePosixPath) -> None:
        self.root = root

    def enter(self, cwd: str) -> PurePosixPath:
        return self.root / cwd

    def expand(self, words: tuple[Word, ...], cwd: PurePosixPath) -> tuple[str, ...]:
        return tuple(word.text for word in words)

    def check(self, paths: tuple[str, ...], cwd: PurePosixPath) -> None:
        return None


def judge_line(profile: Profile, line: str, settings: Settings) -> dict[str, Any]:
    """The verdict of `policy check`: globs are judged as they are written, links are not followed."""
    script = read(line, profile)
    if isinstance(script, Decision):
        return _verdict(line, script, ())
    if refusal := profile.check_count(len(script.words)):
        return _verdict(line, refusal, script.argv)
    root = PurePosixPath(settings.workspace_dir)
    plan = judge(script, Target(profile, _AsWritten(root)), root)
    return _verdict(line, plan.decision if isinstance(plan, Plan) else plan, script.argv)


def _verdict(line: str, decision: Decision, argv: tuple[str, ...]) -> dict[str, Any]:
    return {
        "command": line,
        "allowed": decision.allowed,
        "rule": decision.rule,
        "reason": decision.reason,
        "risk": str(decision.risk),
        "argv": list(argv),
    }


def _sentence(verdict: dict[str, Any]) -> str:
    word = "allowed" if verdict["allowed"] else "denied"
    return f"{word:<8} {verdict['rule']:<20} {verdict['command']}\n{'':8} {verdict['reason']}"


if __name__ == "__main__":
    sys.exit(main())
