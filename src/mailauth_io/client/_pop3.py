"""Collect messages by POP3 (RFC 1939)."""

from __future__ import annotations

import contextlib
import email
import email.policy
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Container
from email.message import EmailMessage
from types import TracebackType
from typing import Final, Self, TypeVar, cast

import attrs

from mailauth import Command, MessageChunk, Tls, pop3, sasl

from ..adapters import AsyncClientConnection
from ._server import TIMEOUT, LoginLike, Server, Session, TlsMode, open_connection, to_login
from .errors import ClientError, ConnectionFailed, MessageTooLarge, ServerRejected

T = TypeVar("T")

_PORTS: Final[dict[TlsMode, int]] = {"implicit": 995, "starttls": 110, "none": 110}

MAX_MESSAGE_SIZE: Final = 150 * 1024 * 1024
"""Bytes of a retrieved message, which is kept in memory: the highest limit that Exchange Online can be set to."""


def check_max_message_size(value: object) -> None:
    if type(value) is not int or value < 1:
        raise ValueError("max_message_size must be a number of bytes, at least 1")


@attrs.frozen(kw_only=True)
class Listed:
    """One message of a maildrop, as LIST and UIDL describe it.

    For example:

        for listed in await maildrop.listing():
            print(listed.number, listed.size, listed.unique_id)
    """

    number: int
    """Its number in this session, from 1."""
    size: int
    """Bytes, as the server states it."""
    unique_id: str | None
    """The same in all sessions; None if the server does not support UIDL.

    RFC 1939 section 7 allows 1 to 70 printable ASCII characters without blanks.  If a server sends others, different
    unique-ids stay different: ``\\xNN`` stands for a byte outside of printable ASCII."""


@attrs.frozen(kw_only=True)
class CollectedMessage:
    """A retrieved message.

    For example:

        async with collect(host="mail.example.org", login=("alice", "wonderland")) as messages:
            async for message in messages:
                print(message.email["Subject"], len(message.raw))
    """

    raw: bytes = attrs.field(repr=False)
    """The message with CRLF line ends."""
    number: int
    unique_id: str | None
    complete: bool
    """Whether at least as many bytes arrived as LIST announced.  An incomplete message is not deleted."""

    @property
    def email(self) -> EmailMessage:
        """The parsed message, with LF line ends as in other Python programs; parsed again at each access."""
        return email.message_from_bytes(self.raw.replace(b"\r\n", b"\n"), policy=email.policy.default)


