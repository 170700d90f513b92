"""The HTTP API: every resource, over real connections, with the JSON that Mailpit's clients read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import struct
import time
import tracemalloc
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.message import EmailMessage, Message as Headers
from email.policy import SMTP
from typing import Any, cast

import attrs
import pytest

from mailauth import smtp
from mailauth_io.testing import Envelope, Message, _http_messages, http_api
from mailauth_io.testing._chaos import DEFAULT_CODES, Chaos
from mailauth_io.testing._http_resources import Api
from mailauth_io.testing.http_api import HttpApi

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
TIMEOUT = 30.0
ENVELOPE = Envelope(
    sender="alice@example.test",
    recipients=("bob@example.test",),
    identity=None,
    mechanism=None,
    grant=None,
    tls=None,
    hello="client.test",
    peer="127.0.0.1",
    parameters={},
)


@attrs.define
class FakeRule:
    """Gives its answers as a rule of the mail server does."""

    step: type
    where: Callable[[Any], bool]
    answers: tuple[Any, ...] = ()
    settings: list[str] = attrs.field(factory=list[str])

    def reply(self, *answers: Any) -> FakeRule:
        self.answers = answers
        return self

    def always(self) -> FakeRule:
        self.settings.append("always")
        return self

    def optional(self) -> FakeRule:
        self.settings.append("optional")
        return self


class FakeServer:
    """A mail server that has messages without a client."""

    def __init__(self) -> None:
        self.stored: list[Message] = []
        self.rules: list[FakeRule] = []

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(self.stored)

    def delete(self, *messages: Message) -> None:
        self.stored = [message for message in self.stored if message not in messages]

    def on(self, step: type, *, where: Callable[[Any], bool]) -> FakeRule:
        self.rules.append(FakeRule(step, where))
        return self.rules[-1]

    def add(self, raw: bytes | EmailMessage, **envelope: Any) -> Message:
        data = raw if isinstance(raw, bytes) else raw.as_bytes(policy=SMTP)
        self.stored.append(Message(data, attrs.evolve(ENVELOPE, **envelope)))
        return self.stored[-1]

    def replies(self, step: type) -> Any:
        """Return the answer of the first rule that matches a command; None if none does."""
        return next((rule.answers[0] for rule in self.rules if rule.step is step and rule.where(object())), None)


class Client:
    def __init__(self, server: FakeServer, api: HttpApi) -> None:
        self.server = server
        self.api = api

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Headers, bytes]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.api.url + path, data=body, headers=sent, method=method)
        try:
            with OPENER.open(request, timeout=TIMEOUT) as response:
                return response.status, response.headers, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.headers, error.read()

    def text(self, path: str, method: str = "GET", body: Any = None) -> str:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        status, _, answer = self.request(method, path, data)
        assert status == 200, answer
        return answer.decode()

    def json(self, path: str, method: str = "GET", body: Any = None) -> Any:
        return json.loads(self.text(path, method, body))

    def error(self, path: str, method: str = "GET", body: bytes | None = None, **headers: str) -> tuple[int, str]:
        status, answered, answer = self.request(method, path, body, **headers)
        assert answered["Content-Type"] == "text/plain; charset=utf-8"
        return status, answer.decode()

    def search(self, query: str, **parameters: Any) -> Any:
        return self.json("/api/v1/search?" + urllib.parse.urlencode({"query": query, **parameters}))

    def found(self, query: str, **parameters: Any) -> list[str]:
        return [message["Subject"] for message in self.search(query, **parameters)["messages"]]

    def ids(self) -> list[str]:
        return [message["ID"] for message in self.json("/api/v1/messages?limit=0")["messages"]]


@pytest.fixture
def client(capfd: pytest.CaptureFixture[str]) -> Iterator[Client]:
    server = FakeServer()
    with HttpApi(cast(Any, server)) as api:
        yield Client(server, api)
    assert capfd.readouterr() == ("", "")


def mail(subject: str = "tea", text: str = "hello\n", **fields: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "Alice <alice@example.test>", "bob@example.test", subject
    for name, value in fields.items():
        name = name.replace("_", "-").strip("-")
        del made[name]
        made[name] = value
    made.set_content(text)
    return made


def mail_with_parts() -> EmailMessage:
    made = mail("parts", "plain text\n", Message_ID="<parts@example.test>", Reply_To="Sales <sales@example.test>")
    html = '<html><body><p>Hello <b>Bob</b></p><img src="cid:logo@x"><img src="cid:other"><script>no</script>'
    made.add_alternative(html, subtype="html")
    made.get_payload()[1].add_related(b"image", "image", "png", cid="<logo@x>", disposition="inline")  # type: ignore[union-attr, index]
    made.add_attachment(b"%PDF", "application", "pdf", filename="Rechnung für Bob.pdf")
    made.add_attachment("attached text", filename="notes.txt")
    return made


def test_list_has_the_newest_message_first_with_the_fields_of_a_summary(client: Client) -> None:
    client.server.add(mail("first", Date="Mon, 30 Nov 2026 10:00:00 +0100"))
    raw = mail_with_parts().as_bytes(policy=SMTP)
    client.server.add(raw, recipients=("bob@example.test", "carol@far.test"), identity="alice")
    listed = client.json("/api/v1/messages")
    newest, oldest = listed.pop("messages")
    assert listed == {
        "total": 2, "unread": 2, "count": 2, "messages_count": 2, "messages_unread": 2, "start": 0, "tags": [],
    }  # fmt: skip
    created = datetime.fromisoformat(newest.pop("Created"))
    assert abs((datetime.now(UTC) - created).total_seconds()) < 3600
    assert re.fullmatch("[A-Za-z0-9]{22}", newest.pop("ID"))
    assert newest == {
        "MessageID": "parts@example.test",
        "Read": False,
        "From": {"Name": "Alice", "Address": "alice@example.test"},
        "To": [{"Name": "", "Address": "bob@example.test"}],
        "Cc": [],
        "Bcc": [{"Name": "", "Address": "carol@far.test"}],
        "ReplyTo": [{"Name": "Sales", "Address": "sales@example.test"}],
        "Subject": "parts",
        "Username": "alice",
        "Tags": [],
        "Size": len(raw),
        "Attachments": 2,
        "Snippet": "Hello Bob",
    }
    assert (oldest["Subject"], oldest["Snippet"], oldest["Username"]) == ("first", "hello", "")


def test_list_is_cut_by_start_and_limit(client: Client) -> None:
    for number in range(60):
        client.server.add(mail(f"number {number}"))

    def subjects(query: str) -> list[int]:
        return [int(each["Subject"].split()[1]) for each in client.json("/api/v1/messages" + query)["messages"]]

    newest = list(reversed(range(60)))
    assert subjects("") == newest[:50]
    assert subjects("?start=50") == newest[50:]
    assert subjects("?start=2&limit=3") == newest[2:5]
    assert subjects("?start=100") == []
    assert subjects("?limit=0") == subjects("?start=5&limit=0") == newest
    assert subjects("?start=x&limit=-1") == subjects("?start=1_0&limit=+50") == newest[:50]
    assert client.json("/api/v1/messages?start=2&limit=3")["start"] == 2
    assert client.json("/api/v1/messages?start=2&limit=3")["count"] == 3
    assert subjects("?before=2000-01-01") == []
    assert subjects("?limit=0&before=2999-01-01T00:00:00Z") == newest
    assert client.error("/api/v1/messages?before=soon")[0] == 400


def test_id_belongs_to_one_message_even_if_others_are_equal_or_deleted(client: Client) -> None:
    same = mail()
    for _ in range(3):
        client.server.add(same)
    newest, middle, oldest = client.ids()
    assert len({newest, middle, oldest}) == 3
    client.text("/api/v1/messages", "DELETE", {"IDs": [middle]})
    client.server.add(same)
    now = client.ids()
    assert (len(now), now[1:]) == (3, [newest, oldest])
    assert now[0] not in (newest, middle, oldest)
    assert client.error(f"/api/v1/message/{middle}") == (404, "Message not found")


def test_message_has_its_texts_and_parts(client: Client) -> None:
    raw = mail_with_parts().as_bytes(policy=SMTP)
    client.server.add(raw)
    (name,) = client.ids()
    found = client.json(f"/api/v1/message/{name}")
    inline, attachments = found.pop("Inline"), found.pop("Attachments")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", found.pop("Date"))  # received, as it has no date
    assert found.pop("HTML").startswith("<html><body><p>Hello <b>Bob</b></p>")
    assert found == {
        "ID": name,
        "MessageID": "parts@example.test",
        "From": {"Name": "Alice", "Address": "alice@example.test"},
        "To": [{"Name": "", "Address": "bob@example.test"}],
        "Cc": [],
        "Bcc": [],
        "ReplyTo": [{"Name": "Sales", "Address": "sales@example.test"}],
        "ReturnPath": "alice@example.test",
        "Subject": "parts",
        "ListUnsubscribe": {"Header": "", "Links": [], "Errors": "", "HeaderPost": ""},
        "Tags": [],
        "Username": "",
        "Text": "plain text\r\n",
        "Size": len(raw),
    }
    assert inline == [
        {
            "PartID": "1.2.2",
            "FileName": "logo@x",
            "ContentType": "image/png",
            "ContentID": "logo@x",
            "Size": 5,
            "Checksums": {
                "MD5": hashlib.md5(b"image").hexdigest(),
                "SHA1": hashlib.sha1(b"image").hexdigest(),
                "SHA256": hashlib.sha256(b"image").hexdigest(),
            },
        }
    ]
    assert [(each["PartID"], each["FileName"], each["ContentType"], each["Size"]) for each in attachments] == [
        ("2", "Rechnung für Bob.pdf", "application/pdf", 4),
        ("3", "notes.txt", "text/plain", len("attached text\r\n")),
    ]


def test_parts_are_served_with_their_type_and_name(client: Client) -> None:
    client.server.add(mail_with_parts())
    (name,) = client.ids()
    status, headers, body = client.request("GET", f"/api/v1/message/{name}/part/1.2.2")
    assert (status, headers["Content-Type"], body) == (200, "image/png", b"image")
    _, headers, body = client.request("GET", "/api/v1/message/latest/part/2")
    assert (headers["Content-Type"], body) == ("application/pdf", b"%PDF")
    assert headers["Content-Disposition"] == 'inline; filename="Rechnung%20f%C3%BCr%20Bob.pdf"'
    for part in ("1", "1.1", "4", "9.9", "1.2.2.1"):
        assert client.error(f"/api/v1/message/{name}/part/{part}") == (404, "404 page not found")


def test_source_and_header_fields(client: Client) -> None:
    raw = (
        b"Subject: =?utf-8?q?caf=C3=A9?=\r\nX-Long: one\r\n\ttwo\r\nmessage-id: <m@x>\r\nX-Long: three\r\n"
        b"X-8bit: \xc3\xa4 \xff\r\n\r\nbody\r\n"
    )
    client.server.add(raw)
    status, headers, body = client.request("GET", "/api/v1/message/latest/raw")
    assert (status, headers["Content-Type"], body) == (200, "text/plain; charset=utf-8", raw)
    assert headers["Content-Disposition"] is None
    (name,) = client.ids()
    _, headers, _ = client.request("GET", f"/api/v1/message/{name}/raw?dl=1")
    assert headers["Content-Disposition"] == f'attachment; filename="{name}.eml"'
    fields = client.json(f"/api/v1/message/{name}/headers")
    assert list(fields.items()) == [
        ("Message-Id", ["<m@x>"]),
        ("Subject", ["=?utf-8?q?caf=C3=A9?="]),
        ("X-8bit", ["ä \N{REPLACEMENT CHARACTER}"]),
        ("X-Long", ["one two", "three"]),
    ]
    assert client.json("/api/v1/messages")["messages"][0]["Subject"] == "café"


def test_views(client: Client) -> None:
    client.server.add(mail("text only", "<b>ä</b>\n"))
    assert client.error("/view/latest.html") == (404, "The message has no HTML part")
    status, headers, body = client.request("GET", "/view/latest.txt")
    assert (status, headers["Content-Type"], body) == (200, "text/plain; charset=utf-8", "<b>ä</b>\r\n".encode())
    client.server.add(mail_with_parts())
    name = client.ids()[0]
    status, headers, body = client.request("GET", f"/view/{name}.html")
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert f'<img src="/api/v1/message/{name}/part/1.2.2"><img src="cid:other">' in body.decode()
    assert "default-src 'none'" in headers["Content-Security-Policy"]  # the script of a message does not run
    assert "script-src" not in headers["Content-Security-Policy"]
    assert client.text("/view/latest.txt?query=subject%3A%22text%20only%22") == "<b>ä</b>\r\n"
    assert client.error("/view/latest.txt?query=coffee") == (404, "Message not found")
    for missing in ("/view/latest", "/view/x.txt", "/view/x.html", "/view/latest.pdf"):
        assert client.error(missing)[0] == 404


def test_text_of_a_message_with_only_html(client: Client) -> None:
    made = mail()
    made.set_content("<style>p {}</style><p>One &amp;\n two<br>three</p><ul><li>four</ul>", subtype="html")
    client.server.add(made)
    assert client.json("/api/v1/message/latest")["Text"] == "One & two\nthree\nfour"
    assert client.json("/api/v1/messages")["messages"][0]["Snippet"] == "One & two three four"


CHUNKED = b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: Chunked\r\n"


@pytest.mark.parametrize(
    "body",
    [
        b"2\r\n{}\r\n0\r\n\r\n", b"1\r\n{\r\n001;name=x\r\n}\r\n00\r\n\r\n",
        b"A\r\n{}        \r\n0\r\nX: y\r\n\r\n",
    ],
)  # fmt: skip
def test_body_in_chunks(client: Client, body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", client.api.port), timeout=TIMEOUT) as connection:
        connection.sendall(CHUNKED + b"\r\n" + body + GOOD)
        received = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"200"]


@pytest.mark.parametrize(
    ("rest", "status"),
    [
        (b"Content-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 400),
        (b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"\r\n\r\n", 400),
        (b"\r\n-2\r\n{}\r\n0\r\n\r\n", 400),
        (b"\r\n0x2\r\n{}\r\n0\r\n\r\n", 400),
        (b"\r\n2\r\n{}x\r\n0\r\n\r\n", 400),
        (b"\r\n2\r\n{}\r\n", 400),
        (b"\r\n2\r\n{}\r\n0\r\n", 400),
        (b"\r\n" + b"0" * 100_000, 400),
        (b"\r\n0\r\n" + b"X: y\r\n" * 10_000, 400),
        (b"\r\n100001\r\n", 413),
        (b"\r\n" + b"1\r\nx\r\n" * 65_537, 413),
        (b"\r\nffffffff\r\n", 413),
    ],
)
def test_body_in_chunks_that_is_invalid_or_too_large(
    client: Client, monkeypatch: pytest.MonkeyPatch, rest: bytes, status: int
) -> None:
    if rest.endswith(b"1\r\nx\r\n"):
        monkeypatch.setattr(http_api, "MAX_BODY", 65_536)
    with socket.create_connection(("127.0.0.1", client.api.port), timeout=TIMEOUT) as connection:
        connection.sendall(CHUNKED + rest)
        connection.shutdown(socket.SHUT_WR)
        received = connection.recv(65536)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in received


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<p>a<br>b<p>c", "a\nb\nc"),
        ("<P CLASS=x>a</P ><Td>b</tD>", "a\nb"),
        ("a<b>b</b>c  <i>\n d", "abc d"),
        ("a &lt;b&gt; &amp;amp; &eacute;", "a <b> &amp; \u00e9"),
        ("<style>x<p>y</style>a<script src=x>1<2</SCRIPT >b<template>c</template>d", "abd"),
        ("a<script>b", "a"),
        ("<scripts>a</scripts>", "a"),
        ("<!DOCTYPE html><?x?><!-- a > b -->c<!-->d<!--x--!>e", "cde"),
        ("""<a title="a > b" rel='c > d' lang=it's>e</a>f""", "ef"),
        ("1 < 2 and 3 > 2", "1 < 2 and 3 > 2"),
        ("a<", "a<"),
        ("a<b", "a"),
        ('a<b c="d>', "a"),
        ("a<!-- b", "a"),
    ],
)
def test_text_that_a_browser_shows(client: Client, html: str, expected: str) -> None:
    client.server.add(b"Content-Type: text/html; charset=utf-8\r\n\r\n" + html.encode())
    assert client.text("/view/latest.txt") == expected


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ('<a href="https://a.test/?b=1&amp;c=2">Reset</a>.', "Reset ( https://a.test/?b=1&c=2 )."),
        ("<A class=x HREF = 'app://x'\n>a<b>b</b></A>c", "ab ( app://x )c"),
        ("<a href=//a.test/>x</a>", "x ( //a.test/ )"),
        ("<a href='https://a.test/'><img src=x></a>", "( https://a.test/ )"),
        ("<a name=x>a</a><a href=''>b</a><a href>c</a><abbr href=x>d</abbr>", "abcd"),
        ("<a href=x>a<a href=y>b", "a ( x )b ( y )"),
    ],
)
def test_text_of_html_has_the_links_but_the_snippet_has_not(client: Client, html: str, expected: str) -> None:
    client.server.add(b"Content-Type: text/html\r\n\r\n" + html.encode())
    assert client.json("/api/v1/message/latest")["Text"] == expected
    assert "(" not in client.json("/api/v1/messages")["messages"][0]["Snippet"]


