"""The files of the page: sent compressed, and stored by browsers for as long as their content is the same.

Their addresses contain a digest of all of them (`/static/DIGEST/app/main.js`), so that a new version is requested at once
and nothing is requested twice. Modules import each other by relative paths and so stay below the same digest.
"""

import asyncio
import gzip
import hashlib
import posixpath
import re
from functools import cache, lru_cache
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose

FOREVER = "public, max-age=31536000, immutable"
ALWAYS_ASK = "no-cache"
# The table of the system may say something else, and takes 0.3 MiB.
MEDIA_TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".svg": "image/svg+xml",
}
COMPRESSIBLE = ("text/", "application/javascript", "image/svg")
DIGEST = re.compile(r"[0-9a-f]{16}/")
IMPORT = re.compile(r"""^\s*(?:import|export)\b[^"';]*"(\.[^"]+)";""", re.M)


class PageFile:
    """What is sent of a file. All of it is found out once, since a visit requests some forty."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self.content = content
        self.media_type = media_type
        self.digest = _digest(content)
        self.etag = f'W/"{self.digest}"'
        self.compressible = media_type.startswith(COMPRESSIBLE)
        self._compressed = b""

    async def compressed(self) -> bytes:
        if not self._compressed:
            self._compressed = await asyncio.to_thread(gzip.compress, self.content, mtime=0)
        return self._compressed


class PageFiles:
    """An ASGI application that sends the files below a folder, which are read once."""

    def __init__(self, folder: Path) -> None:
        names = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        self._files = {name: PageFile(path.read_bytes(), _media_type(name)) for name, path in names.items()}
        self.digest = _digest(repr([(name, file.digest) for name, file in self._files.items()]).encode())
        self._html = cache(self._read_html)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await WebSocketClose()(scope, receive, send)
            return
        request = Request(scope)
        if request.method not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        path = scope["path"].removeprefix(scope.get("root_path", "")).lstrip("/")
        stated = DIGEST.match(path)
        name = path[stated.end() :] if stated else path
        # A page of another version, while servers are replaced, gets the file there is and does not store it.
        is_this = stated is not None and stated[0] == f"{self.digest}/"
        response = await self.response(request, name, FOREVER if is_this else ALWAYS_ASK)
        await response(scope, receive, send)

    async def page(self, request: Request, name: str, *, main: str) -> Response:
        """An HTML file, with the addresses of its files, and with all modules that `main` needs requested at once."""
        return await _answer(request, self._html(name, main), ALWAYS_ASK)

    async def response(self, request: Request, name: str, lifetime: str) -> Response:
        """A file. Raises HTTPException if there is none of this name."""
        file = self._files.get(name)
        if file is None:
            raise HTTPException(404)
        return await _answer(request, file, lifetime)

    def _read_html(self, name: str, main: str) -> PageFile:
        base = f"static/{self.digest}"
        links = "".join(f'    <link rel="modulepreload" href="{base}/{module}" />\n' for module in self._modules(main))
        text = self._files[name].content.decode().replace('="static/', f'="{base}/')
        return PageFile(text.replace("  </head>", f"{links}  </head>", 1).encode(), "text/html; charset=utf-8")

    def _modules(self, main: str) -> list[str]:
        """The module and all that it imports, directly or not."""
        found = [main]
        for module in found:
            imported = IMPORT.findall(self._files[module].content.decode()) if not module.startswith("vendor/") else []
            names = [posixpath.normpath(posixpath.join(posixpath.dirname(module), path)) for path in imported]
            found += [name for name in dict.fromkeys(names) if name not in found]
        return found


async def _answer(request: Request, file: PageFile, lifetime: str) -> Response:
    headers = {"cache-control": lifetime, "etag": file.etag, "vary": "accept-encoding"}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = file.content
    if file.compressible and _accepts_gzip(request.headers.get("accept-encoding", "")):
        headers["content-encoding"] = "gzip"
        content = await file.compressed()
    return Response(content, headers=headers, media_type=file.media_type)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _media_type(name: str) -> str:
    return MEDIA_TYPES.get(posixpath.splitext(name)[1], "text/plain")


@lru_cache(8)  # browsers send one or two of them
def _accepts_gzip(accepted: str) -> bool:
    """Whether a header `Accept-Encoding` admits gzip."""
    offered: dict[str, bool] = {}
    for item in accepted.lower().split(","):
        coding, _, weight = item.partition(";")
        offered[coding.strip()] = weight.replace(" ", "") not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return offered.get("gzip", offered.get("*", False))