class Pop3Client:
    """A session with an open maildrop, made by ``pop3_client``.

    A deleted message is removed from the server only if the session ends without an exception.  The methods raise
    ConnectionFailed, and ServerRejected for -ERR.  A call that is cancelled closes the connection.  Call them from one
    task at a time.

    For example:

        async with pop3_client(host="mail.example.org", login=("alice", "wonderland")) as maildrop:
            for listed in await maildrop.listing():
                print(await maildrop.top(listed.number))
    """

    def __init__(
        self,
        connection: AsyncClientConnection[pop3.ClientEvent],
        machine: pop3.ClientConnection,
        *,
        timeout: float = TIMEOUT,
        max_message_size: int = MAX_MESSAGE_SIZE,
    ) -> None:
        """*machine* is the machine of *connection*; *timeout* is in seconds, for each step.

        *max_message_size* is in bytes, for ``retrieve`` and ``top``.
        """
        check_max_message_size(max_message_size)
        self._max_message_size = max_message_size
        self._session = Session(connection, timeout)
        self._machine = machine

    @property
    def tls(self) -> Tls | None:
        """The TLS session; None without TLS."""
        return self._session.tls

    @property
    def capabilities(self) -> dict[str, str]:
        """The response to CAPA before the login: tag in upper case to arguments; empty if CAPA is not supported."""
        return dict(self._machine.capabilities)

    async def listing(self) -> tuple[Listed, ...]:
        """Return all messages that are not deleted, with their sizes and unique-ids."""
        sizes = _pairs(await self._succeed(pop3.List()), "LIST")
        unique_ids = dict(_pairs(await self.execute(pop3.Uidl()), "UIDL"))
        return tuple(
            Listed(number=number, size=_number(rest.split()[0], "LIST"), unique_id=unique_ids.get(number))
            for number, rest in sizes  # other information may follow the size, and nothing the unique-id
        )

    async def retrieve(self, number: int) -> bytes:
        """Return the whole message *number* (RETR).  It is not marked as deleted.

        Raises MessageTooLarge, and closes the connection, if it is longer than *max_message_size*.
        """
        return await self._content(pop3.Retrieve(number=number))

    async def top(self, number: int, lines: int = 0) -> bytes:
        """Return the header of message *number*, and the first *lines* lines of its body (TOP)."""
        return await self._content(pop3.Retrieve(number=number, lines=lines))

    async def delete(self, number: int) -> None:
        """Mark message *number* as deleted; the server removes it when the session ends."""
        await self._succeed(pop3.Dele(number=number))

    async def undelete(self) -> None:
        """Remove all marks (RSET)."""
        await self._succeed(pop3.Rset())

    async def execute(self, command: Command) -> pop3.Reply:
        """Send one command, such as ``pop3.Noop()``, and return its reply, which may be negative."""
        self._session.send(command)
        return await self._reply()

    async def quit(self) -> None:
        """Send QUIT: the server removes the messages that are marked as deleted.

        Raises ServerRejected if it could not remove all of them (RFC 1939 section 6).
        """
        try:
            if self._session.ended:
                return
            await self._succeed(pop3.Quit())
            await self._session.close()
        finally:
            self._session.abort()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.quit()
        else:
            self._session.abort()

    async def _succeed(self, command: Command) -> pop3.Reply:
        reply = await self.execute(command)
        if not reply.positive:
            raise ServerRejected(f"the server rejected {getattr(command, 'verb', 'a command')}: {reply}", reply)
        return reply

    async def _content(self, command: pop3.Retrieve) -> bytes:
        pieces: list[bytes] = []
        left = self._max_message_size

        def receive(data: bytes) -> None:
            nonlocal left
            left -= len(data)
            if left < 0:
                raise MessageTooLarge(
                    f"message {command.number} is longer than {self._max_message_size} bytes (max_message_size)"
                )
            pieces.append(data)

        self._session.send(command)
        reply = await self._reply(receive)
        if not reply.positive:
            raise ServerRejected(f"the server did not send message {command.number}: {reply}", reply)
        return b"".join(pieces)

    async def _reply(self, receive: Callable[[bytes], object] = len) -> pop3.Reply:
        """Return the next reply, after passing the content before it to *receive*; by default it is discarded."""
        event = await self._session.event_after_content(receive)
        assert not isinstance(event, MessageChunk)
        if isinstance(event, sasl.Authenticated):
            return pop3.Reply(True)
        if isinstance(event, pop3.ReplyReceived) and event.command is None and not event.reply.positive:
            raise ServerRejected(f"the server ended the session: {event.reply}", event.reply)
        return event.reply

    async def start(self, *, tls: TlsMode = "implicit", login: LoginLike | None = None) -> None:
        """Receive the greeting, start TLS if *tls* is ``"starttls"``, and log in.  Raises ClientError."""
        await self._reply()  # the greeting: a negative one raises
        if tls == "starttls":
            reply = await self.execute(pop3.Stls())
            if not reply.positive:
                raise ServerRejected(f"the server rejected STLS: {reply}", reply)
        await self.execute(pop3.Capa())
        if "UTF8" in self._machine.capabilities:
            await self.execute(pop3.Utf8())  # without it, a server may withhold messages with a UTF-8 header (RFC 6856)
        login = to_login(login)
        if login is not None:
            await self._session.log_in(login)


def _pairs(reply: pop3.Reply, verb: str) -> list[tuple[int, str]]:
    """Return the number and the rest of each line of a scan listing or unique-id listing (RFC 1939 sections 5 and 7).

    Some servers align the words with several blanks or tabs, and some begin the listing with an empty line.
    """
    return [_pair(line, verb) for line in reply.lines or () if line.strip()]


def _pair(line: str, verb: str) -> tuple[int, str]:
    words = line.strip().split(maxsplit=1)
    if len(words) < 2 or not (number := _number(words[0], verb)):
        raise ConnectionFailed(f"the response to {verb} has an invalid line: {line}")
    return number, words[1]