@pytest.mark.parametrize(
    "repeated", ["<a ", "<!--", "<!", "<![", "<a b='", '<a "', "</", "<a = ", "<script>", "&#", "<"]
)
def test_time_for_the_text_of_html_is_linear(repeated: str) -> None:
    html = repeated * (400_000 // len(repeated))
    message = Message(b"Content-Type: text/html\r\n\r\n" + html.encode(), ENVELOPE)
    started = time.process_time()
    _http_messages.parse(message)
    assert time.process_time() - started < 5.0  # quadratic time would be minutes


def test_memory_for_the_text_of_html_is_not_many_times_its_size() -> None:
    html = "<a " + "=" * 500_000
    tracemalloc.start()
    try:
        assert not _http_messages._html_to_text(html)
        assert tracemalloc.get_traced_memory()[1] < 10 * len(html)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("field", [b"Content-Type: text/plain", b"Content-Disposition: attachment"])
def test_time_for_the_parameters_of_a_field_is_linear(field: bytes) -> None:
    started = time.process_time()
    _http_messages.parse(Message(field + b";" * 1_000_000 + b"\r\n\r\n", ENVELOPE))
    assert time.process_time() - started < 5.0


def test_time_for_the_references_of_html_is_linear(client: Client) -> None:
    count = 5000
    parts = (b"--x\r\nContent-Type: image/png\r\nContent-ID: <%d@x>\r\n\r\ni\r\n" % each for each in range(count))
    html = b"".join(b"<img src='cid:%d@x'>\r\n" % each for each in range(count))
    client.server.add(
        b"Content-Type: multipart/related; boundary=x\r\n\r\n--x\r\nContent-Type: text/html\r\n\r\n" + html
        + b"".join(parts) + b"--x--\r\n"
    )  # fmt: skip
    started = time.process_time()
    shown = client.text("/view/latest.html")
    assert time.process_time() - started < 5.0
    assert len(re.findall(r"src='/api/v1/message/\w+/part/\d+'", shown)) == count


def test_snippet_is_short(client: Client) -> None:
    client.server.add(mail(text="word \n\n" * 100))
    snippet = client.json("/api/v1/messages")["messages"][0]["Snippet"]
    assert snippet == ("word " * 40) + "..."


def test_date_of_the_header_with_its_offset(client: Client) -> None:
    for value, expected in {
        "Mon, 30 Nov 2026 10:00:00 +0530": "2026-11-30T10:00:00+05:30",
        "Mon, 30 Nov 2026 10:00:00 -0000": "2026-11-30T10:00:00Z",
        "30 Nov 2026 10:00 GMT": "2026-11-30T10:00:00Z",
    }.items():
        client.server.add(f"Date: {value}\r\n\r\n".encode())
        assert client.json("/api/v1/message/latest")["Date"] == expected
    for value in ("soon", "Mon, 30 Nov 2026 10:00:00 +9999", "Mon, 99 Nov 2026 10:00:00 +0000"):
        client.server.add(f"Date: {value}\r\n\r\n".encode())
        created = client.json("/api/v1/messages")["messages"][0]["Created"]
        assert client.json("/api/v1/message/latest")["Date"] == created


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {
                "List-Unsubscribe": "<mailto:off@x>, <https://x/off>",
                "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            },
            (["mailto:off@x", "https://x/off"], "", "List-Unsubscribe=One-Click"),
        ),
        ({"List-Unsubscribe": "https://x/off"}, ([], "no link in <>", "")),
        (
            {"List-Unsubscribe": "<https://x/1>, <https://x/2>"},
            (["https://x/1", "https://x/2"], "more than one mail or HTTP link", ""),
        ),
    ],
)
def test_unsubscribe_links(client: Client, fields: dict[str, str], expected: tuple[list[str], str, str]) -> None:
    client.server.add("".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode() + b"\r\n")
    found = client.json("/api/v1/message/latest")["ListUnsubscribe"]
    assert (found["Links"], found["Errors"], found["HeaderPost"]) == expected
    assert found["Header"] == fields["List-Unsubscribe"]


