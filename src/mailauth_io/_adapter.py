"""The connection that both adapters give: it carries out actions, hands on the rest, and ends in good order.

Knows no verb, no reply and no loop: whatever waits is done by a Stream.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Awaitable
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

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

from . import _tls
from ._stream import READ_SIZE, Peer, Stream
from .limits import LOGGER
from .logs import Event

A = TypeVar("A")
E = TypeVar("E")

LINGER_SECONDS: Final = 2.0
"""After the last word: how long to wait for each sign that the peer has closed, too."""
LINGER_TOTAL: Final = 10.0
"""After the last word: how long to wait whatever comes.  An octet a second would make days of the bound on octets."""
LINGER_BYTES: Final = 1_048_576
"""After the last word: how much more to take and throw away, so that a reset does not overtake it."""
EVENTS_PER_CHECKPOINT: Final = 64
"""Events without a wait after which other tasks run: a client may send 64 KiB of commands at once, and the system may
take each reply at once.  A login counts as all of these events, since it may cost as much (SASLprep, SCRAM).  A usual
group of commands is shorter, so it costs no more than the counting."""
_ENDLESS: Final = math.inf
_CANCELLED: Final = "an earlier call was cancelled while it wrote: octets may be missing"
_ACTIONS: Final = (Send, NeedData, BeginTls, Paused, Closed)


class _Connection(Generic[E]):
    """A machine on a stream.  Iterate it in one task; it ends when the machine has closed."""

    __slots__ = (
        "_broken",
        "_cannot_write",
        "_cause",
        "_closed",
        "_closing_when_idle",
        "_events",
        "_events_left",
        "_indirect_write",
        "_layer",
        "_machine",
        "_stream",
        "_time_left",
        "_tls_options",
        "peer",
    )

    def __init__(
        self,
        machine: Machine[E],
        stream: Stream,
        peer: Peer,
        tls_options: _tls.TlsOptions | None,
        layer: _tls.TlsLayer | None,
    ) -> None:
        self.peer = peer
        self._machine = machine
        self._stream = stream
        self._tls_options = tls_options
        self._layer = layer
        self._time_left = _ENDLESS  # of the patience with content that comes in, in seconds
        self._events: deque[E] | None = None  # what flush() met on its way
        self._events_left = EVENTS_PER_CHECKPOINT
        self._cannot_write = False
        self._indirect_write = layer is not None  # what is written takes a longer way than that of the stream
        self._closed = False
        self._closing_when_idle = False
        self._broken = ""
        self._cause: OSError | None = None  # why a client's handshake failed

    @property
    def _server_side(self) -> bool:
        return isinstance(self._machine, ServerMachine)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> E:
        """The next question, notice or payload; the actions before it are carried out.

        Cancelled while it reads, nothing is lost.  Raises ConnectionAbortedError after it was cancelled inside a write
        or a handshake, RuntimeError when the last question was not answered; a client also RemoteProtocolError, and the
        OSError (ssl.SSLError is one) that its handshake failed with.
        """
        if self._broken:
            raise ConnectionAbortedError(self._broken)
        machine = self._machine
        stream = self._stream
        if self._events_left <= 0:
            self._events_left = EVENTS_PER_CHECKPOINT
            await stream.checkpoint()  # here, where no event is lost if it is cancelled
        self._events_left -= 1
        due = 0.0  # when the wait has lasted too long; 0 before one has begun
        while True:
            if self._events:
                return self._events.popleft()
            event = machine.next_event()
            if isinstance(event, NeedData):
                self._events_left = EVENTS_PER_CHECKPOINT
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
                    if self._layer is None:
                        await stream.wait_readable(due)
                        data = stream.take()
                    else:
                        data = await self._read(due)
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
                    self._events_left = 0
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
                raise RuntimeError("the last question was not answered")

    @property
    def peer_closed(self) -> bool:
        """Whether the peer has closed its side of the connection, as far as that can be told without reading.

        It may still read: a client that pipes a session into a socket and closes its side waits for the replies.
        """
        return self._stream.peer_closed()

    def shut_down(self, reason: CloseReason = CloseReason.SHUT_DOWN) -> None:
        """End the session politely, from any task: a read that is under way wakes, and iteration goes on to its end."""
        self._machine.shut_down(reason)
        self._stream.wake()

    def close_when_idle(self) -> None:
        """``shut_down()``, but not before message content, or a reply, that is under way has come to its end."""
        self._closing_when_idle = True
        self._stream.wake()

    def abort(self) -> None:
        """Drop the connection without a word, from any task; iteration then ends as if the peer had gone."""
        self._stop_writing()
        self._stream.abort()

    async def aclose(self) -> None:
        """Close: say what is still to be said, let the peer close too (for a bounded time), and free the socket."""
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
        """Write all that is due without reading; what else happens is kept for the iteration."""
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
        """As ``Stream.read``; None also when what came makes no whole record yet."""
        layer = self._layer
        if layer is None:
            return await self._stream.read(due)
        if layer.ended:
            return b""
        data = await self._stream.read(due)
        if data is None:
            return None
        layer.feed(data)
        return layer.decrypt()

    def _write(self, data: bytes) -> Awaitable[None] | None:
        """As ``Stream.write``, inside TLS too.  When nothing can be said any more others have their turn, no more.

        64 KiB of what a peer asked for before it went can be minutes of answers to nobody.
        """
        if self._cannot_write:
            return self._stream.checkpoint()
        return self._stream.write(data if self._layer is None else self._layer.encrypt(data))

    def _stop_writing(self) -> None:
        """A write has failed: nothing more can be said, but the peer's last words may wait to be read."""
        self._cannot_write = self._indirect_write = True

    async def _read_to_end(self) -> None:
        """Nothing can be said any more: take what the peer had still to say, and no more after that."""
        last = bytearray()
        due = self._stream.now() + LINGER_SECONDS
        try:
            while len(last) < READ_SIZE and self._stream.now() < due and (data := await self._read(due)):
                last += data
        except TimeoutError:
            pass
        if last:
            with contextlib.suppress(LocalProtocolError):  # it has as much as it can hold, and the end is near
                self._machine.receive_data(bytes(last))
        self._machine.receive_data(b"")

    async def _upgrade(self, data: bytes) -> None:
        if self._tls_options is None:
            raise RuntimeError("TLS was agreed on, but this connection has no ssl_context")
        # What was read by now came in clear, before the peer could know that TLS begins: no octet of the handshake.
        if dropped := self._stream.drop_unread():
            peer = self.peer
            LOGGER.warning(Event("clear text dropped", {"peer": peer.address, "port": peer.port, "bytes": dropped}))
        layer = None
        try:
            if data:
                await self._stream.write_all(data)
            layer = await _tls.start(self._stream, self._tls_options, server_side=self._server_side)
        except OSError as error:
            if not self._server_side:
                self._cause = error  # a client has to learn that it is not the server it wanted
            _tls.log_failure(self.peer, error)
            self._machine.receive_data(b"")
            return
        except BaseException:
            self._broken = "an earlier call was cancelled in the TLS handshake"
            raise
        self._layer = layer
        self._indirect_write = True
        with contextlib.suppress(LocalProtocolError):  # shut down in the last moment
            self._machine.tls_started(layer.tls)
        self.take_early_data()

    def take_early_data(self) -> None:
        """The octets of the application that came in one piece with the end of the handshake."""
        if self._layer is not None and (data := self._layer.decrypt()):
            self._machine.receive_data(data)

    async def _close_write_side(self) -> None:
        """The end of this side: close_notify inside TLS, then the half-close of TCP."""
        if self._closed:
            return
        self._closed = True
        if self._layer is not None and not self._cannot_write:
            with contextlib.suppress(OSError):
                await self._stream.write_all(self._layer.close_notify())
        self._stream.half_close()

    async def _linger(self) -> None:
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


