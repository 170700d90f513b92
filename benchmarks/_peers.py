"""The asyncio servers that mailauth is compared with: aiosmtpd, and two servers that do the minimum of work.

The two minimal servers split their input into lines, search for DATA and the final dot, or for verbs with multi-line
replies, and send fixed replies.  They check nothing, so they are a lower bound for the cost of any asyncio server.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
from collections.abc import Callable
from hmac import compare_digest
from typing import Final

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

import _certificates
from _load import AIOSMTPD, PROTOCOL
from _messages import MAILDROPS, PASSWORD

HOST: Final = "127.0.0.1"
QUEUE_IDS: Final = itertools.count(0xABC123)


def run(serves: str, name: str, announce: Callable[[int], None]) -> None:
    """Serve with the server *name* until stopped."""
    context = None if serves in ("smtp", "pop3") else _certificates.server_context()
    if name == AIOSMTPD:
        factory = aiosmtpd_factory(context if serves == "starttls" else None)
    elif name == PROTOCOL:
        factory = Pop3Floor if serves.startswith("pop3") else SmtpFloor
    else:
        session = pop3_streams if serves.startswith("pop3") else smtp_streams

        def factory() -> asyncio.BaseProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(), session)

    async def serve() -> None:
        implicit = None if serves == "starttls" else context
        server = await asyncio.get_running_loop().create_server(factory, HOST, 0, ssl=implicit)
        announce(server.sockets[0].getsockname()[1])
        await asyncio.Event().wait()

    asyncio.run(serve())


# aiosmtpd


class Queue:
    """A handler for aiosmtpd that accepts every sender and recipient and answers with a queue id."""

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 sender ok"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 recipient ok"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        return f"250 2.0.0 queued as {next(QUEUE_IDS):X}"


def authenticate(server: SMTP, session: Session, envelope: Envelope, mechanism: str, auth_data: object) -> AuthResult:
    assert isinstance(auth_data, LoginPassword)
    known = auth_data.login.decode() in MAILDROPS
    return AuthResult(success=known and compare_digest(auth_data.password, PASSWORD))


def aiosmtpd_factory(context: ssl.SSLContext | None) -> Callable[[], asyncio.BaseProtocol]:
    """Return a function that makes the protocol of a connection; *context* is for STARTTLS."""
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # it warns about deprecated names at each login
    queue = Queue()
    return lambda: SMTP(
        queue, hostname="mail.example.test", authenticator=authenticate, auth_require_tls=False, tls_context=context
    )


# SMTP without a parser

_GREETING: Final = b"220 mail.example.test ESMTP\r\n"
_OK: Final = b"250 2.0.0 queued as ABC123\r\n"
_GO_ON: Final = b"354 go on\r\n"
_GOODBYE: Final = b"221 2.0.0 goodbye\r\n"


class SmtpFloor(asyncio.Protocol):
    """asyncio.Protocol: counts lines and searches for the end of the content."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._unread = b""
        self._content = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_GREETING)

    def data_received(self, data: bytes) -> None:
        if self._unread:
            data = self._unread + data
            self._unread = b""
        replies = []
        while data:
            if self._content:
                end = data.find(b"\r\n.\r\n")
                if end < 0:
                    self._unread = data[-4:]
                    break
                replies.append(_OK)
                self._content = False
                data = data[end + 5 :]
                continue
            line, found, data = data.partition(b"\r\n")
            if not found:
                self._unread = line
                break
            verb = line[:4].upper()
            if verb == b"DATA":
                self._content = True
                replies.append(_GO_ON)
            elif verb == b"QUIT":
                self._transport.write(b"".join(replies) + _GOODBYE)
                self._transport.close()
                return
            else:
                replies.append(_OK)
        if replies:
            self._transport.write(b"".join(replies))


async def smtp_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """asyncio streams: reads every line, including content, with ``readline()``."""
    writer.write(_GREETING)
    while line := await reader.readline():
        verb = line[:4].upper()
        if verb == b"DATA":
            writer.write(_GO_ON)
            while await reader.readline() != b".\r\n":
                pass
        writer.write(_GOODBYE if verb == b"QUIT" else _OK)
        await writer.drain()
        if verb == b"QUIT":
            break
    writer.close()


# POP3 without a parser


def _several_lines(lines: list[bytes]) -> bytes:
    return b"+OK\r\n" + b"".join(lines) + b".\r\n"


def _canned() -> dict[str, dict[bytes, bytes]]:
    """The multi-line replies by verb, for each maildrop."""
    canned = {}
    for name, contents in MAILDROPS.items():
        numbered = list(enumerate(contents, 1))
        canned[name] = {
            b"LIST": _several_lines([b"%d %d\r\n" % (number, len(text)) for number, text in numbered]),
            b"UIDL": _several_lines([b"%d %032x\r\n" % (number, number) for number, _ in numbered]),
            b"CAPA": _several_lines([b"TOP\r\n", b"UIDL\r\n", b"PIPELINING\r\n", b"USER\r\n"]),
            b"RETR": _several_lines([contents[0]] if contents else []),
        }
        canned[name][b"TOP "] = canned[name][b"RETR"]
    return canned


_CANNED: Final = _canned()
_PLUS: Final = b"+OK\r\n"
_POP3_GREETING: Final = b"+OK <1@mail.example.test>\r\n"


def _canned_reply(line: bytes, name: str) -> tuple[bytes, str]:
    """Return the reply to a line, and the name of the current maildrop."""
    verb = line[:4].upper()
    if verb in (b"USER", b"APOP"):
        return _PLUS, line.split()[1].decode()
    reply = _CANNED[name].get(verb, _PLUS)
    if verb in (b"LIST", b"UIDL") and len(line.split()) == 2:
        reply = _PLUS
    return reply, name


class Pop3Floor(asyncio.Protocol):
    """asyncio.Protocol: one fixed reply for each line; the replies to one segment are written together."""

    _transport: asyncio.Transport

    def __init__(self) -> None:
        self._unread = b""
        self._name = "bob"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(_POP3_GREETING)

    def data_received(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\r\n")
        replies = []
        for line in lines:
            reply, self._name = _canned_reply(line, self._name)
            replies.append(reply)
        self._transport.write(b"".join(replies))
        if lines and lines[-1][:4].upper() == b"QUIT":
            self._transport.close()


async def pop3_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """asyncio streams: reads each line with ``readline()`` and sends a fixed reply."""
    writer.write(_POP3_GREETING)
    name = "bob"
    while line := await reader.readline():
        reply, name = _canned_reply(line, name)
        writer.write(reply)
        await writer.drain()
        if line[:4].upper() == b"QUIT":
            break
    writer.close()
