"""An HTTP server with the part of Mailpit's HTTP API that test helpers of other languages use.

``mailauth test-server`` runs it.  It is not part of the public API.
"""

from __future__ import annotations

import contextlib
import re
import selectors
import socket
import threading
import time
from collections.abc import Collection
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, cast
from urllib.parse import urlsplit

from mailauth import LocalProtocolError
from mailauth.addresses import LOOPBACK, is_within

from ._http_resources import Api, ApiError, Response
from .mail_server import MailServer

MAX_BODY: Final = 1024 * 1024
"""The number of bytes that the body of a request may have."""

MAX_CONNECTIONS: Final = 100
"""Connections over this number are closed at once."""

MAX_KEPT_CONNECTIONS: Final = 20
"""While there are more connections, each is closed after its response: idle ones must not use up the limit."""

DISCARD_TIME: Final = 2.0
"""Seconds in which the rest of a rejected request is read, so that the client receives the response."""

TIMEOUT: Final = 30.0
"""Seconds after which a connection that sends or reads nothing is closed."""

_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_MAX_LINE: Final = 8192
_MAX_TRAILERS: Final = 100

_SECURITY_HEADERS: Final = {
    # A message may contain HTML from anywhere: it must not run scripts, which could use this API.
    "Content-Security-Policy": "default-src 'none'; img-src * data:; media-src *; font-src * data:; "
    "style-src * 'unsafe-inline'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Handler(BaseHTTPRequestHandler):
    """Reads requests from one connection."""

    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT

    @property
    def _api_server(self) -> _Server:
        return cast(_Server, self.server)

    def respond(self) -> None:
        try:
            self._check_target()
            body = self._read_body()
        except ApiError as error:
            self._reject(str(error), error.status)
        else:
            self._send(self._api_server.api.respond(self.command, self.path, body))

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = respond

    def _check_target(self) -> None:
        """Reject requests of web pages: of other origins, and for names that point to this address (DNS rebinding).

        Raises ApiError.
        """
        hosts = self.headers.get_all("Host", [])
        if len(hosts) > 1 or (not hosts and self.request_version != "HTTP/1.0"):
            raise ApiError("one Host header is required (RFC 9112 section 3.2)")
        if not self.path.startswith("/"):
            raise ApiError("the request target must be a path")
        if hosts and not self._is_local(hosts[0].strip()):
            raise ApiError("the Host is not a name of this server; use localhost or 127.0.0.1", HTTPStatus.FORBIDDEN)
        for origin in self.headers.get_all("Origin", []):
            if not hosts or origin.strip().lower() != f"http://{hosts[0].strip().lower()}":
                raise ApiError("requests of other origins are not answered", HTTPStatus.FORBIDDEN)

    def _is_local(self, host: str) -> bool:
        """Return whether *host*, perhaps with a port, names this server."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if "@" in host or "/" in host or "?" in host or "#" in host:
            return False
        name = name.removesuffix(".")
        if name == "localhost" or name.endswith(".localhost") or name in self._api_server.names:
            return True
        if name == self.connection.getsockname()[0]:
            return True
        try:
            return is_within(name, LOOPBACK)
        except LocalProtocolError:  # a name
            return False

    def _read_body(self) -> bytes:
        """Raises ApiError if the body has no valid length, or is too large."""
        encodings = self.headers.get_all("Transfer-Encoding", [])
        lengths = self.headers.get_all("Content-Length", [])
        if encodings and lengths:
            raise ApiError("Content-Length and Transfer-Encoding cannot be combined")
        if encodings:
            if len(encodings) > 1 or encodings[0].strip().lower() != "chunked":
                raise ApiError("the Transfer-Encoding must be chunked", HTTPStatus.NOT_IMPLEMENTED)
            return self._read_chunks()
        if not lengths:
            return b""
        if len(lengths) != 1 or not re.fullmatch("[0-9]{1,15}", lengths[0].strip()):
            raise ApiError("Content-Length is invalid")
        return self._read_exactly(int(lengths[0]))

    def _read_chunks(self) -> bytes:
        """Return a body in chunks (RFC 9112 section 7.1).  Raises ApiError."""
        body = bytearray()
        while True:
            found = _CHUNK_SIZE.fullmatch(self.rfile.readline(_MAX_LINE))
            if found is None:
                raise ApiError("a chunk has no valid size")
            size = int(found[1], 16)
            if size == 0:
                break
            body += self._read_exactly(size, len(body))
            if self.rfile.readline(3) not in (b"\r\n", b"\n"):
                raise ApiError("a chunk is longer than its size")
        for _ in range(_MAX_TRAILERS):
            if self.rfile.readline(_MAX_LINE) in (b"\r\n", b"\n"):
                return bytes(body)
        raise ApiError("the body has no valid end")

    def _read_exactly(self, size: int, before: int = 0) -> bytes:
        """Return *size* bytes of a body, of which *before* bytes were read.  Raises ApiError."""
        if before + size > MAX_BODY:
            raise ApiError(f"the body must have at most {MAX_BODY} bytes", HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        found = self.rfile.read(size)
        if len(found) < size:
            raise ApiError("the body is incomplete")
        return found

    def _reject(self, text: str, status: HTTPStatus) -> None:
        """Send an error and close the connection, as it is not known where the next request begins."""
        self._send(Response(text.encode(), status=status, headers={"Connection": "close"}))
        # If unread data is left when the socket is closed, the system resets the connection, and the response is lost.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(DISCARD_TIME)
            deadline = time.monotonic() + DISCARD_TIME
            while self.rfile.read1(65536) and time.monotonic() < deadline:
                pass

    def _send(self, response: Response) -> None:
        self.send_response(response.status)
        self.send_header("Content-Type", response.content_type)
        self.send_header("Content-Length", str(len(response.body)))
        headers = {**_SECURITY_HEADERS, **response.headers}
        if self._api_server.is_crowded():
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)  # with "Connection: close", this method also closes the connection
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(response.body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Reject a request that the base class cannot read, with a text."""
        self.request_version = self.protocol_version  # what was read may be anything
        status = HTTPStatus(code)
        self._reject(status.phrase, status)

    def version_string(self) -> str:
        return "mailauth"

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the output belongs to the program that runs the tests."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = MAX_CONNECTIONS  # with the default of 5, clients that connect at once wait for seconds

    def __init__(self, address: tuple[str, int], api: Api, names: Collection[str] = ()) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.api: Final = api
        self.names: Final = frozenset(name.lower() for name in (address[0], *names))
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._stopped, self._stop = socket.socketpair()
        try:
            super().__init__(address, _Handler)
        except BaseException:
            self._close_pair()
            raise

    def serve(self) -> None:
        """Accept connections until ``stop()``."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            while all(key.fileobj is not self._stopped for key, _ in selector.select()):
                self.handle_request()

    def stop(self) -> None:
        """Let ``serve()`` return at once."""
        self._stop.close()

    def _close_pair(self) -> None:
        self._stop.close()
        self._stopped.close()

    def server_bind(self) -> None:
        """Bind without the look-up of the host name, which the base class does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.settimeout(1.0)  # accept() must not wait for a connection that was reset
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._lock:
            if len(self._connections) >= MAX_CONNECTIONS:
                return False
            self._connections.add(request)
            return True

    def is_crowded(self) -> bool:
        """Return whether there are too many connections to keep one that is idle."""
        with self._lock:
            return len(self._connections) > MAX_KEPT_CONNECTIONS

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing: the client has closed the connection, or does not read."""

    def close(self) -> None:
        """Close all sockets."""
        self.server_close()
        self._close_pair()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client has closed it
                    connection.shutdown(socket.SHUT_RDWR)


class HttpApi:
    """Serves the API over HTTP in a thread, for the messages of a mail server.

    Only programs on this machine can connect, unless *host* is another address.  The API has no login.

    For example:

        with HttpApi(server) as api:
            urllib.request.urlopen(f"{api.url}/api/v1/messages")

    Raises OSError if it cannot listen.
    """

    def __init__(
        self, server: MailServer, *, host: str = "127.0.0.1", port: int = 0, names: Collection[str] = ()
    ) -> None:
        """*names* are those in the URLs of clients, besides localhost and the address *host*."""
        self._server = _Server((host, port), Api(server), names)
        self._thread = threading.Thread(target=self._server.serve, name="mailauth HTTP API", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """The URL without a path, such as ``http://127.0.0.1:8025``.

        If the API listens on all addresses, the URL has the loopback address.
        """
        name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._server.server_name, self._server.server_name)
        return f"http://[{name}]:{self.port}" if ":" in name else f"http://{name}:{self.port}"

    def close(self) -> None:
        """Close all connections.  It may be called more than once."""
        self._server.stop()
        self._thread.join()
        self._server.close()

    def __enter__(self) -> HttpApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
