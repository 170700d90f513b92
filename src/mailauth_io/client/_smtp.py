"""Submit messages by SMTP (RFC 6409)."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import Final, Literal, Self, TypeAlias, cast

import attrs

from mailauth import Command, LocalProtocolError, MessageChunk, Tls, sasl, smtp

from ..adapters import AsyncClientConnection
from ._message import Content, MessageLike, content, envelope
from ._server import TIMEOUT, LoginLike, Server, Session, TlsMode, open_connection, to_login
from .errors import (
    ConnectionFailed,
    DeliveryUnknown,
    MessageRejected,
    NotSupported,
    ServerRejected,
)

Address: TypeAlias = str | smtp.Mailbox
_PORTS: Final[Mapping[TlsMode, int]] = {"implicit": 465, "starttls": 587, "none": 25}
_DOMAIN: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z][A-Za-z0-9-]*[A-Za-z0-9]")
_GROUP: Final = 100
"""Recipients that are sent before their replies are read: fewer bytes than a socket holds, in both directions."""


_EVENTS: Final = frozenset({"SUCCESS", "FAILURE", "DELAY"})


@attrs.frozen(kw_only=True)
class Dsn:
    """What reports the sender requests (delivery status notifications, RFC 3461).

    *notify* has the events ``SUCCESS``, ``FAILURE`` and ``DELAY``, or only ``NEVER``; without it the server decides.
    *ret* is the part of the message in a report, ``FULL`` or ``HDRS``.  *envelope_id* is quoted in the report.  Raises
    ValueError for an invalid value.

    For example:

        dsn = Dsn(notify=("SUCCESS", "FAILURE"), ret="HDRS", envelope_id="order-42")
        result = await session.send(message, dsn=dsn)
    """

    notify: tuple[Literal["NEVER", "SUCCESS", "FAILURE", "DELAY"], ...] | None = None
    ret: Literal["FULL", "HDRS"] | None = None
    envelope_id: str | None = None

    def __attrs_post_init__(self) -> None:
        notify = cast(object, self.notify)
        if notify is not None and not isinstance(notify, tuple):
            raise TypeError(f"notify must be a tuple of events, such as ('SUCCESS',), not {type(notify).__name__}")
        if notify is not None and notify != ("NEVER",) and not (notify and set(self.notify or ()) <= _EVENTS):
            raise ValueError(f"notify must have SUCCESS, FAILURE and DELAY, or only NEVER, not {notify!r}")
        if self.ret not in (None, "FULL", "HDRS"):
            raise ValueError(f"ret must be FULL or HDRS, not {self.ret!r}")
        try:
            self.in_mail(smtp.Mail(reverse_path=None))
        except LocalProtocolError as error:
            raise ValueError(f"{error}; pass at most 100 printable ASCII characters") from None

    def in_mail(self, command: smtp.Mail) -> smtp.Mail:
        """Return *command* with these parameters."""
        return attrs.evolve(command, ret=None if self.ret is None else smtp.Ret(self.ret), envelope_id=self.envelope_id)

    def in_rcpt(self, command: smtp.Rcpt) -> smtp.Rcpt:
        """Return *command* with these parameters."""
        return attrs.evolve(
            command, notify=None if self.notify is None else frozenset(smtp.Notify(each) for each in self.notify)
        )


def _read_only(replies: Mapping[str, smtp.Reply]) -> Mapping[str, smtp.Reply]:
    return MappingProxyType(dict(replies))


@attrs.frozen
class SubmitResult:
    """The final reply for each recipient.  The message was accepted for those with a positive reply, and no others.

    For example:

        result = await submit(message, host="mail.example.org", login=("alice", "wonderland"))
        for recipient, reply in result.rejected.items():
            print(recipient, reply.code, reply.text)
    """

    replies: Mapping[str, smtp.Reply] = attrs.field(converter=_read_only)
    """Recipient to reply, in the order of the recipients."""

    @property
    def accepted(self) -> tuple[str, ...]:
        """The recipients for which the server accepted the message."""
        return tuple(name for name, reply in self.replies.items() if reply.positive)

    @property
    def rejected(self) -> Mapping[str, smtp.Reply]:
        """The replies to the recipients for which it did not.  After a 4yz reply, try again later."""
        return {name: reply for name, reply in self.replies.items() if not reply.positive}

    @property
    def complete(self) -> bool:
        """Whether the server accepted the message for every recipient."""
        return not self.rejected

    def raise_for_rejected(self) -> None:
        """Raise MessageRejected unless the server accepted the message for every recipient."""
        if self.rejected:
            raise MessageRejected(self)

    def __bool__(self) -> bool:
        raise TypeError("a SubmitResult is neither true nor false; use .complete, .accepted or raise_for_rejected()")


class SmtpClient:
    """A session that is ready to send messages, made by ``smtp_client``.

    After ConnectionFailed, and after a call that was cancelled, it is of no further use: the connection is closed.
    Call its methods from one task at a time.

    For example:

        async with smtp_client(host="mail.example.org", login=("alice", "wonderland")) as session:
            for message in messages:
                (await session.send(message)).raise_for_rejected()
    """

    def __init__(
        self,
        connection: AsyncClientConnection[smtp.ClientEvent],
        machine: smtp.ClientConnection,
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        """*machine* is the machine of *connection*; *timeout* is in seconds, for each step."""
        self._session = Session(connection, timeout)
        self._machine = machine
        self._must_reset = False  # a transaction may be open
        self._last_reply: smtp.Reply | None = None  # 421, after which the server closes

    @property
    def tls(self) -> Tls | None:
        """The TLS session; None without TLS."""
        return self._session.tls

    @property
    def extensions(self) -> Mapping[str, str]:
        """The extensions that the server offers: keyword in upper case to its parameters, as ``{"SIZE": "1000"}``."""
        return self._machine.extensions

    async def send(
        self,
        message: MessageLike,
        sender: Address | None = None,
        recipients: Iterable[Address] | None = None,
        *,
        dsn: Dsn | None = None,
    ) -> SubmitResult:
        """Send *message*; return the final reply for each recipient.

        *sender* and *recipients* are taken from the header of an EmailMessage if they are None; ``""`` is the null
        reverse-path.  The commands are pipelined, and BDAT is used, where the server offers it.  Line ends may be LF.

        Raises NotSupported if the server does not offer what the message needs (SMTPUTF8 for a non-ASCII address,
        8BITMIME for bytes above 127, the SIZE) or *dsn* needs; ConnectionFailed, of which DeliveryUnknown means that
        the message may have been accepted; ValueError or TypeError for invalid arguments.
        """
        if not isinstance(cast(object, dsn), Dsn | None):
            raise TypeError(f"dsn must be a Dsn or None, not {type(dsn).__name__}")
        reverse_path, forward_paths = envelope(message, sender, recipients)
        mail, body = self._prepare(message, reverse_path, forward_paths)
        recipient_commands = [smtp.Rcpt(forward_path=each) for each in forward_paths]
        if dsn is not None:
            if "DSN" not in self.extensions:
                raise NotSupported("the server does not offer DSN; leave out dsn, or use another server")
            mail, recipient_commands = dsn.in_mail(mail), [dsn.in_rcpt(command) for command in recipient_commands]
        try:
            replies = await self._transaction(mail, recipient_commands, body)
        except BaseException:
            self._session.abort()  # the transaction is in an unknown state
            raise
        return SubmitResult(dict(zip(map(str, forward_paths), replies, strict=True)))

    async def execute(self, command: Command) -> smtp.Reply:
        """Send one command, such as ``smtp.Vrfy(...)``, and return its reply.

        Raises ConnectionFailed, and LocalProtocolError for a command that is not allowed now.
        """
        if self._last_reply is None:
            self._session.send(command)
        return await self._reply()

    async def write(self, data: bytes) -> None:
        """Send a piece of content, after ``execute(smtp.Data())`` has returned 354.

        After the last piece, ``execute(smtp.MessageComplete())`` ends the message and returns its reply.
        Raises ConnectionFailed, and ValueError for content that cannot be sent.
        """
        try:
            self._session.send(MessageChunk(data=data))
        except LocalProtocolError as error:
            raise ValueError(str(error)) from None
        await self._session.flush()

    def abort(self) -> None:
        """Close the connection at once."""
        self._session.abort()

    async def aclose(self) -> None:
        """Send QUIT and close the connection.  A failure is ignored: the messages have their results."""
        await self._session.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            self._session.abort()

    # A transaction

    def _prepare(
        self, message: MessageLike, sender: smtp.Mailbox | None, recipients: Iterable[smtp.Mailbox]
    ) -> tuple[smtp.Mail, Content]:
        offered = self.extensions
        international = next((each for each in (sender, *recipients) if each and not str(each).isascii()), None)
        if international is not None and "SMTPUTF8" not in offered:
            raise NotSupported(f"the address {international} needs SMTPUTF8, which the server does not offer")
        body = content(message, utf8=international is not None, eight_bit="8BITMIME" in offered)
        if body.eight_bit and "8BITMIME" not in offered:
            raise NotSupported("the message has bytes above 127, which need 8BITMIME, and the server does not offer it")
        limit = offered.get("SIZE", "").strip()
        if limit.isascii() and limit.isdigit() and 0 < int(limit[:21]) < body.size:  # 0: no limit (RFC 1870)
            raise NotSupported(f"the message has {body.size} bytes, and the server accepts at most {limit}")
        mail = smtp.Mail(
            reverse_path=sender,
            size=body.size if "SIZE" in offered else None,
            body=smtp.Body.EIGHT_BIT_MIME if body.eight_bit and "8BITMIME" in offered else None,
            smtputf8=international is not None,
        )
        return mail, body

    async def _transaction(self, mail: smtp.Mail, recipients: list[smtp.Rcpt], body: Content) -> list[smtp.Reply]:
        """Return the final reply for each recipient."""
        # Postfix rejects a last chunk without data as the only one, which RFC 3030 section 2 allows.
        chunked = body.size > 0 and "CHUNKING" in self.extensions
        before: list[Command] = [smtp.Rset()] if self._must_reset else []
        commands = [*before, mail, *recipients, *([] if chunked else [smtp.Data()])]
        replies: list[smtp.Reply] = []
        self._must_reset = True
        for start in range(0, len(commands), _GROUP):
            group = commands[start : start + _GROUP]
            self._queue(group)
            for answered, command in enumerate(group, 1):
                replies.append(await self._reply())
                if command is mail and not replies[-1].positive:
                    with contextlib.suppress(ConnectionFailed):  # the result is known, whatever else the server replies
                        for _ in group[answered:]:
                            await self._reply()
                    return [replies[-1]] * len(recipients)
        del replies[: len(before) + 1]
        accepted = any(reply.positive for reply in replies[: len(recipients)])
        verdict = self._last_reply if chunked else replies.pop()
        if accepted and verdict is None:
            verdict = await self._send_chunks(body)
        elif accepted and verdict is not None and verdict.code == 354:
            verdict = await self._send_data(body)
        return [verdict if reply.positive and verdict is not None else reply for reply in replies]

    def _queue(self, commands: list[Command]) -> None:
        if self._last_reply is not None:
            return  # it is the reply to all further commands
        for command in commands:
            try:
                self._session.send(command)
            except LocalProtocolError as error:
                raise NotSupported(str(error)) from None

    async def _send_data(self, body: Content) -> smtp.Reply:
        connection = self._session.connection
        for piece in body.pieces:
            await self.write(piece)
            if connection.peer_closed:
                break
        if connection.peer_closed or not self._session.is_open:  # without the final dot the message is not delivered
            return await self._reply()
        return await self._complete()

    async def _send_chunks(self, body: Content) -> smtp.Reply:
        """Send *body* by BDAT, at most one chunk ahead of the replies (RFC 3030)."""
        unanswered = 0
        for piece in body.pieces:
            await self.write(piece)
            unanswered += 1
            if unanswered > 1:
                reply = await self._reply()
                unanswered -= 1
                if not reply.positive:
                    for _ in range(unanswered):
                        await self._reply()
                    return reply
        for _ in range(unanswered):
            reply = await self._reply()
            if not reply.positive:
                return reply
        return await self._complete()

    async def _complete(self) -> smtp.Reply:
        try:
            self._session.send(smtp.MessageComplete())
        except LocalProtocolError as error:
            raise ValueError(str(error)) from None
        try:
            reply = await self._reply()
        except ConnectionFailed as error:
            raise DeliveryUnknown(f"the message may have been accepted: {error}") from error.__cause__
        self._must_reset = False
        return reply

    async def _reply(self) -> smtp.Reply:
        """Return the next reply.  A 4yz that ends the session is the reply to all further commands.

        Raises ConnectionFailed if the server has ended the session by another reply: 221 does not mean that a command
        succeeded.
        """
        if self._last_reply is not None:
            return self._last_reply
        event = await self._session.event()
        if isinstance(event, sasl.Authenticated):
            return smtp.Reply(235, "2.7.0", "")
        unsolicited = isinstance(event, smtp.ReplyReceived) and event.command is None and not self._session.is_open
        if unsolicited and event.reply.positive:
            raise ConnectionFailed(f"the server ended the session: {one_line(event.reply)}")
        if unsolicited or event.reply.code == 421:
            self._last_reply = event.reply
        return event.reply

    # The start of the session

    async def start(
        self, *, tls: TlsMode = "implicit", login: LoginLike | None = None, client_name: str | None = None
    ) -> smtp.Reply:
        """Receive the greeting, start TLS if *tls* is ``"starttls"``, and log in.  Return the greeting.

        *client_name* is the domain or address literal sent with EHLO; None is the name of this host.  Raises
        ClientError.
        """
        greeting = await self._reply()
        self._check(greeting, "the connection")
        await self.hello(client_name)
        if tls == "starttls":
            if "STARTTLS" not in self.extensions:
                raise NotSupported("the server does not offer STARTTLS")
            self._check(await self.execute(smtp.StartTls()), "STARTTLS")
            await self.hello(client_name)
        login = to_login(login)
        if login is not None:
            await self._session.log_in(login)
        return greeting

    async def hello(self, client_name: str | None = None) -> None:
        """Send EHLO, or HELO to a server that does not know EHLO.  Raises ServerRejected if both are rejected."""
        domain = client_name or _client_name()
        reply = await self.execute(smtp.Hello(domain=domain))
        if reply.code // 10 == 50 or reply.code == 550:  # RFC 5321 section 4.1.4; some old servers reply 503
            refusal = reply
            try:
                reply = await self.execute(smtp.Hello(domain=domain, extended=False))
            except ConnectionFailed:
                reply = refusal  # it says why the server has closed the connection
            if reply.code == 421:
                reply = refusal
        self._check(reply, "EHLO")

    async def authenticate(
        self,
        *mechanisms: sasl.ClientMechanism,
        initial_response: bool = True,
        assume: Collection[str] = frozenset(),
        retry_weaker: bool = False,
    ) -> smtp.Reply:
        """Log in with the first of *mechanisms* that the server offers, and return its final reply.

        The other parameters are those of ``ClientMachine.authenticate()``.  Raises NotSupported if the server offers
        none of *mechanisms*.
        """
        self._session.authenticate(
            *mechanisms, initial_response=initial_response, assume=assume, retry_weaker=retry_weaker
        )
        return await self._reply()

    def _check(self, reply: smtp.Reply, step: str) -> None:
        if not reply.positive:
            raise ServerRejected(f"the server rejected {step}: {one_line(reply)}", reply)


def one_line(reply: smtp.Reply) -> str:
    return " ".join(str(reply).split())


def _client_name() -> str:
    """Return the name of this host, or an address literal if it has none that a server could look up."""
    name = socket.gethostname()
    return name if _DOMAIN.fullmatch(name) else "[127.0.0.1]"


@contextlib.asynccontextmanager
async def smtp_client(
    *,
    host: str,
    port: int | None = None,
    login: LoginLike | None = None,
    tls: TlsMode = "implicit",
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
    local_address: str | None = None,
) -> AsyncGenerator[SmtpClient]:
    """Connect and log in, and yield an SmtpClient; on exit send QUIT and close the connection.

    The parameters are those of ``submit``.  Raises ClientError as ``submit`` does.  After an exception in the body the
    connection is closed without QUIT.
    """
    server = Server(
        host=host,
        port=port,
        login=login,
        tls=tls,
        ssl_context=ssl_context,
        timeout=timeout,
        local_address=local_address,
    )
    settings = smtp.ClientSettings(tls_required=server.tls != "none", lf_to_crlf=True)
    connection, machine = await open_connection(server, lambda tls: smtp.ClientConnection(settings, tls=tls), _PORTS)
    async with SmtpClient(connection, machine, timeout=server.timeout) as client:
        await client.start(tls=server.tls, login=server.login)
        yield client


async def submit(
    message: MessageLike,
    sender: Address | None = None,
    recipients: Iterable[Address] | None = None,
    *,
    host: str,
    port: int | None = None,
    login: LoginLike | None = None,
    tls: TlsMode = "implicit",
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
    dsn: Dsn | None = None,
) -> SubmitResult:
    """Send one message, and return the final reply for each recipient.

    *message* is an EmailMessage, bytes, or a binary file; *sender* and *recipients* as for ``SmtpClient.send``.

    *host* and *port* name the server; the standard port is 465, 587 with ``tls="starttls"``, 25 with ``tls="none"``.
    *login* is a tuple ``(name, password)`` or a Login.  *tls* is ``"implicit"``, ``"starttls"``, or ``"none"``, which
    sends the message and the login unprotected.  *ssl_context* has the trusted CAs and the client's certificate (by
    default ``ssl.create_default_context()``).  *timeout* is in seconds, for each step: the connection, the TLS
    handshake, each reply, and each 64 KiB of content.

    Raises ClientError (see its subclasses), and ValueError or TypeError for invalid arguments.
    """
    async with smtp_client(
        host=host, port=port, login=login, tls=tls, ssl_context=ssl_context, timeout=timeout
    ) as client:
        return await client.send(message, sender, recipients, dsn=dsn)
