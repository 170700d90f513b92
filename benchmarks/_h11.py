"""The baseline of the in-memory benchmarks: h11 parses one request with realistic headers and sends its response."""

from __future__ import annotations

import h11

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: example.test\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:45.0) Gecko/20100101 Firefox/45.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\nDNT: 1\r\nCookie: ID=" + b"A" * 203 + b"\r\nConnection: keep-alive\r\n\r\n"
)
HEADERS = [
    ("Cache-Control", "private, max-age=0"),
    ("Content-Encoding", "gzip"),
    ("Content-Type", "text/html; charset=UTF-8"),
    ("Date", "Fri, 20 May 2016 09:23:41 GMT"),
    ("Expires", "-1"),
    ("Server", "example"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("X-XSS-Protection", "1; mode=block"),
    ("Content-Length", "1000"),
]
BODY = b"x" * 1000


def cycle() -> None:
    """Parse one request and send one response."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(REQUEST)
    while connection.their_state is not h11.DONE:
        connection.next_event()
    connection.send(h11.Response(status_code=200, headers=HEADERS))
    connection.send(h11.Data(data=BODY))
    connection.send(h11.EndOfMessage())
