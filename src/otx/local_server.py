"""The server of otx's own pages: one page and its answers, only for this machine.

It refuses what a browser sends from another site: by Host (a name rebound to 127.0.0.1), and by Origin or
Sec-Fetch-Site (a form or script of another site). What is sent to it stays in memory, limited in size, number and time.
The port is taken before anything else, so that an error comes at once if it is not available.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any, Protocol

from otx.errors import ImageError, UsageError

HOST = "127.0.0.1"
MAX_BYTES = 20_000_000
# any port: an ssh tunnel may use another one
OWN_HOSTS = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")
UPLOADS = 4
TIMEOUT = 15.0
BODY_SECONDS = 60.0
LINGER_SECONDS = 2.0
PIECE = 65_536
READ = ("GET", "HEAD")
WRITE = ("POST",)
JSON = "application/json"
HTML = "text/html; charset=utf-8"
HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src {images}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_log = logging.getLogger("otx")


def take_port(port: int) -> socket.socket:
    """A socket that is bound to a port of this machine; 0 takes a free port.

    Raises:
        UsageError: the port is taken, or there is no such port.
    """
    taken = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name == "posix":
            # allow a port with old connections in TIME_WAIT; on Windows this would also take a port in use
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((HOST, port))
        # on Linux two sockets may be bound to a port until one of them listens, so listen at once
        taken.listen(0)
    except (OSError, OverflowError) as error:
        taken.close()
        reason = error.strerror if isinstance(error, OSError) else "must be from 0 to 65535"
        raise UsageError(f"--port {port}: {reason}", fix="leave --port out: a free one is taken") from error
    return taken


class Refusal(Exception):
    """A refused request: the status, the reason, and extra headers."""

    def __init__(self, status: HTTPStatus, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


@dataclass(frozen=True)
class Reply:
    """What a request is answered with, and headers that replace the usual ones."""

    kind: str
    data: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """A request: what follows `?` in its address, and a function that reads what was sent with it."""

    query: str
    body: Callable[[], bytes]


@dataclass(frozen=True)
class Route:
    """The methods that an address takes, and what answers it."""

    methods: tuple[str, ...]
    answer: Callable[[Asked], Reply]


class Site(Protocol):
    """A page and its answers.

    Attributes:
        name: what it is called in messages: "demo".
        page: the HTML at its root; its script and style are allowed by their hashes.
        images: where its pictures may come from, as in a content security policy.
        busy: the reason to refuse a POST while others are answered.
    """

    name: str
    page: bytes
    images: str
    busy: str

    def route(self, path: str) -> Route | None:
        """What answers an address that begins with `/`; None if there is no such page."""


class PageServer:
    """Serves a site in threads until `close`, or to the end of the `with` block it is used in.

    Args:
        taken: the socket to listen on, from `take_port`; closed with the server.
    """

    def __init__(self, site: Site, taken: socket.socket) -> None:
        self._server = _Server(site, taken)
        self.url = f"http://{HOST}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Block until the server is closed, or Ctrl-C."""
        self._thread.join()

    def close(self) -> None:
        """End the server, and free its port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingTCPServer):
    # not HTTPServer, which would look up this machine's name in the network before it starts
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def __init__(self, site: Site, taken: socket.socket) -> None:
        self.site = site
        self.slots = threading.BoundedSemaphore(UPLOADS)
        self.policy = _policy(site.page.decode(), site.images)
        super().__init__(taken.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = taken
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a connection of the %s was lost", self.site.name, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = TIMEOUT
    server_version = "otx"
    sys_version = ""
    error_content_type = "text/plain"
    error_message_format = "%(code)d: %(message)s\n"

    def do_GET(self) -> None:
        self._unread = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers
        try:
            self._send(HTTPStatus.OK, self._answer())
        except Refusal as refusal:
            self._send(refusal.status, error_reply(refusal.reason, refusal.headers))
        except ImageError as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, error_reply(error.what))
        except (ConnectionError, TimeoutError):  # who asked is gone, or has stopped reading
            raise
        except Exception as error:  # any error of a library: the page shows it, the server goes on
            _log.exception("the %s could not answer", self.server.site.name)
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, error_reply(f"{type(error).__name__}: {error}"))
        if self._unread:
            self._discard()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing: the server keeps no record of requests."""

    def _answer(self) -> Reply:
        if not OWN_HOSTS.fullmatch(self.headers.get("Host", "")):
            raise Refusal(HTTPStatus.FORBIDDEN, f"this {self.server.site.name} answers at {HOST} and localhost alone")
        path, _, query = self.path.partition("?")
        route = self.server.site.route(path)
        if route is None:
            raise Refusal(HTTPStatus.NOT_FOUND, "there is no such page")
        if self.command not in route.methods:
            allowed = ", ".join(route.methods)
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.path} takes {allowed} alone", Allow=allowed)
        asked = Asked(query, self._body)
        return self._change(route, asked) if self.command == "POST" else route.answer(asked)

    def _change(self, route: Route, asked: Asked) -> Reply:
        self._check_origin()
        if not self.server.slots.acquire(blocking=False):
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, self.server.site.busy, **{"Retry-After": "1"})
        try:
            return route.answer(asked)
        finally:
            self.server.slots.release()

    def _check_origin(self) -> None:
        """Refuse a POST from another site. Browsers send its origin; a client that sends none is not a browser."""
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site", "none")
        if origin not in (None, f"http://{self.headers['Host']}") or site not in ("same-origin", "none"):
            raise Refusal(HTTPStatus.FORBIDDEN, f"another site may not ask this {self.server.site.name}")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,18}", length, re.ASCII) or "Transfer-Encoding" in self.headers:
            raise Refusal(HTTPStatus.LENGTH_REQUIRED, "the upload does not say how long it is")
        if int(length) > MAX_BYTES:
            reason = f"{int(length) / 1e6:.1f} MB are more than the limit of {MAX_BYTES / 1e6:g} MB"
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
        data, deadline = bytearray(), time.monotonic() + BODY_SECONDS
        while len(data) < int(length):
            try:
                piece = self.rfile.read1(min(PIECE, int(length) - len(data)))
            except TimeoutError:
                deadline = 0.0
            if time.monotonic() > deadline:
                raise Refusal(HTTPStatus.REQUEST_TIMEOUT, "the upload takes too long")
            if not piece:
                raise Refusal(HTTPStatus.BAD_REQUEST, "the upload ended before it was complete")
            data += piece
        self._unread = False
        return bytes(data)

    def _send(self, status: HTTPStatus, reply: Reply) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("Content-Type", reply.kind)
        self.send_header("Content-Length", str(len(reply.data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.data)

    def _discard(self) -> None:
        """Read the rest of the upload: closing the connection before that would reset it, and lose the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            self.connection.settimeout(left)
            if not self.rfile.read1(PIECE):
                return


def json_reply(data: Any) -> Reply:
    return Reply(JSON, json.dumps(data, ensure_ascii=False).encode("utf-8", "backslashreplace"))


def error_reply(reason: str, headers: Mapping[str, str] | None = None) -> Reply:
    return Reply(JSON, json_reply({"error": reason}).data, headers or {})


def _policy(page: str, images: str) -> str:
    """A content security policy that allows only the page's own script and style, by hash."""

    def hashes(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return POLICY.format(script=hashes("script"), style=hashes("style"), images=images)
