"""The demo's server: one page and its answers, only for this machine.

It refuses what a browser sends from another site: by Host (a name rebound to 127.0.0.1), and by Origin or
Sec-Fetch-Site (a form or script of another site). Uploads stay in memory, limited in size, number and time.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any

from otx.demo.answer import Answerer, Example
from otx.demo.port import HOST
from otx.errors import ImageError

PAGE = Path(__file__).parent / "page.html"
MAX_BYTES = 20_000_000
# any port: an ssh tunnel may use another one
OWN_HOSTS = re.compile(r"(127\.0\.0\.1|localhost)(:[0-9]{1,5})?")
UPLOADS = 4
TIMEOUT = 15.0
BODY_SECONDS = 60.0
LINGER_SECONDS = 2.0
PIECE = 65_536
READ = ("GET", "HEAD")
NO_MAPS = "maps=false"
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
NO_HEADERS: Mapping[str, str] = {}
POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_log = logging.getLogger("otx")


class Demo:
    """A demo that runs until `close`, or to the end of the `with` block it is used in.

    Args:
        about: what the page says about the model.
        taken: the socket to listen on, from `take_port`; closed with the demo.
    """

    def __init__(
        self, answerer: Answerer, examples: Sequence[Example], about: dict[str, str], taken: socket.socket
    ) -> None:
        self._server = _Server(answerer, examples, about, taken)
        self.url = f"http://{HOST}:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Demo:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Block until the demo is closed, or Ctrl-C."""
        self._thread.join()

    def close(self) -> None:
        """End the demo, and free its port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingTCPServer):
    # not HTTPServer, which would look up this machine's name in the network before it starts
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 32

    def __init__(
        self, answerer: Answerer, examples: Sequence[Example], about: dict[str, str], taken: socket.socket
    ) -> None:
        self.answerer, self.examples = answerer, examples
        self.slots = threading.BoundedSemaphore(UPLOADS)
        self.page = PAGE.read_bytes()
        self.policy = _policy(self.page.decode())
        self.model = {
            **about,
            "classes": list(answerer.card.classes),
            "max_bytes": MAX_BYTES,
            "examples": [
                {"label": each.label, "thumbnail": each.thumbnail, "mistaken_for": each.mistaken_for}
                for each in examples
            ],
        }
        super().__init__(taken.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = taken
        self.server_activate()

    def handle_error(self, request: Any, client_address: Any) -> None:
        _log.debug("a connection of the demo was lost", exc_info=True)


class _Refusal(Exception):
    """A refused request: the status, the reason, and extra headers."""

    def __init__(self, status: HTTPStatus, reason: str, **headers: str) -> None:
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


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
            self._send(HTTPStatus.OK, *self._answer())
        except _Refusal as refusal:
            self._send(refusal.status, JSON, _json({"error": refusal.reason}), refusal.headers)
        except ImageError as error:
            self._send(HTTPStatus.UNPROCESSABLE_ENTITY, JSON, _json({"error": error.what}))
        except ConnectionError:
            raise
        except Exception as error:  # any error of the network's runtime: the page shows it, the demo goes on
            _log.exception("the demo could not answer")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, JSON, _json({"error": f"{type(error).__name__}: {error}"}))
        if self._unread:
            self._discard()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Do nothing: the demo keeps no record of requests."""

    def _answer(self) -> tuple[str, bytes]:
        if not OWN_HOSTS.fullmatch(self.headers.get("Host", "")):
            raise _Refusal(HTTPStatus.FORBIDDEN, f"this demo answers at {HOST} and localhost alone")
        methods, answer = self._route()
        if self.command not in methods:
            allowed = ", ".join(methods)
            raise _Refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{self.path} takes {allowed} alone", Allow=allowed)
        return answer()

    def _route(self) -> tuple[tuple[str, ...], Callable[[], tuple[str, bytes]]]:
        path, server = self.path.partition("?")[0], self.server
        if path == "/":
            return READ, lambda: (HTML, server.page)
        if path == "/model":
            return READ, lambda: (JSON, _json(server.model))
        if path == "/classify":
            return ("POST",), lambda: self._classify(self._body)
        found = re.fullmatch(r"/examples/(\d{1,4})", path, re.ASCII)
        if found and int(found[1]) < len(server.examples):
            return ("POST",), lambda: self._classify(lambda: server.examples[int(found[1])].path)
        raise _Refusal(HTTPStatus.NOT_FOUND, "there is no such page")

    def _classify(self, photo: Callable[[], bytes | Path]) -> tuple[str, bytes]:
        self._check_origin()
        if not self.server.slots.acquire(blocking=False):
            reason = f"{UPLOADS} photos are being looked at already: try again"
            raise _Refusal(HTTPStatus.SERVICE_UNAVAILABLE, reason, **{"Retry-After": "1"})
        try:
            maps = self.path.partition("?")[2] != NO_MAPS
            return JSON, _json(self.server.answerer.answer(photo(), maps=maps).to_dict())
        finally:
            self.server.slots.release()

    def _check_origin(self) -> None:
        """Refuse a POST from another site. Browsers send its origin; a client that sends none is not a browser."""
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site", "none")
        if origin not in (None, f"http://{self.headers['Host']}") or site not in ("same-origin", "none"):
            raise _Refusal(HTTPStatus.FORBIDDEN, "another site may not ask this demo")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"\d{1,18}", length, re.ASCII) or "Transfer-Encoding" in self.headers:
            raise _Refusal(HTTPStatus.LENGTH_REQUIRED, "the upload does not say how long it is")
        if int(length) > MAX_BYTES:
            reason = f"{int(length) / 1e6:.1f} MB are more than the limit of {MAX_BYTES / 1e6:g} MB"
            raise _Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
        data, deadline = bytearray(), time.monotonic() + BODY_SECONDS
        while len(data) < int(length):
            try:
                piece = self.rfile.read1(min(PIECE, int(length) - len(data)))
            except TimeoutError:
                deadline = 0.0
            if time.monotonic() > deadline:
                raise _Refusal(HTTPStatus.REQUEST_TIMEOUT, "the upload takes too long")
            if not piece:
                raise _Refusal(HTTPStatus.BAD_REQUEST, "the upload ended before it was complete")
            data += piece
        self._unread = False
        return bytes(data)

    def _send(self, status: HTTPStatus, kind: str, data: bytes, headers: Mapping[str, str] = NO_HEADERS) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Security-Policy", self.server.policy)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _discard(self) -> None:
        """Read the rest of the upload: closing the connection before that would reset it, and lose the answer."""
        self.connection.shutdown(socket.SHUT_WR)
        deadline = time.monotonic() + LINGER_SECONDS
        while (left := deadline - time.monotonic()) > 0:
            self.connection.settimeout(left)
            if not self.rfile.read1(PIECE):
                return


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def _policy(page: str) -> str:
    """A content security policy that allows only the page's own script and style, by hash."""

    def hashes(tag: str) -> str:
        blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(block.encode()).digest()).decode() for block in blocks)
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return POLICY.format(script=hashes("script"), style=hashes("style"))
