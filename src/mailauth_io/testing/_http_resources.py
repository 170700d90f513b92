"""The resources of the HTTP API: the responses to requests, without sockets."""

from __future__ import annotations

import json
import re
import resource
import secrets
import string
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import parse_qs, quote, urlsplit

import attrs

import mailauth

from . import _http_messages as messages, _http_search as search
from ._chaos import Chaos, ChaosError
from ._http_messages import Content, Summary
from .mail_server import MailServer
from .message import Message

DEFAULT_LIMIT: Final = 50
"""The number of messages in a list that names no limit."""

_ID_ALPHABET: Final = string.ascii_letters + string.digits
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,15}")
_CID: Final = re.compile(r"(?<=[=\"'(])cid:([^\"'\s>);]+)(?=[\"'\s>);])", re.IGNORECASE)
_JSON: Final = "application/json"
TEXT: Final = "text/plain; charset=utf-8"


@attrs.frozen
class Response:
    """An HTTP response."""

    body: bytes
    content_type: str = TEXT
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