def test_reading_a_message_marks_it_as_read(client: Client) -> None:
    for path, read in {
        "/api/v1/message/latest": True, "/view/latest.txt": True, "/api/v1/message/latest/raw": False,
        "/api/v1/message/latest/headers": False, "/view/latest.html": False,
    }.items():  # fmt: skip
        client.server.add(mail())
        client.request("GET", path)
        assert client.json("/api/v1/messages")["messages"][0]["Read"] is read, path
    listed = client.json("/api/v1/messages?limit=1")
    assert (listed["total"], listed["unread"], listed["messages_unread"]) == (5, 3, 3)


def test_read_status_is_set_by_id_by_search_and_for_all(client: Client) -> None:
    for subject in ("one", "two", "three"):
        client.server.add(mail(subject))
    three, two, one = client.ids()

    def put(**fields: Any) -> list[str]:
        assert client.text("/api/v1/messages", "PUT", fields) == "ok"
        return client.found("is:read")

    assert put(IDs=[one, three, "unknown"], Read=True) == ["three", "one"]
    assert put(ids=[three], read=False) == ["one"]
    assert put(Search="subject:two", Read=True) == ["two", "one"]
    assert put(Read=True) == ["three", "two", "one"]
    assert put(IDs=[two]) == ["three", "one"]
    assert put(IDs=[], Search="") == []
    assert put(IDs=None, Read=True) == ["three", "two", "one"]
    for body in (
        b"",
        b"[]",
        b'{"Read": "yes"}',
        b'{"IDs": "x"}',
        b'{"IDs": [1]}',
        b'{"Search": 1}',
        b"{",
        b"[" * 100_000,
    ):
        assert client.error("/api/v1/messages", "PUT", body)[0] == 400
    assert client.error("/api/v1/messages", "PUT", b'{"IDs": ["x"], "Search": "y"}')[0] == 400
    assert client.found("is:unread") == []