def _number(text: str, verb: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ConnectionFailed(f"the response to {verb} has an invalid number: {text}")
    return int(text)


@contextlib.asynccontextmanager
async def pop3_client(
    *,
    host: str,
    port: int | None = None,
    login: LoginLike,
    tls: TlsMode = "implicit",
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
    local_address: str | None = None,
    max_message_size: int = MAX_MESSAGE_SIZE,
) -> AsyncGenerator[Pop3Client]:
    """Connect and log in, and yield a Pop3Client.  On exit send QUIT, which removes the deleted messages.

    The parameters are those of ``collect``.  After an exception in the body the connection is closed without QUIT, and
    no message is removed.
    """
    check_max_message_size(max_message_size)
    server = Server(
        host=host,
        port=port,
        login=login,
        tls=tls,
        ssl_context=ssl_context,
        timeout=timeout,
        local_address=local_address,
    )
    if server.login is None:
        raise TypeError("login must be a tuple (name, password) or a Login; POP3 needs one")
    settings = pop3.ClientSettings(tls_required=server.tls != "none")
    connection, machine = await open_connection(server, lambda tls: pop3.ClientConnection(settings, tls=tls), _PORTS)
    async with Pop3Client(connection, machine, timeout=server.timeout, max_message_size=max_message_size) as client:
        await client.start(tls=server.tls, login=server.login)
        yield client


@contextlib.asynccontextmanager
async def collect(
    *,
    host: str,
    port: int | None = None,
    login: LoginLike,
    delete: bool = False,
    skip: Container[str] = (),
    tls: TlsMode = "implicit",
    ssl_context: ssl.SSLContext | None = None,
    timeout: float = TIMEOUT,
    max_message_size: int = MAX_MESSAGE_SIZE,
) -> AsyncGenerator[AsyncIterator[CollectedMessage]]:
    """Retrieve the messages of a maildrop, one at a time.

        async with client.collect(host="mail.example.org", login=("alice", "wonderland"), delete=True) as messages:
            async for message in messages:
                store(message.raw)

    With *delete*, a message is deleted when the next one is requested, or the iteration reaches its end, and only if
    it was retrieved completely.  If the loop is left before, by ``break``, an exception or a cancellation, the last
    message is kept.  The deletions take effect when the context is left, also by an Exception.  If the connection is
    lost, or a call on it or the whole context is cancelled, nothing is deleted.  Messages whose unique-id is in *skip*
    are not retrieved.

    For a message that LIST announces with more than *max_message_size* bytes, MessageTooLarge is raised; the iteration
    can go on after it.  If a message turns out to be longer, the connection is closed too.

    *host* and *port* name the server; the standard port is 995, otherwise 110.  *tls* is ``"implicit"``,
    ``"starttls"`` (STLS), or ``"none"``.  The other parameters, and the exceptions, are those of ``submit``; also
    ServerRejected if the server does not send a message or cannot delete all messages.
    """
    if isinstance(skip, str):
        raise TypeError(f"skip must be a set of unique-ids, such as {{{skip!r}}}, not a string")
    if not isinstance(cast(object, skip), Container):
        raise TypeError(f"skip must be a set of unique-ids, not {type(skip).__name__}")
    failure: Exception | None = None
    try:
        async with pop3_client(
            host=host,
            port=port,
            login=login,
            tls=tls,
            ssl_context=ssl_context,
            timeout=timeout,
            max_message_size=max_message_size,
        ) as maildrop:
            collection = _Collection(maildrop, skip, delete, max_message_size)
            try:
                yield collection
            except Exception as error:
                if collection.failed:
                    raise
                failure = error  # of the caller: the messages that it has processed are deleted nevertheless
    except ClientError as error:
        if failure is None:
            raise
        failure.add_note(f"The messages before it may not have been deleted: {error}")
    if failure is not None:
        raise failure


class _Collection:
    """Iterates over the messages of a maildrop, and deletes each when the next is requested."""

    def __init__(self, maildrop: Pop3Client, skip: Container[str], delete: bool, max_message_size: int) -> None:
        self._maildrop = maildrop
        self._skip = skip
        self._delete = delete
        self._max_message_size = max_message_size
        self._left: list[Listed] | None = None
        self._current: int | None = None
        self.failed = False
        """Whether the connection to the server has failed."""

    def __aiter__(self) -> AsyncIterator[CollectedMessage]:
        return self

    async def __anext__(self) -> CollectedMessage:
        if self._left is None:
            self._left = []  # if the listing fails, the iteration ends
            listing = await self._noting_failure(self._maildrop.listing())
            self._left = [each for each in reversed(listing) if (each.unique_id or "") not in self._skip]
        await self._delete_last()
        if not self._left:
            raise StopAsyncIteration
        listed = self._left.pop()
        if listed.size > self._max_message_size:
            raise MessageTooLarge(
                f"message {listed.number} (unique-id {listed.unique_id}) has {listed.size} bytes,"
                f" more than {self._max_message_size} (max_message_size)"
            )
        try:
            raw = await self._noting_failure(self._maildrop.retrieve(listed.number))
        except ServerRejected as error:
            name = f"message {listed.number} (unique-id {listed.unique_id})"
            raise ServerRejected(f"the server did not send {name}: {error.reply}", error.reply) from None
        complete = len(raw) >= listed.size
        if self._delete and complete:
            self._current = listed.number
        return CollectedMessage(raw=raw, number=listed.number, unique_id=listed.unique_id, complete=complete)

    async def _delete_last(self) -> None:
        """Delete the last message that was returned, if that was requested."""
        number, self._current = self._current, None
        if number is not None:
            await self._noting_failure(self._maildrop.delete(number))

    async def _noting_failure(self, answer: Awaitable[T]) -> T:
        try:
            return await answer
        except ConnectionFailed:
            self.failed = True
            raise
