"""An HTTP server with the part of Mailpit's HTTP API that test helpers of other languages use.

``mailauth test-server`` runs it.  It is not part of the public API.  ``HttpApi`` is the server.  ``Api`` has the
resources, and uses no sockets.
"""

from __future__ import annotations

import contextlib
import json
import re
import resource
import secrets
import selectors
import socket
import string
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Final, cast
from urllib.parse import parse_qs, quote, urlsplit

import attrs

import mailauth
from mailauth import LocalProtocolError
from mailauth.addresses import LOOPBACK, is_within

from . import _http_messages as messages, _http_search as search
from ._chaos import Chaos, ChaosError
from ._http_messages import Content, Summary
from .mail_server import MailServer
from .message import Message

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

DEFAULT_LIMIT: Final = 50
"""The number of messages in a list that names no limit."""

_ID_ALPHABET: Final = string.ascii_letters + string.digits
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,15}")
_CID: Final = re.compile(r"(?<=[=\"'(])cid:([^\"'\s>);]+)(?=[\"'\s>);])", re.IGNORECASE)
_CHUNK_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n")
_MAX_LINE: Final = 8192
_MAX_TRAILERS: Final = 100
_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"

_SECURITY_HEADERS: Final = {
    # A message may contain HTML from anywhere: it must not run scripts, which could use this API.
    "Content-Security-Policy": "default-src 'none'; img-src * data:; media-src *; font-src * data:; "
    "style-src * 'unsafe-inline'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


@attrs.frozen
class Response:
    """An HTTP response."""

    body: bytes
    content_type: str = _TEXT
    status: HTTPStatus = HTTPStatus.OK
    headers: Mapping[str, str] = attrs.field(factory=dict[str, str])


class ApiError(Exception):
    """The request is rejected with *status*."""

    def __init__(self, text: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST, **headers: str) -> None:
        super().__init__(text)
        self.status = status
        self.headers = headers


class Entry:
    """A message with its id and its read status."""

    def __init__(self, message: Message) -> None:
        self.message: Final = message
        self.id: Final = "".join(secrets.choice(_ID_ALPHABET) for _ in range(22))
        self.received: Final = message.received
        self.read = False
        self._summary: Summary | None = None

    @property
    def summary(self) -> Summary:
        if self._summary is None:
            self._summary = self.content().summary  # the content is not kept: it may be large
        return self._summary

    def content(self) -> Content:
        return messages.parse(self.message)

    def to_json(self) -> dict[str, Any]:
        """Return the entry as it is in a list."""
        return {
            "ID": self.id,
            "Read": self.read,
            "Created": messages.timestamp(self.received),
            **self.summary.to_json(),
            "Attachments": self.summary.attachments,
            "Snippet": self.summary.snippet,
        }


class Inbox:
    """The messages of the server, each with an id that no other message gets."""

    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._lock = threading.RLock()
        self._entries: dict[int, Entry] = {}
        self.accepted = 0
        self.accepted_size = 0
        self.deleted = 0

    def entries(self) -> list[Entry]:
        """Return the messages, the newest first."""
        with self._lock:
            present: dict[int, Entry] = {}
            for message in self._server.messages:
                # By identity: the same message may be sent twice.  An entry keeps its message, so no id() is reused.
                entry = self._entries.get(id(message))
                if entry is None:
                    entry = Entry(message)
                    self.accepted += 1
                    self.accepted_size += len(message.raw)
                present[id(message)] = entry
            self._entries = present
            return list(reversed(present.values()))

    def entry(self, name: str, query: str, zone: str) -> Entry:
        """Return the message with the id *name*; ``latest`` is the newest that *query* matches.  Raises ApiError."""
        found = self.entries()
        if name == "latest":
            if query:
                found = _search(found, query, zone)
        else:
            found = [entry for entry in found if entry.id == name]
        if not found:
            raise ApiError("Message not found", HTTPStatus.NOT_FOUND)
        return found[0]

    def delete(self, entries: Sequence[Entry]) -> None:
        with self._lock:
            present = {id(entry) for entry in self.entries()}
            found = [entry for entry in entries if id(entry) in present]
            self._server.delete(*(entry.message for entry in found))
            self.deleted += len(found)


@attrs.frozen(kw_only=True)
class Request:
    """A request for a resource."""

    parameters: Mapping[str, str]
    """The parameters in the path."""
    query: Mapping[str, str]
    body: bytes

    def number(self, name: str, lowest: int, default: int) -> int:
        """Return a number of the query; *default* if it is absent, invalid, or less than *lowest*."""
        text = self.query.get(name, "")
        found = int(text) if _NUMBER.fullmatch(text) else default
        return found if found >= lowest else default

    def fields(self) -> dict[str, Any]:
        """Return the JSON object in the body, with its keys in lower case, as case is ignored.  Raises ApiError."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            raise ApiError("the body is invalid JSON; send an object such as {}") from None
        if found is None:
            return {}
        if not isinstance(found, dict):
            raise ApiError("the body must be a JSON object such as {}")
        return {key.lower(): value for key, value in cast("dict[str, Any]", found).items()}

    def ids(self, fields: Mapping[str, Any]) -> frozenset[str]:
        """Return the ids in *fields*; empty if *fields* has no ids.  Raises ApiError."""
        found = fields.get("ids")
        if found is None:
            return frozenset()
        ids = cast("list[object]", found) if isinstance(found, list) else [None]
        if not all(isinstance(each, str) for each in ids):
            raise ApiError('IDs must be a list of texts such as {"IDs": ["..."]}')
        return frozenset(map(str, ids))


class Api:
    """The resources of the API for the messages of one mail server."""

    def __init__(self, server: MailServer) -> None:
        self._inbox = Inbox(server)
        self._chaos = Chaos(server)
        self._started_at = time.monotonic()
        one = r"/api/v1/message/(?P<id>[A-Za-z0-9]+)"
        routes: tuple[tuple[str, str, Callable[[Request], Response]], ...] = (
            ("GET", r"/livez", self._healthy),
            ("GET", r"/readyz", self._healthy),
            ("GET", r"/api/v1/info", self._info),
            ("GET", r"/api/v1/messages", self._list),
            ("PUT", r"/api/v1/messages", self._set_read),
            ("DELETE", r"/api/v1/messages", self._delete),
            ("GET", r"/api/v1/search", self._search),
            ("DELETE", r"/api/v1/search", self._delete_search),
            ("GET", one, self._message),
            ("GET", one + r"/raw", self._raw),
            ("GET", one + r"/headers", self._headers),
            ("GET", one + r"/part/(?P<part>[0-9.]+)", self._part),
            ("GET", r"/view/(?P<id>[A-Za-z0-9]+)\.txt", self._view_text),
            ("GET", r"/view/(?P<id>[A-Za-z0-9]+)\.html", self._view_html),
            ("GET", r"/api/v1/chaos", self._get_chaos),
            ("PUT", r"/api/v1/chaos", self._set_chaos),
        )
        self._routes = [(method, re.compile(pattern), handler) for method, pattern, handler in routes]

    def respond(self, method: str, target: str, body: bytes) -> Response:
        """Return the response to a request for *target*, a path and perhaps a query.  Raises nothing."""
        try:
            return self._respond(method, target, body)
        except ApiError as error:
            return Response(str(error).encode(), status=error.status, headers=error.headers)
        except (ChaosError, search.SearchError) as error:
            return Response(str(error).encode(), status=HTTPStatus.BAD_REQUEST)
        except Exception as error:  # a bug must not end the connection without a response
            text = f"the server failed: {type(error).__name__}"
            return Response(text.encode(), status=HTTPStatus.INTERNAL_SERVER_ERROR)

    def _respond(self, method: str, target: str, body: bytes) -> Response:
        try:
            parts = urlsplit(target)
            found = parse_qs(parts.query, keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise ApiError("the URL is invalid") from None
        query = {name: values[0] for name, values in found.items()}
        allowed: list[str] = []
        for route_method, pattern, handler in self._routes:
            match = pattern.fullmatch(parts.path)
            if match is None:
                continue
            if route_method == ("GET" if method == "HEAD" else method):
                return handler(Request(parameters=match.groupdict(), query=query, body=body))
            allowed.append(route_method)
        if allowed:
            raise ApiError("Method Not Allowed", HTTPStatus.METHOD_NOT_ALLOWED, Allow=", ".join(allowed))
        raise ApiError("404 page not found", HTTPStatus.NOT_FOUND)

    def _healthy(self, request: Request) -> Response:
        return Response(b"")

    def _info(self, request: Request) -> Response:
        entries = self._inbox.entries()
        size = sum(len(entry.message.raw) for entry in entries)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return _json(
            {
                "Version": mailauth.__version__,
                "LatestVersion": mailauth.__version__,
                "Database": "",
                "DatabaseSize": size,
                "Messages": len(entries),
                "Unread": _unread(entries),
                "Tags": {},
                "RuntimeStats": {
                    "Uptime": int(time.monotonic() - self._started_at),
                    "Memory": peak if sys.platform == "darwin" else peak * 1024,
                    "MessagesDeleted": self._inbox.deleted,
                    "SMTPAccepted": self._inbox.accepted,
                    "SMTPAcceptedSize": self._inbox.accepted_size,
                    "SMTPRejected": 0,
                    "SMTPIgnored": 0,
                },
            }
        )

    def _list(self, request: Request) -> Response:
        entries = self._inbox.entries()
        found = _received_before(entries, request)
        start = request.number("start", 0, 0)
        limit = request.number("limit", 0, DEFAULT_LIMIT)
        shown = found[start : start + limit] if limit else found  # with 0, all are shown
        return _summaries(entries, entries, shown, start)

    def _search(self, request: Request) -> Response:
        entries = self._inbox.entries()
        found = _received_before(_search(entries, *_search_query(request)), request)
        start = request.number("start", 0, 0)
        limit = request.number("limit", 0, DEFAULT_LIMIT)
        return _summaries(entries, found, found[start : start + limit], start)

    def _set_read(self, request: Request) -> Response:
        fields = request.fields()
        read, query = fields.get("read") or False, fields.get("search") or ""
        if not isinstance(read, bool):
            raise ApiError("Read must be true or false")
        if not isinstance(query, str):
            raise ApiError("Search must be a text")
        ids = request.ids(fields)
        if ids and query:
            raise ApiError("IDs and Search cannot be combined; send one of them")
        entries = self._inbox.entries()
        if query.strip():
            entries = _search(entries, query, request.query.get("tz", ""))
        elif ids:
            entries = [entry for entry in entries if entry.id in ids]
        for entry in entries:
            entry.read = read
        return _OK

    def _delete(self, request: Request) -> Response:
        # Without a body, all are deleted.  A body that is not valid is refused: it may be a list of ids.
        ids = request.ids(request.fields()) if request.body.strip() else frozenset[str]()
        self._inbox.delete([entry for entry in self._inbox.entries() if not ids or entry.id in ids])
        return _OK

    def _delete_search(self, request: Request) -> Response:
        self._inbox.delete(_search(self._inbox.entries(), *_search_query(request)))
        return _OK

    def _entry(self, request: Request) -> Entry:
        return self._inbox.entry(
            request.parameters["id"], request.query.get("query", "").strip(), request.query.get("tz", "")
        )

    def _message(self, request: Request) -> Response:
        entry = self._entry(request)
        content = entry.content()
        entry.read = True
        return _json({"ID": entry.id, **content.to_json(entry.received)})

    def _raw(self, request: Request) -> Response:
        entry = self._entry(request)
        headers: dict[str, str] = {}
        if request.query.get("dl") == "1":
            headers["Content-Disposition"] = f'attachment; filename="{entry.id}.eml"'
        return Response(entry.message.raw, headers=headers)

    def _headers(self, request: Request) -> Response:
        found: dict[str, list[str]] = {}
        for name, value in self._entry(request).content().headers:
            found.setdefault(messages.canonical_name(name), []).append(value)
        return _json(dict(sorted(found.items())))

    def _part(self, request: Request) -> Response:
        part = self._entry(request).content().part(request.parameters["part"])
        if part is None:
            raise ApiError("404 page not found", HTTPStatus.NOT_FOUND)
        name = quote((part.file_name or part.content_id).encode("utf-8", "replace"), safe="")
        return Response(part.content, part.content_type, headers={"Content-Disposition": f'inline; filename="{name}"'})

    def _view_text(self, request: Request) -> Response:
        entry = self._entry(request)
        content = entry.content()
        entry.read = True
        return Response(content.text.encode("utf-8", "replace"))

    def _view_html(self, request: Request) -> Response:
        entry = self._entry(request)
        content = entry.content()
        if not content.html:
            raise ApiError("The message has no HTML part", HTTPStatus.NOT_FOUND)
        entry.read = True
        parts = {
            part.content_id.lower(): f"/api/v1/message/{entry.id}/part/{part.id}"
            for part in reversed((*content.inline, *content.attachments))  # of parts with the same id, the first counts
        }
        html = _CID.sub(lambda match: parts.get(match[1].lower(), match[0]), content.html)
        return Response(html.encode("utf-8", "replace"), "text/html; charset=utf-8")

    def _get_chaos(self, request: Request) -> Response:
        return _json(self._chaos.to_json())

    def _set_chaos(self, request: Request) -> Response:
        self._chaos.set(request.fields())
        return _json(self._chaos.to_json())


_OK: Final = Response(b"ok")


def _json(value: Any) -> Response:
    # Surrogates, which a decoder may have left, are not valid in UTF-8.
    return Response(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n", _JSON)


def _summaries(all_entries: Sequence[Entry], found: Sequence[Entry], shown: Sequence[Entry], start: int) -> Response:
    return _json(
        {
            "total": len(all_entries),
            "unread": _unread(all_entries),
            "count": len(shown),
            "messages_count": len(found),
            "messages_unread": _unread(found),
            "start": start,
            "tags": [],
            "messages": [entry.to_json() for entry in shown],
        }
    )


def _unread(entries: Sequence[Entry]) -> int:
    return sum(not entry.read for entry in entries)


def _search_query(request: Request) -> tuple[str, str]:
    """Return the search and its time zone.  Raises ApiError if *request* has no search."""
    query = request.query.get("query", "").strip()
    if not query:
        raise ApiError("Error: no search query")
    return query, request.query.get("tz", "")


def _search(entries: Sequence[Entry], query: str, zone: str) -> list[Entry]:
    matches = search.parse(query, zone)
    return [entry for entry in entries if matches(entry)]


def _received_before(entries: list[Entry], request: Request) -> list[Entry]:
    text = request.query.get("before", "")
    if not text:
        return entries
    limit = search.parse_time(text, request.query.get("tz", ""))
    return [entry for entry in entries if entry.received < limit]


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
