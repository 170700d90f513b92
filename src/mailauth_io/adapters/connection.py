"""The connection object of every adapter: it performs actions, returns all other events, and closes the connection.

This module does not depend on an event loop or a protocol: every operation that waits is a method of Stream.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Awaitable, Collection
from types import TracebackType
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

from mailauth import (
    BeginTls,
    ClientMachine,
    Closed,
    CloseReason,
    Command,
    LocalProtocolError,
    Machine,
    NeedData,
    Paused,
    Question,
    RemoteProtocolError,
    Send,
    ServerMachine,
    Tls,
)
from mailauth.sasl import AuthenticationStarted, ClientMechanism

from .stream import READ_SIZE, Peer, Stream
from .tls.layer import TlsLayer, TlsOptions, start_tls
from .turns import EVENTS_PER_TURN, LOGIN

__all__ = [
    "LINGER_BYTES",
    "LINGER_SECONDS",
    "LINGER_TOTAL",
    "AsyncClientConnection",
    "AsyncConnection",
    "AsyncServerConnection",
]

A = TypeVar("A")
E = TypeVar("E")

LINGER_SECONDS: Final = 2.0
"""Maximum seconds to wait for each read after the last write, until the peer has closed its side too."""
LINGER_TOTAL: Final = 10.0
"""Maximum seconds for these reads together: at one byte a second, LINGER_BYTES alone would allow days."""
LINGER_BYTES: Final = 1_048_576
"""Maximum bytes to read and discard after the last write.  Closing a socket that has unread data sends a reset, which
can destroy the last reply before the peer has read it."""
_ENDLESS: Final = math.inf
_CANCELLED: Final = "an earlier call was cancelled during a write, so data may be missing; close this connection"
_ACTIONS: Final = (Send, NeedData, BeginTls, Paused, Closed)


class AsyncConnection(Generic[E]):
    """A machine and its stream.  Iterate over it in one task; the iteration ends when the session is over.

    For example:

        async for event in connection:
            print(connection.peer.address, event)
    """

    __slots__ = (
        "_broken",
        "_cannot_write",
        "_cause",
        "_closed",
        "_closing_when_idle",
        "_events",
        "_indirect_write",
        "_layer",
        "_machine",
        "_stream",
        "_time_left",
        "_tls_options",
        "peer",
    )

    _server_side: ClassVar[bool]

    def __init__(
        self,
        machine: Machine[E],
        stream: Stream,
        peer: Peer,
        tls_options: TlsOptions | None,
        layer: TlsLayer | None,
    ) -> None:
        self.peer = peer
        self._machine = machine
        self._stream = stream
        self._tls_options = tls_options
        self._layer = layer
        self._time_left = _ENDLESS  # seconds left to receive content; each byte received adds to it
        self._events: deque[E] | None = None  # events that flush() received; the iteration returns them
        self._cannot_write = False
        self._indirect_write = layer is not None  # writes need _write(): TLS is active, or writing has failed
        self._closed = False
        self._closing_when_idle = False
        self._broken = ""
        self._cause: OSError | None = None  # the error of a client's TLS handshake

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        """Perform actions, and return the next question, notice or payload.

        A call that is cancelled while it reads loses no data.  Raises ConnectionAbortedError if an earlier call was
        cancelled during a write or a TLS handshake, and RuntimeError if the last question has not been answered.  A
        client also raises RemoteProtocolError, and the OSError of a failed handshake (ssl.SSLError is an OSError).
        """
        if self._broken:
            raise ConnectionAbortedError(self._broken)
        machine = self._machine
        stream = self._stream
        share = stream.share
        if share.left <= 0 and not share.renew():
            await share.wait(stream.limit_key, stream.checkpoint)  # before next_event(): a cancellation loses no event
        share.left -= 1
        due = 0.0  # the deadline of the current wait; 0 if there is none
        while True:
            if self._events:
                return self._events.popleft()
            event = machine.next_event()
            if isinstance(event, NeedData):
                if share.left <= 0 and not share.renew():
                    await share.wait(stream.limit_key, stream.checkpoint)
                share.left -= 1
                now = stream.now()
                rate = event.min_rate
                if rate is not None:
                    if self._time_left > event.timeout:
                        self._time_left = event.timeout
                    due = now + self._time_left
                elif not due:
                    if self._closing_when_idle:
                        machine.shut_down()
                        continue
                    self._time_left = _ENDLESS
                    due = now + event.timeout
                    if stream.started_at + event.until < due:
                        due = stream.started_at + event.until
                try:
                    if now >= due:
                        raise TimeoutError
                    layer = self._layer
                    if layer is None or not layer.ended:
                        await stream.wait_readable(due)
                    data = stream.take() if layer is None else self._take_decrypted(layer)
                except TimeoutError:
                    machine.shut_down(CloseReason.TIMED_OUT)
                    continue
                if rate is not None:
                    self._time_left -= stream.now() - now - len(data or b"") / rate
                if data is not None:
                    machine.receive_data(data)
                elif self._closing_when_idle:
                    due = 0.0
            elif isinstance(event, Send):
                try:
                    waiting = self._write(event.data) if self._indirect_write else stream.write(event.data)
                    if waiting is not None:
                        await waiting
                except OSError:
                    self._stop_writing()
                    await self._read_to_end()
                except BaseException:
                    self._broken = _CANCELLED
                    raise
                due = 0.0
            elif not isinstance(event, (BeginTls, Closed, Paused)):
                if type(event) is AuthenticationStarted:
                    share.left -= LOGIN
                return event
            elif isinstance(event, BeginTls):
                await self._upgrade(event.data)
                due = 0.0
            elif isinstance(event, Closed):
                await self._close_write_side()
                if self._cause is not None:
                    raise self._cause
                raise StopAsyncIteration
            else:
                raise RuntimeError("the last question has not been answered: call answer() before the next iteration")

    @property
    def peer_closed(self) -> bool:
        """Whether the peer has closed its sending side.  False if the system cannot tell without reading (not Linux).

        The peer may still read: a client that writes a whole session and then closes its sending side waits for the
        replies.
        """
        return self._stream.peer_closed()

    @property
    def input_waiting(self) -> bool:
        """Whether the peer has sent data that was not returned yet, or has closed its sending side.  Nothing is read.

        On a client, call ``flush()`` first, so that data that was read together with the last event counts too.  If all
        commands are answered, data from the server, such as a 421 on an idle connection, is not the reply to the next
        command.
        """
        return bool(self._events) or (self._layer is not None and self._layer.ended) or self._stream.input_waiting()

    def shut_down(self, reason: CloseReason = CloseReason.SHUT_DOWN) -> None:
        """End the session as ``Machine.shut_down()`` does; may be called from any task.

        A pending read is interrupted.  Continue to iterate until the iteration ends.
        """
        self._machine.shut_down(reason)
        self._stream.wake()

    def close_when_idle(self) -> None:
        """Call ``shut_down()`` now, or when the message or the reply in progress is complete.

        May be called from any task.
        """
        self._closing_when_idle = True
        self._stream.wake()

    def abort(self) -> None:
        """Close the connection at once, without a reply; may be called from any task.

        The iteration then ends as if the peer had disconnected.
        """
        self._stop_writing()
        self._stream.abort()

    async def aclose(self) -> None:
        """End the session if it is still open, wait until the peer closes its side, and close the socket.

        The wait ends after ``LINGER_SECONDS`` without data, ``LINGER_TOTAL`` seconds or ``LINGER_BYTES``.
        """
        try:
            if not (self._broken or self._closed or self._cannot_write):
                self._machine.shut_down()
                with contextlib.suppress(RemoteProtocolError):
                    await self._flush()
                await self._close_write_side()
            await self._linger()
        finally:
            self.abort()

    async def _flush(self) -> None:
        """Write all pending output without reading; other events are kept for the iteration."""
        if self._broken:
            raise ConnectionAbortedError(self._broken)
        while True:
            event = self._machine.next_event()
            if isinstance(event, Send):
                try:
                    waiting = self._write(event.data)
                    if waiting is not None:
                        await waiting
                except OSError:
                    self._stop_writing()
                except BaseException:
                    self._broken = _CANCELLED
                    raise
            elif isinstance(event, BeginTls):
                await self._upgrade(event.data)
            elif isinstance(event, _ACTIONS):
                return
            else:
                if self._events is None:
                    self._events = deque()
                self._events.append(event)

    async def _read(self, due: float) -> bytes | None:
        """Read, and decrypt if TLS is active.  Returns as ``Stream.read()`` or ``_take_decrypted()``."""
        layer = self._layer
        if layer is None:
            return await self._stream.read(due)
        if not layer.ended:
            await self._stream.wait_readable(due)
        return self._take_decrypted(layer)

    def _take_decrypted(self, layer: TlsLayer) -> bytes | None:
        """Decrypt what has been read.  Returns as ``Stream.take()``; None also while a TLS record is incomplete."""
        if layer.ended:
            return b""
        data = self._stream.take()
        if data is None:
            return None
        records = layer.records
        if rest := layer.feed(data, EVENTS_PER_TURN):
            self._stream.put_back(rest)
        self._stream.share.left -= layer.records - records
        return layer.decrypt()

    def _write(self, data: bytes) -> Awaitable[None] | None:
        """Encrypt *data* if TLS is active, and write it.  Returns as ``Stream.write()``.

        After a failed write, this writes nothing and only lets other tasks run: 64 KiB of commands from a peer that has
        disconnected can take minutes.
        """
        if self._cannot_write:
            return self._stream.checkpoint()
        return self._stream.write(data if self._layer is None else self._layer.encrypt(data))

    def _stop_writing(self) -> None:
        """Write no more, because a write has failed.  Data that the peer sent before can still be read."""
        self._cannot_write = self._indirect_write = True

    async def _read_to_end(self) -> None:
        """After a failed write, pass the machine the data that the peer sent before, and then the end of the stream."""
        last = bytearray()
        due = self._stream.now() + LINGER_SECONDS
        try:
            while len(last) < READ_SIZE and self._stream.now() < due and (data := await self._read(due)):
                last += data
        except TimeoutError:
            pass
        if last:
            with contextlib.suppress(LocalProtocolError):  # its buffer is full, and the connection ends here anyway
                self._machine.receive_data(bytes(last))
        self._machine.receive_data(b"")

    async def _upgrade(self, data: bytes) -> None:
        if self._tls_options is None:
            raise RuntimeError("TLS was negotiated without an ssl_context; pass one to serve() or connect()")
        # What has been read so far arrived in clear text, before the peer could know that TLS begins, so it is not part
        # of the handshake, and may have been injected (RFC 3207 section 4.2; architecture.md, invariant 2).
        if dropped := self._stream.drop_unread():
            fields = {"peer": self.peer.address, "port": self.peer.port, "bytes": dropped}
            self._stream.share.log(logging.WARNING, "clear text dropped", fields)
        layer = None
        try:
            if data:
                await self._stream.write_all(data)
            layer = await start_tls(self._stream, self._tls_options, server_side=self._server_side)
        except OSError as error:
            if not self._server_side:
                self._cause = error  # a client must report that it could not verify the server
            self._stream.tls_failed(self.peer, error)
            self._machine.receive_data(b"")
            return
        except BaseException:
            self._broken = "an earlier call was cancelled during the TLS handshake; close this connection"
            raise
        self._layer = layer
        self._indirect_write = True
        with contextlib.suppress(LocalProtocolError):  # shut_down() was called during the handshake
            self._machine.tls_started(layer.tls)
        self.take_early_data()

    def take_early_data(self) -> None:
        """Pass the application data that arrived together with the end of the handshake to the machine."""
        if self._layer is not None and (data := self._layer.decrypt()):
            self._machine.receive_data(data)

    async def _close_write_side(self) -> None:
        """Close this side: send close_notify if TLS is active, then half-close the TCP connection."""
        if self._closed:
            return
        self._closed = True
        if self._layer is not None and not self._cannot_write:
            with contextlib.suppress(OSError):
                await self._stream.write_all(self._layer.close_notify())
        self._stream.half_close()

    async def _linger(self) -> None:
        """Read and discard data until the peer closes its side, within the LINGER limits."""
        if self._broken or self._cannot_write:
            return
        stream, left = self._stream, LINGER_BYTES
        end = stream.now() + LINGER_TOTAL
        with contextlib.suppress(TimeoutError):
            while left > 0 and (now := stream.now()) < end:
                data = await stream.read(min(now + LINGER_SECONDS, end))
                if data == b"":
                    break
                left -= len(data or b"")


class AsyncServerConnection(AsyncConnection[E]):
    """The server side of one connection: iterate over its events, and answer its questions.

    For example:

        async def session(connection: adapters.AsyncServerConnection[smtp.ServerEvent]) -> None:
            async for event in connection:
                if isinstance(event, Question):
                    connection.decline(event)
    """

    __slots__ = ("machine",)

    _server_side = True

    def __init__(
        self,
        machine: ServerMachine[E],
        stream: Stream,
        peer: Peer,
        tls_options: TlsOptions | None,
        layer: TlsLayer | None,
    ) -> None:
        super().__init__(machine, stream, peer, tls_options, layer)
        self.machine = machine

    @property
    def identity(self) -> str | None:
        """The authorization identity of the client; None before a login, and again after STARTTLS or STLS."""
        return self.machine.identity

    @property
    def tls(self) -> Tls | None:
        """The TLS session; None without TLS."""
        return self.machine.tls

    def replace_peer(self, peer: Peer) -> None:
        """Set the address of the client, as a proxy reports it inside the protocol (Postfix XCLIENT).

        Call it only for a proxy that is trusted: access control, grants and the log use this address.  The connection
        is still counted for the address that it came from.
        """
        self.peer = peer

    def decline(self, question: Question[Any]) -> None:
        """Answer *question* with ``question.unavailable``: for questions that the session does not handle."""
        self.machine.decline(question)

    def answer(self, question: Question[A], answer: A) -> None:
        """Answer *question*.  Raises LocalProtocolError if it is not the open question, or *answer* is invalid."""
        self.machine.answer(question, answer)


class AsyncClientConnection(AsyncConnection[E]):
    """The client side of one connection: call ``send()``, then iterate over the events.

    An asynchronous context manager: leaving it closes the connection, and aborts it after an exception.

        async with await on_asyncio.connect(smtp.ClientConnection(), "mx.example", 25) as client:
            greeting = await anext(client)
            client.send(smtp.Quit())  # QUIT
    """

    __slots__ = ("machine",)

    _server_side = False

    def __init__(
        self,
        machine: ClientMachine[E],
        stream: Stream,
        peer: Peer,
        tls_options: TlsOptions | None,
        layer: TlsLayer | None,
    ) -> None:
        super().__init__(machine, stream, peer, tls_options, layer)
        self.machine = machine

    @property
    def tls(self) -> Tls | None:
        """The TLS session; None without TLS."""
        return self.machine.tls

    def send(self, command: Command) -> None:
        """Queue *command*, which may be a chunk of message content; ``flush()`` or the iteration writes it.

        Raises LocalProtocolError if *command* is not allowed now.
        """
        self.machine.send(command)

    def authenticate(
        self,
        *mechanisms: ClientMechanism,
        initial_response: bool = True,
        assume: Collection[str] = frozenset(),
        retry_weaker: bool = False,
    ) -> None:
        """Log in with the first of *mechanisms* that the server offers; see ``ClientMachine.authenticate()``.

        Raises LocalProtocolError if it offers none of them.
        """
        self.machine.authenticate(
            *mechanisms, initial_response=initial_response, assume=assume, retry_weaker=retry_weaker
        )

    async def flush(self) -> None:
        """Write all queued output, and wait until the system has accepted it.  Call it from the task that iterates.

        A lost connection raises nothing here: continue to iterate, since the server's last reply may still be unread.
        """
        with contextlib.suppress(RemoteProtocolError):  # the iteration raises it
            await self._flush()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.aclose()
        else:
            self.abort()