@pytest.mark.parametrize("ids", ["", 0, False, {}, "x", 1, [1]])
def test_invalid_ids_are_refused_and_delete_nothing(client: Client, ids: Any) -> None:
    client.server.add(mail())
    expected = (400, 'IDs must be a list of texts such as {"IDs": ["..."]}')
    assert client.error("/api/v1/messages", "DELETE", json.dumps({"IDs": ids}).encode()) == expected
    assert len(client.ids()) == 1


def test_deletion_by_id_and_of_all(client: Client) -> None:
    for subject in ("one", "two", "three", "four"):
        client.server.add(mail(subject))
    four, three, _, one = client.ids()
    assert client.text("/api/v1/messages", "DELETE", {"IDs": [three, one, "unknown"]}) == "ok"
    assert client.found("is:unread") == ["four", "two"]
    assert len(client.server.stored) == 2
    for wrong in (b"{", b'{"IDs": "x"}', b'{"IDs": [1]}', b"[]", b'"all"', b"\xff"):
        assert client.error("/api/v1/messages", "DELETE", wrong)[0] == 400
    assert len(client.ids()) == 2
    assert client.text("/api/v1/messages", "DELETE", {"ids": [four]}) == "ok"
    assert client.found("is:unread") == ["two"]
    everything: list[Any] = [None, {}, {"IDs": []}, {"IDs": None}, b"null", b""]
    for body in everything:
        client.server.add(mail())
        assert client.text("/api/v1/messages", "DELETE", body) == "ok"
        assert (client.ids(), client.server.stored) == ([], [])


