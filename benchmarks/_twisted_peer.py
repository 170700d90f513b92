"""The SMTP and POP3 servers of Twisted, with applications that do the same as those of mailauth.

Twisted's ``ESMTP`` accepts the parameters of MAIL and RCPT without parsing them, and sends a fixed final reply, so its
application cannot send a queue id.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet import defer, reactor
from twisted.internet.protocol import Factory
from twisted.mail import pop3, smtp
from twisted.mail.imap4 import PLAINCredentials

import _certificates
from _messages import MAILDROPS, PASSWORD

HOST: Final = "127.0.0.1"


class Message:
    """Collects the lines of one message."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    def lineReceived(self, line: bytes) -> None:
        self._lines.append(line)

    def eomReceived(self) -> defer.Deferred[None]:
        self._lines.clear()
        return defer.succeed(None)

    def connectionLost(self) -> None:
        self._lines.clear()


class Delivery:
    """Accepts every sender and recipient."""

    def receivedHeader(self, helo: object, origin: object, recipients: object) -> bytes:
        return b""

    def validateFrom(self, helo: object, origin: object) -> defer.Deferred[object]:
        return defer.succeed(origin)

    def validateTo(self, user: object) -> defer.Deferred[Callable[[], Message]]:
        return defer.succeed(Message)


class Submission(smtp.ESMTP):
    """ESMTP with the extensions that the recorded clients use."""

    noisy = False

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        return {b"PIPELINING": None, b"SIZE": [b"26214400"], b"8BITMIME": None, **super().extensions()}


class Mailbox(pop3.Mailbox):
    """A maildrop that does not carry out deletions.  Twisted expects messages with LF line ends."""

    def __init__(self, contents: tuple[bytes, ...]) -> None:
        self._sizes = [len(text) for text in contents]
        unix = {id(text): text.replace(b"\r\n", b"\n") for text in contents}
        self._contents = [unix[id(text)] for text in contents]
        self._uids = [b"%032x" % number for number in range(1, len(contents) + 1)]

    def listMessages(self, i: int | None = None) -> Any:
        return self._sizes if i is None else self._sizes[i]

    def getMessage(self, i: int) -> Any:
        return io.BytesIO(self._contents[i])

    def getUidl(self, i: int) -> bytes:
        return self._uids[i]

    def deleteMessage(self, i: int) -> None:
        pass


class Reader(pop3.POP3):
    """POP3 with APOP corrected: Twisted compares the digest, which is bytes, with a str."""

    def authenticateUserAPOP(self, user: bytes, digest: bytes) -> Any:
        return super().authenticateUserAPOP(user, digest.decode("ascii"))


class Realm:
    """Gives an authenticated user the maildrop of that name, or the delivery."""

    def __init__(self) -> None:
        self._mailboxes = {name.encode(): Mailbox(contents) for name, contents in MAILDROPS.items()}

    def requestAvatar(self, name: bytes, mind: object, *interfaces: Any) -> tuple[Any, object, Callable[[], None]]:
        if pop3.IMailbox in interfaces:
            return pop3.IMailbox, self._mailboxes[name], lambda: None
        return smtp.IMessageDelivery, Delivery(), lambda: None


def tls_options() -> Any:
    """Return the settings of TLS, with a new certificate."""
    from twisted.internet.ssl import PrivateCertificate  # needs pyOpenSSL

    with tempfile.TemporaryDirectory() as folder:
        pem = _certificates.write(Path(folder)).read_bytes()
    return PrivateCertificate.loadPEM(pem).options()


class Server(Factory):
    """Creates the protocol of each connection."""

    noisy = False
    context: Any = None
    """The settings of STARTTLS."""

    def __init__(self, protocol: str) -> None:
        passwords = InMemoryUsernamePasswordDatabaseDontUse()
        for name in MAILDROPS:
            passwords.addUser(name.encode(), PASSWORD)
        realm: Any = Realm()  # mypy does not know which interfaces zope.interface declares
        checker: Any = passwords
        self._portal = Portal(realm, [checker])
        self._smtp = protocol == "smtp"

    def buildProtocol(self, address: object) -> Any:
        if self._smtp:
            submission: Any = Submission({b"PLAIN": PLAINCredentials}, contextFactory=self.context)
            submission.delivery = Delivery()
            submission.portal = self._portal
            submission.host = b"mail.example.test"
            submission.factory = self
            return submission
        reader: Any = Reader()
        reader.portal = self._portal
        reader.factory = self
        return reader


def run(serves: str, announce: Callable[[int], None]) -> None:
    running: Any = reactor  # a module that stands for the installed reactor
    factory = Server("pop3" if serves.startswith("pop3") else "smtp")
    if serves in ("smtp", "pop3"):
        port = running.listenTCP(0, factory, interface=HOST)
    else:
        options = tls_options()
        if serves == "starttls":
            factory.context = options
            port = running.listenTCP(0, factory, interface=HOST)
        else:
            port = running.listenSSL(0, factory, options, interface=HOST)
    announce(port.getHost().port)
    running.run()