class ServerConnection(_Connection[E]):
    """The server's side of one connection: iterate its events, answer its questions."""

    __slots__ = ("machine",)

    def __init__(
        self,
        machine: ServerMachine[E],
        stream: Stream,
        peer: Peer,
        tls_options: _tls.TlsOptions | None,
        layer: _tls.TlsLayer | None,
    ) -> None:
        super().__init__(machine, stream, peer, tls_options, layer)
        self.machine = machine

    @property
    def identity(self) -> str | None:
        """The authorization identity of the client; None before a login, and again after STARTTLS or STLS."""
        return self.machine.identity

    @property
    def tls(self) -> Tls | None:
        """The TLS layer, None in clear."""
        return self.machine.tls

    def answer(self, question: Question[A], answer: A) -> None:
        """Answer the open question.  Raises LocalProtocolError for another one, and for an answer that is none."""
        self.machine.answer(question, answer)


class Client(_Connection[E]):
    """The client's side of one connection: ``send()``, then iterate the events.  A context manager that closes."""

    __slots__ = ("machine",)

    def __init__(
        self,
        machine: ClientMachine[E],
        stream: Stream,
        peer: Peer,
        tls_options: _tls.TlsOptions | None,
        layer: _tls.TlsLayer | None,
    ) -> None:
        super().__init__(machine, stream, peer, tls_options, layer)
        self.machine = machine

    @property
    def tls(self) -> Tls | None:
        """The TLS layer, None in clear."""
        return self.machine.tls

    def send(self, command: Command) -> None:
        """Queue a command or a chunk of content; ``flush()`` or the iteration writes it.  Raises LocalProtocolError."""
        self.machine.send(command)

    def authenticate(self, *mechanisms: ClientMechanism) -> None:
        """Log in by the first of *mechanisms* that the server offers.  Raises LocalProtocolError if it offers none."""
        self.machine.authenticate(*mechanisms)

    async def flush(self) -> None:
        """Write all that is queued, at the pace of the server.  Call it from the task that iterates.

        A connection that turns out to be gone is no error here: go on to iterate, for the server's last reply is there.
        """
        with contextlib.suppress(RemoteProtocolError):  # the iteration raises it in its turn
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