SEARCHES = {
    "from:alice": ["tea", "bill"],
    "from:ALICE@EXAMPLE.TEST": ["tea", "bill"],
    'from:"Alice Liddell"': ["bill"],
    "to:bob": ["tea", "Coffee break"],
    "to:bob -from:alice": ["Coffee break"],
    "to:bob !from:alice": ["Coffee break"],
    "cc:dave": ["bill"],
    "bcc:hidden": ["tea"],
    "-bcc:hidden": ["Coffee break", "bill"],
    "reply-to:sales": ["bill"],
    "addressed:dave": ["Coffee break", "bill"],
    "subject:coffee": ["Coffee break"],
    'subject:"coffee BREAK"': ["Coffee break"],
    'subject:"break coffee"': [],
    "message-id:<bill-1@example.test>": ["bill"],
    "is:unread": ["tea", "Coffee break", "bill"],
    "is:read": [],
    "-is:read": ["tea", "Coffee break", "bill"],
    "is:tagged": [],
    "-is:tagged": ["tea", "Coffee break", "bill"],
    "tag:x": [],
    "has:attachment": ["bill"],
    "has:attachments": ["bill"],
    "!has:attachment": ["tea", "Coffee break"],
    "has:inline": [],
    "teapot": ["tea"],
    '"a teapot"': ["tea"],
    "a teapot": ["tea"],
    '"teapot a"': [],
    "invoice.pdf": ["bill"],
    "-teapot": ["Coffee break", "bill"],
    "Liddell": ["bill"],
    "100%": ["Coffee break"],
    "larger:1kb": [],
    "larger:10": ["tea", "Coffee break", "bill"],
    "smaller:0.5mb": ["tea", "Coffee break", "bill"],
    "-smaller:0.5M": [],
    "after:2000-01-01": ["tea", "Coffee break", "bill"],
    "before:2000-01-01": [],
    "-before:2000-01-01T00:00:00Z": ["tea", "Coffee break", "bill"],
    "to:": ["tea", "Coffee break", "bill"],
    "-": ["Coffee break"],
    "unknown:term": [],
    '"to:bob': ["tea", "Coffee break"],
}


@pytest.fixture
def searched(client: Client) -> Client:
    bill = mail("bill", "please pay\n", From="Alice Liddell <alice@example.test>", To="carol@far.test")
    bill["Cc"], bill["Reply-To"], bill["Message-ID"] = "dave@far.test", "sales@example.test", "<Bill-1@example.test>"
    bill.add_attachment(b"%PDF", "application", "pdf", filename="invoice.pdf")
    client.server.add(bill, recipients=("carol@far.test", "DAVE@far.test"))
    client.server.add(mail("Coffee break", "100% arabica - of course\n", From="Dave <dave@far.test>"))
    client.server.add(mail("tea", "I am a\n teapot\n"), recipients=("bob@example.test", "hidden@far.test"))
    return client


@pytest.mark.parametrize("query", SEARCHES)
def test_search(searched: Client, query: str) -> None:
    assert searched.found(query) == SEARCHES[query]


def test_search_counts_what_it_finds(searched: Client) -> None:
    found = searched.search("from:alice", limit=1)
    messages = found.pop("messages")
    assert [each["Subject"] for each in messages] == ["tea"]
    assert found == {
        "total": 3, "unread": 3, "count": 1, "messages_count": 2, "messages_unread": 2, "start": 0, "tags": [],
    }  # fmt: skip
    assert searched.found("from:alice", start=1) == ["bill"]
    assert searched.found("from:alice", limit=0) == []
    assert searched.found("from:alice", before="2000-01-01") == []


@pytest.mark.parametrize("query", ["after:soon", "-before:1", "larger:many", "smaller:1gb"])
def test_invalid_search_is_refused_and_deletes_nothing(searched: Client, query: str) -> None:
    path = "/api/v1/search?" + urllib.parse.urlencode({"query": query})
    assert searched.error(path)[0] == 400
    assert searched.error(path, "DELETE")[0] == 400
    assert searched.error(path + "&tz=no/where", "DELETE")[0] == 400
    assert len(searched.ids()) == 3


@pytest.mark.parametrize(
    "path", ["/api/v1/search", "/api/v1/search?query=", "/api/v1/search?query=%20", "/api/v1/search?q=x"]
)
def test_search_without_a_query_is_refused(searched: Client, path: str) -> None:
    for method in ("GET", "DELETE"):
        assert searched.error(path, method) == (400, "Error: no search query")
    assert len(searched.ids()) == 3


def test_number_of_terms_is_limited(searched: Client) -> None:
    assert len(searched.found("-to:nobody " * 100)) == len(searched.ids())
    query = urllib.parse.urlencode({"query": "x " * 101})
    expected = (400, "too many terms in the search; use at most 100")
    assert searched.error(f"/api/v1/search?{query}") == expected
    assert searched.error(f"/api/v1/search?{query}", "DELETE") == expected


def test_dates_of_a_search_are_in_the_time_zone_of_the_client(client: Client) -> None:
    client.server.add(mail()).received = datetime(2026, 11, 30, 12, tzinfo=UTC)
    assert client.found("after:2026-11-30T12:30:00", tz="Europe/Berlin") == ["tea"]  # 11:30 in UTC
    assert client.found("after:2026-11-30T12:30:00", tz="UTC") == []
    assert client.found("before:2026-11-30T12:30:00", tz="Asia/Tokyo") == []  # 03:30 in UTC


def test_deletion_by_search(searched: Client) -> None:
    path = "/api/v1/search?" + urllib.parse.urlencode({"query": "from:alice"})
    assert searched.text(path, "DELETE") == "ok"
    assert searched.found("is:unread") == ["Coffee break"]


def test_latest_message_of_a_search(searched: Client) -> None:
    query = urllib.parse.urlencode({"query": "cc:dave"})
    assert searched.json(f"/api/v1/message/latest?{query}")["Subject"] == "bill"
    assert b"Subject: bill" in searched.request("GET", f"/api/v1/message/latest/raw?{query}")[2]
    assert searched.json(f"/api/v1/message/latest/headers?{query}")["Subject"] == ["bill"]


def test_latest_without_messages(client: Client) -> None:
    for path in ("", "/raw", "/headers", "/part/1"):
        assert client.error(f"/api/v1/message/latest{path}") == (404, "Message not found")


def test_probes_and_information(client: Client) -> None:
    for path in ("/livez", "/readyz"):
        assert client.text(path) == ""
    raw = client.server.add(mail()).raw
    client.server.add(raw)
    client.text("/view/latest.txt")
    client.text("/api/v1/messages", "DELETE", {"IDs": client.ids()[1:]})
    found = client.json("/api/v1/info")
    statistics = found.pop("RuntimeStats")
    assert set(found) == {
        "Version", "LatestVersion", "Database", "DatabaseSize", "Messages", "Unread", "Tags",
    }  # fmt: skip
    assert (found["DatabaseSize"], found["Messages"], found["Unread"], found["Tags"]) == (len(raw), 1, 0, {})
    assert statistics.pop("Memory") > 1_000_000
    assert 0 <= statistics.pop("Uptime") < 3600
    assert statistics == {
        "MessagesDeleted": 1, "SMTPAccepted": 2, "SMTPAcceptedSize": 2 * len(raw), "SMTPRejected": 0, "SMTPIgnored": 0,
    }  # fmt: skip


def triggers(**probabilities: int) -> dict[str, dict[str, int]]:
    return {
        name: {"ErrorCode": code, "Probability": probabilities.get(name, 0)} for name, code in DEFAULT_CODES.items()
    }


def test_chaos_is_set_and_shown(client: Client) -> None:
    assert client.json("/api/v1/chaos") == triggers()
    assert client.server.rules == []
    body = {"Sender": {"ErrorCode": 599, "Probability": 10}, "recipient": {"probability": 100}, "Unknown": 1}
    expected = triggers(Recipient=100) | {"Sender": {"ErrorCode": 599, "Probability": 10}}
    assert client.json("/api/v1/chaos", "PUT", body) == client.json("/api/v1/chaos") == expected
    assert client.json("/api/v1/chaos", "PUT", {"Authentication": {"ErrorCode": 0, "Probability": 5}}) == triggers(
        Authentication=5
    )
    invalid: list[Any] = [
        {"ErrorCode": 399, "Probability": 1}, {"ErrorCode": 600}, {"Probability": 101}, {"Probability": -1},
        {"Probability": 0.5}, {"Probability": "1"}, {"Probability": True}, {"ErrorCode": 451.0}, [], 5,
    ]  # fmt: skip
    for wrong in invalid:
        data = json.dumps({"Sender": {"Probability": 7}, "Recipient": wrong}).encode()
        status, text = client.error("/api/v1/chaos", "PUT", data)
        assert (status, "Recipient" in text) == (400, True), text
    for wrong_body in (b"", b"x", b"[]"):
        assert client.error("/api/v1/chaos", "PUT", wrong_body)[0] == 400
    assert client.json("/api/v1/chaos") == triggers(Authentication=5)
    assert client.json("/api/v1/chaos", "PUT", {}) == triggers()


@pytest.mark.parametrize("probability", [0, 1, 7, 25, 33, 50, 67, 99, 100])
def test_chaos_rejects_exactly_the_share_of_each_hundred_that_is_set(probability: int) -> None:
    server = FakeServer()
    chaos = Chaos(cast(Any, server))
    chaos.set({"Recipient": {"ErrorCode": 452, "Probability": probability}})
    found = [server.replies(smtp.Rcpt) for _ in range(300)]
    for begin in (0, 100, 200):
        assert sum(reply is not None for reply in found[begin : begin + 100]) == probability
    assert {reply.code for reply in found if reply} <= {452}
    if 0 < probability < 100:  # evenly: number n is rejected if n * probability passes a multiple of 100
        assert [n for n, reply in enumerate(found, 1) if reply] == [
            -(-100 * k // probability) for k in range(1, 3 * probability + 1)
        ]
    assert server.replies(smtp.Mail) is None


def test_setting_chaos_restarts_its_counts_and_disables_earlier_rules() -> None:
    server = FakeServer()
    chaos = Chaos(cast(Any, server))
    for code in (451, 550, 451, 571):
        chaos.set({"Sender": {"ErrorCode": code, "Probability": 50}})
        found = [server.replies(smtp.Mail) for _ in range(5)]
        text = "sender rejected by a chaos trigger"
        wanted: Any = smtp.Reply(code, text=text) if code != 571 else f"571 {text}\r\n".encode()
        assert found == [None, wanted, None, wanted, None]
    assert len(server.rules) == 3  # those of 451 are one
    assert all(rule.settings == ["always", "optional"] for rule in server.rules)
    chaos.set({})
    assert [server.replies(smtp.Mail) for _ in range(5)] == [None] * 5


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"no header at all",
        b": \r\n:\r\n\r\n",
        b'From: \xff <\xff@x>\r\nSubject: \xff\r\nTo: <<<>,,;"\r\n\r\n\xff',
        b"From: undisclosed\r\nTo: Group: a@x, b@x;\r\nDate: \xff\r\n\r\n",
        b"Subject: =?no-such-charset?q?x?= =?utf-8?b?!?= =?utf-8?q?=ff?=\r\n\r\n",
        b"Content-Type: text/plain; charset=no-such\r\n\r\n\xe4",
        b"Content-Type: text/plain; charset=rot13\r\n\r\nabc",
        b"Content-Type: text/plain; charset=undefined\r\n\r\nabc",
        b"Content-Type: text/plain; charset=utf-7\r\n\r\n+2AA-",
        b"Content-Type: text/plain; charset*=x'y'%ff\r\n\r\nabc",
        b"Content-Transfer-Encoding: base64\r\n\r\n!a",
        b"Content-Transfer-Encoding: x-uuencode\r\n\r\nbegin 6\r\n!!!\r\n",
        b"Content-Type: text/html\r\n\r\n<![foo[<!-- <p <![",
        b"Content-Type: multipart/mixed\r\n\r\n--x\r\n",
        b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\nContent-Type: message/rfc822\r\n\r\n\xff: x\r\n--x--",
        b"Content-Disposition: attachment; filename*=no-such''%ff\r\nContent-ID: =?x?q?\r\n\r\n",
        b'Content-Disposition: attachment; filename="a\r\n b"\r\n\r\n',
        b"Content-Type: a/b\x01\xff; name=x\r\n\r\n",
        b"Content-Type: a/b\r\n c; name=x\r\n\r\n",
        b"Content-Type: a/b\x00\rSet-Cookie: x; name=x\r\n\r\n",
        b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (each, each) for each in range(1000)),
        b"Content-Type: message/rfc822\r\n\r\n" * 1000,
        b"From: " + b"(" * 5000 + b"\r\nTo: " + b":" * 5000 + b"\r\n\r\n",
        b"Content-Type: text/plain; charset=idna\r\n\r\n\xff",
        b"Content-Type: image/png; charset=punycode; name=x\r\n\r\n\xff",
        b"Content-Type: text/html\r\n\r\n&#" + b"9" * 5000,
    ],
    ids=range(28),
)
def test_malformed_message_is_shown(client: Client, raw: bytes) -> None:
    client.server.add(mail("before"))
    client.server.add(raw, sender="")
    client.server.add(mail("after"))
    assert client.json("/api/v1/messages")["count"] == 3
    name = client.ids()[1]
    found = client.json(f"/api/v1/message/{name}")
    assert found["Size"] == len(raw)
    assert client.request("GET", f"/api/v1/message/{name}/raw")[2] == raw
    client.json(f"/api/v1/message/{name}/headers")
    client.text(f"/view/{name}.txt")
    for part in (*found["Inline"], *found["Attachments"]):
        status, headers, body = client.request("GET", f"/api/v1/message/{name}/part/{part['PartID']}")
        assert (status, headers["Content-Type"], len(body)) == (200, part["ContentType"], part["Size"])
    assert client.found("before") == ["before"]


def test_part_that_is_nested_deeply_is_found(client: Client) -> None:
    levels = (b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (each, each) for each in range(200))
    client.server.add(b"".join(levels) + b"Content-Type: image/png; name=x.png\r\n\r\nimage")
    (part,) = client.json("/api/v1/message/latest")["Inline"]
    assert part["PartID"] == ".".join(["1"] * 200)
    assert client.request("GET", f"/api/v1/message/latest/part/{part['PartID']}")[2] == b"image"


def test_attached_message_is_one_part(client: Client) -> None:
    made = mail("outer")
    made.add_attachment(mail("inner"))
    client.server.add(made)
    found = client.json("/api/v1/message/latest")
    assert found["Text"] == "hello\r\n"
    assert client.json("/api/v1/messages")["messages"][0]["Attachments"] == 1
    assert b"Subject: inner" in client.request("GET", "/api/v1/message/latest/part/2")[2]


@pytest.mark.parametrize(
    "path",
    [
        "/", "/api", "/api/v1", "/api/v1/", "/api/v1/tags", "/api/v1/message", "/api/v1/message/", "/api/v1/message/x",
        "/api/v1/message/x/raw", "/api/v1/message/../info", "/api/v1/message/latest/", "/api/v1/message/latest/part/",
        "/view/../../etc/passwd.txt", "/view/..%2f..%2fetc%2fpasswd.txt", "/view/%00.txt", "/view/latest.txt/x",
        "/api/v1/messages/x", "//api/v1/info/", "/livez/..", "/etc/passwd",
    ],
)  # fmt: skip
def test_unknown_path_is_not_found(client: Client, path: str) -> None:
    assert client.error(path) in ((404, "404 page not found"), (404, "Message not found"))


def test_other_method_is_refused(client: Client) -> None:
    for method, path, allowed in [
        ("POST", "/api/v1/messages", "GET, PUT, DELETE"), ("PATCH", "/api/v1/chaos", "GET, PUT"),
        ("OPTIONS", "/api/v1/search", "GET, DELETE"), ("DELETE", "/livez", "GET"),
    ]:  # fmt: skip
        status, headers, body = client.request(method, path, b"{}")
        assert (status, headers["Allow"], body) == (405, allowed, b"Method Not Allowed")
    assert client.error("/livez", "BREW")[0] == 501


def test_head_has_no_body(client: Client) -> None:
    raw = client.server.add(mail()).raw
    answer = exchange(client, GOOD.replace(b"GET /livez", b"HEAD /api/v1/message/latest/raw"))
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: %d\r\n" % len(raw) in answer
    assert answer.endswith(b"\r\n\r\n")


def test_no_response_permits_other_origins(client: Client) -> None:
    client.server.add(mail())
    for method, path in [
        ("GET", "/api/v1/messages"), ("OPTIONS", "/api/v1/messages"), ("GET", "/view/latest.txt"), ("GET", "/x"),
    ]:  # fmt: skip
        _, headers, _ = client.request(method, path)
        assert not [name for name in headers if name.lower().startswith("access-control-")]
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "app.localhost", "127.0.0.1", "127.1.2.3", "[::1]"])
def test_local_host_names_are_answered(client: Client, host: str) -> None:
    for name in (host, f"{host}:{client.api.port}", f"{host}:80"):
        assert client.request("GET", "/livez", Host=name)[0] == 200


def test_names_of_the_server_are_answered() -> None:
    server = FakeServer()
    with HttpApi(cast(Any, server), names=["Mail"]) as api:
        client = Client(server, api)
        for name in ("mail", "MAIL:8025", "mail."):
            assert client.request("GET", "/livez", Host=name)[0] == 200
        assert client.error("/livez", Host="mail.example.org")[0] == 403


@pytest.mark.parametrize(
    "host",
    [
        "example.org", "localhost.example.org", "127.0.0.1.example.org", "192.0.2.1", "", "[", "[::2]", "x@localhost",
        "localhost/x", "notlocalhost", "evil.test:8025", "localhost:x@evil.test", "0x7f.1",
    ],
)  # fmt: skip
def test_other_host_names_are_refused(client: Client, host: str) -> None:
    """A web page whose name was made to point to 127.0.0.1 (DNS rebinding) sends its own name."""
    client.server.add(mail())
    for method, path in [("GET", "/api/v1/messages"), ("DELETE", "/api/v1/messages"), ("GET", "/livez")]:
        status, text = client.error(path, method, Host=host)
        assert (status, text) == (403, "the Host is not a name of this server; use localhost or 127.0.0.1")
    assert len(client.server.stored) == 1


def test_requests_of_pages_of_other_origins_are_refused(client: Client) -> None:
    client.server.add(mail())
    for origin in (
        "http://evil.test",
        "null",
        "https://localhost",
        f"http://localhost:{client.api.port}",
        "http://127.0.0.1",
    ):
        status, text = client.error("/api/v1/messages", "DELETE", Origin=origin)
        assert (status, text) == (403, "requests of other origins are not answered")
    assert len(client.server.stored) == 1
    assert client.request("GET", "/livez", Origin=client.api.url)[0] == 200


def exchange(client: Client, request: bytes) -> bytes:
    """Send *request*, and return all that the server sends until it closes the connection."""
    with socket.create_connection(("127.0.0.1", client.api.port), timeout=TIMEOUT) as connection:
        connection.sendall(request)
        received = b""
        while data := connection.recv(65536):
            received += data
    return received


GOOD = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        (b"GET /livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        (b"GET http://localhost/livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (
            b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
        ),
        (b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", 400),
        (b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1048577\r\n\r\n", 413),
        (b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999999999999\r\n\r\n", 400),
        (b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n", 505),
        (b"GET\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    ],
    ids=range(16),
)
def test_request_that_cannot_be_read_is_answered_and_the_connection_closed(
    client: Client, request_text: bytes, status: int
) -> None:
    try:
        answer = exchange(client, request_text)
    except ConnectionResetError:  # it was closed before all of the request was read
        answer = b""
    if answer:
        assert re.match(rb"HTTP/1.[01] %d " % status, answer), answer
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Connection: close" in head
        assert b"Content-Type: text/plain; charset=utf-8" in head
        assert b"<" not in body
    else:
        assert len(request_text) > 50_000
    assert exchange(client, GOOD).startswith(b"HTTP/1.1 200 OK\r\n")


def test_client_that_sends_too_much_receives_the_response(client: Client) -> None:
    expected = (413, "the body must have at most 1048576 bytes")
    assert client.error("/api/v1/chaos", "PUT", bytes(8_000_000)) == expected


def test_client_that_keeps_sending_is_disconnected(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_api, "DISCARD_TIME", 0.05)
    with socket.create_connection(("127.0.0.1", client.api.port), timeout=TIMEOUT) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
        deadline = time.monotonic() + TIMEOUT
        with contextlib.suppress(ConnectionError):
            while time.monotonic() < deadline:
                connection.sendall(b"x")
                time.sleep(0.001)
    assert time.monotonic() < deadline


def test_connection_is_kept_for_further_requests(client: Client) -> None:
    one = b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
    other = b"GET /api/v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nGET"
    answer = exchange(client, one + other + GOOD)
    assert re.findall(rb"HTTP/1.1 (\d+) ", answer) == [b"200", b"404", b"200"]


def test_old_client_needs_no_host(client: Client) -> None:
    answer = exchange(client, b"GET /livez HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert exchange(client, b"GET /livez HTTP/1.0\r\nHost: evil.test\r\n\r\n").startswith(b"HTTP/1.1 403 ")


def test_client_that_disconnects_does_not_affect_others(client: Client) -> None:
    client.server.add(mail(text="x" * 70 + "\n").as_bytes(policy=SMTP) * 100_000)
    for request in (
        b"", b"GET /liv", b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"GET /api/v1/message/latest/raw HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", client.api.port), timeout=TIMEOUT) as connection:
            connection.sendall(request)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert exchange(client, GOOD).startswith(b"HTTP/1.1 200 OK\r\n")


def test_silent_client_is_disconnected(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    assert http_api._Handler.timeout == 30
    monkeypatch.setattr(http_api._Handler, "timeout", 0.01)
    assert exchange(client, b"GET /livez HTTP/1.1\r\n") == b""
    assert exchange(client, b"PUT /api/v1/chaos HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{") == b""


def test_connections_over_the_limit_are_closed(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_api, "MAX_CONNECTIONS", 1)
    with socket.create_connection(("127.0.0.1", client.api.port), timeout=TIMEOUT) as connection:
        connection.sendall(GOOD.replace(b"close", b"keep-alive"))
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        with socket.create_connection(("127.0.0.1", client.api.port), timeout=TIMEOUT) as excess:
            assert excess.recv(1) == b""
        connection.sendall(GOOD)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_idle_connections_do_not_use_up_the_limit(client: Client) -> None:
    request = GOOD.replace(b"close", b"keep-alive")
    with contextlib.ExitStack() as stack:
        for _ in range(3):  # three clients, each with a pool of connections
            connections = [
                stack.enter_context(socket.create_connection(("127.0.0.1", client.api.port), timeout=TIMEOUT))
                for _ in range(60)
            ]
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")


def test_connections_that_are_opened_at_once_are_queued() -> None:
    server = http_api._Server(("127.0.0.1", 0), Api(cast(Any, FakeServer())))  # accepts none
    with contextlib.closing(server), contextlib.ExitStack() as stack:
        for _ in range(http_api.MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=TIMEOUT))


def test_fault_of_the_server_is_answered_without_details(client: Client) -> None:
    client.server.stored = None  # type: ignore[assignment]
    assert client.error("/api/v1/messages") == (500, "the server failed: TypeError")
    client.server.stored = []
    assert client.json("/api/v1/messages")["total"] == 0


def test_end_closes_the_port_and_the_connections() -> None:
    with HttpApi(cast(Any, FakeServer())) as api:
        idle = socket.create_connection(("127.0.0.1", api.port), timeout=TIMEOUT)
        idle.sendall(GOOD.replace(b"close", b"keep-alive"))
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    with idle:
        assert idle.recv(1) == b""
    assert api._server.socket.fileno() == -1
    api.close()


def test_port_and_address_are_options() -> None:
    with HttpApi(cast(Any, FakeServer())) as api, pytest.raises(OSError, match="in use"):
        HttpApi(cast(Any, FakeServer()), port=api.port)
    with HttpApi(cast(Any, FakeServer()), host="::1") as api:
        assert api.url == f"http://[::1]:{api.port}"
        with OPENER.open(f"{api.url}/livez", timeout=TIMEOUT) as response:
            assert response.status == 200
    with HttpApi(cast(Any, FakeServer()), host="0.0.0.0") as api:
        assert api.url == f"http://127.0.0.1:{api.port}"
        client = Client(FakeServer(), api)
        assert client.request("GET", "/livez", Host="0.0.0.0")[0] == 200
        assert client.request("GET", "/livez", Host="evil.test")[0] == 403
