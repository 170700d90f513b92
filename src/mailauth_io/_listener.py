"""What both adapters share beside the connection itself: listening, and what starts a connection on either side.

Knows the two protocols by the names of their machines alone, and no loop.
"""

from __future__ import annotations

import contextlib
import secrets
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, overload

from mailauth import ClientMachine, Closed, Question, Send, ServerMachine, Tls, pop3, smtp

from . import _tls
from ._adapter import Client, ServerConnection
from ._addresses import Network, is_within
from ._proxy_header import proxied_peer
from ._stream import Peer, Stream
from .limits import LOGGER, ConnectionLimiter, Limits
from .logs import Event, described, place

E = TypeVar("E")

GRACE: Final = 5.0
"""Seconds that sessions have to come to their end when a listener closes."""

SERVER_LIMITS: Final = Limits()
CLIENT_LIMITS: Final = Limits()

Session: TypeAlias = Callable[[ServerConnection[E]], Awaitable[None]]
"""What a server does with a connection: iterates it to its end."""

MachineFactory: TypeAlias = Callable[[bytes, Tls | None], ServerMachine[E]]
"""Makes the machine of one connection from its 32 octets of entropy and the TLS it starts in."""

ClientFactory: TypeAlias = Callable[[Tls | None], ClientMachine[E]]
"""Makes a client's machine when the TLS it starts in is known."""


class ConnectOptions(TypedDict, total=False):
    """The keyword arguments of ``connect``."""

    ssl_context: ssl.SSLContext | None
    implicit_tls: bool
    server_hostname: str | None
    local_address: str | None


class ListenerOptions(TypedDict):
    """What a Listener is told beside its context."""

    implicit_tls: bool
    grace: float
    proxy_from: Collection[Network]
    limits: Limits
    limiter: ConnectionLimiter | None
    alpn: str | None


class ServeOptions(TypedDict, total=False):
    """The keyword arguments of ``serve``, for what is built on it."""

    host: str
    port: int
    ssl_context: ssl.SSLContext | None
    implicit_tls: bool
    grace: float
    proxy_from: Collection[Network]
    reuse_port: bool
    limits: Limits
    limiter: ConnectionLimiter | None
    alpn: str | None


class Serve(Protocol):
    """``serve`` of either adapter."""

    def __call__(
        self, session: Session[E], build: MachineFactory[E], **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]: ...


class ServeSmtp(Protocol):
    """``serve_smtp`` of either adapter."""

    @overload
    def __call__(
        self, session: Session[smtp.ServerEvent], settings: smtp.ServerSettings, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]: ...

    @overload
    def __call__(
        self,
        session: Session[smtp.ExtendedServerEvent],
        settings: smtp.ExtendedServerSettings,
        **options: Unpack[ServeOptions],
    ) -> AbstractAsyncContextManager[Listener]: ...


class ServePop3(Protocol):
    """``serve_pop3`` of either adapter."""

    @overload
    def __call__(
        self, session: Session[pop3.ServerEvent], settings: pop3.ServerSettings, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]: ...

    @overload
    def __call__(
        self,
        session: Session[pop3.ExtendedServerEvent],
        settings: pop3.ExtendedServerSettings,
        **options: Unpack[ServeOptions],
    ) -> AbstractAsyncContextManager[Listener]: ...


class Listener(ABC):
    """A server that accepts; leaving the context that gave it closes it."""

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[ListenerOptions]) -> None:
        self._implicit_tls = options["implicit_tls"]
        if self._implicit_tls and context is None:
            raise ValueError("implicit TLS needs an ssl_context")
        self.address: str = ""
        """The address it listens on (the first, if its host has several)."""
        self.port: int = 0
        """The port it listens on, chosen by the system if 0 was asked for."""
        self._limits = limits = options["limits"]
        limiter = options["limiter"]
        self._limiter = ConnectionLimiter(limits) if limiter is None else limiter
        self._tls_options: _tls.TlsOptions | None = None
        if context is not None:
            self._tls_options = _tls.TlsOptions(context=context, timeout=limits.handshake_timeout, alpn=options["alpn"])
        self._grace = options["grace"]
        self._proxy_from = tuple(options["proxy_from"])
        self._closing = False
        self._connections: dict[Stream, ServerConnection[Any] | None] = {}  # None: there is no session yet

    @abstractmethod
    def _stop_accepting(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None:
        """``shut_down()``, wait for the sessions up to ``grace`` seconds after it, then abort what is left."""

    def shut_down(self) -> None:
        """Stop accepting and ask every session to end, one in the middle of message content behind that; do not wait.

        The first call begins the time of grace.
        """
        self._closing = True
        self._stop_accepting()
        for stream, connection in list(self._connections.items()):
            if connection is None:
                stream.wake()
            else:
                connection.close_when_idle()

    def _forget(self, stream: Stream) -> None:
        """The task that runs this is done with *stream*."""
        self._connections.pop(stream, None)

    def _stray_cancellation(self, error: BaseException) -> bool:
        """Whether *error* is the cancellation of another task, which the session has awaited."""
        return False

    async def _run(self, stream: Stream, peer: Peer, session: Session[E], build: MachineFactory[E]) -> None:
        """One connection from its first octet to its last.  Raises nothing but the cancellation of its task."""
        counted: Peer | None = None
        try:
            if self._closing:
                return
            self._connections[stream] = None
            if self._proxy_from and is_within(peer.address, self._proxy_from):
                try:
                    peer = await proxied_peer(stream, peer, self._limits.proxy_header_timeout)
                except OSError as error:
                    reason = str(error) or type(error).__name__
                    LOGGER.info(Event("proxy dropped", {"peer": peer.address, "port": peer.port, "reason": reason}))
                    return
            if not self._limiter.acquire(peer.address):
                if not self._implicit_tls:
                    with contextlib.suppress(OSError):  # gone already
                        await stream.write_all(_refusal(build(secrets.token_bytes(32), None)))
                return
            counted = peer
            layer = None
            if self._implicit_tls and self._tls_options is not None:
                try:
                    layer = await _tls.start(stream, self._tls_options, server_side=True)
                except OSError as error:
                    _tls.log_failure(peer, error)
                    return
            machine = build(secrets.token_bytes(32), layer.tls if layer is not None else None)
            connection = ServerConnection(machine, stream, peer, self._tls_options, layer)
            self._connections[stream] = connection
            connection.take_early_data()
            await session(connection)
            await connection.aclose()
        except BaseException as error:
            failure, rest = _failure_in(error)
            if failure is not None:
                _log_failure(peer, failure)
            if rest is not None and self._stray_cancellation(rest):
                _log_failure(peer, rest)
                return
            if rest is error:
                raise
            if rest is not None:
                raise rest from None
        finally:
            self._forget(stream)
            if counted is not None:
                self._limiter.release(counted.address)
            stream.abort()


def _failure_in(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """What of *error* is a failure of the session, and what has to go on: a cancellation, or the end of the program.

    A nursery that is cancelled while one of its tasks fails raises both in one group.
    """
    if isinstance(error, Exception):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        return error.split(Exception)
    return None, error


def _log_failure(peer: Peer, error: BaseException) -> None:
    """The session with *peer* has raised *error*: log it with its traceback, whatever it is.

    A peer that disconnects raises nothing in a session, so an OSError comes from the session's own files and sockets.
    """
    fields = {"peer": peer.address, "port": peer.port, "reason": described(error), "at": place(error)}
    LOGGER.error(Event("session failed", fields), exc_info=error)


def _refusal(machine: ServerMachine[E]) -> bytes:
    """What *machine* says to a client for whom there is no room."""
    data = b""
    while not isinstance(event := machine.next_event(), Closed):
        if isinstance(event, Send):
            data += event.data
        elif isinstance(event, Question):
            machine.answer(event, event.unavailable)
        else:
            machine.shut_down()
    return data


def smtp_server(serve: Serve) -> ServeSmtp:
    """``serve_smtp`` of the adapter whose *serve* this is."""

    def serve_smtp(
        session: Session[Any], settings: smtp.ExtendedServerSettings, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]:
        """``serve`` for SMTP, with the same options: the type of *settings* says what *session* is asked.

        Raises ValueError when STARTTLS is on and there is no ssl_context.
        """
        if settings.starttls and options.get("ssl_context") is None:
            raise ValueError("settings with starttls need an ssl_context")
        options.setdefault("alpn", _tls.SMTP)
        if isinstance(settings, smtp.ServerSettings):
            return serve(session, partial(_smtp_machine, settings), **options)
        return serve(session, partial(_any_smtp_machine, settings), **options)

    return serve_smtp


def _smtp_machine(settings: smtp.ServerSettings, entropy: bytes, tls: Tls | None) -> smtp.ServerConnection:
    return smtp.ServerConnection(settings, entropy=entropy, tls=tls)


def _any_smtp_machine(
    settings: smtp.ExtendedServerSettings, entropy: bytes, tls: Tls | None
) -> smtp.ExtendedServerConnection:
    return smtp.ExtendedServerConnection(settings, entropy=entropy, tls=tls)


def pop3_server(serve: Serve) -> ServePop3:
    """``serve_pop3`` of the adapter whose *serve* this is."""

    def serve_pop3(
        session: Session[Any], settings: pop3.ExtendedServerSettings, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]:
        """``serve`` for POP3, with the same options: the type of *settings* says what *session* is asked.

        Raises ValueError when STLS is on and there is no ssl_context.
        """
        if settings.stls and options.get("ssl_context") is None:
            raise ValueError("settings with stls need an ssl_context")
        options.setdefault("alpn", _tls.POP3)
        if isinstance(settings, pop3.ServerSettings):
            return serve(session, partial(_pop3_machine, settings), **options)
        return serve(session, partial(_any_pop3_machine, settings), **options)

    return serve_pop3


def _pop3_machine(settings: pop3.ServerSettings, entropy: bytes, tls: Tls | None) -> pop3.ServerConnection:
    return pop3.ServerConnection(settings, entropy=entropy, tls=tls)


def _any_pop3_machine(
    settings: pop3.ExtendedServerSettings, entropy: bytes, tls: Tls | None
) -> pop3.ExtendedServerConnection:
    return pop3.ExtendedServerConnection(settings, entropy=entropy, tls=tls)


async def start_client(
    machine: ClientMachine[E] | ClientFactory[E],
    stream: Stream,
    peer: Peer,
    context: ssl.SSLContext | None,
    *,
    implicit_tls: bool,
    hostname: str,
) -> Client[E]:
    """The Client on a stream that is connected; on failure the stream is closed."""
    try:
        tls_options = None
        if context is not None:
            tls_options = _tls.TlsOptions(context=context, timeout=CLIENT_LIMITS.handshake_timeout, hostname=hostname)
        layer = None
        if implicit_tls:
            if tls_options is None:
                raise ValueError("implicit TLS needs an ssl_context")
            layer = await _tls.start(stream, tls_options, server_side=False)
        if not isinstance(machine, ClientMachine):
            machine = machine(layer.tls if layer is not None else None)
        client = Client(machine, stream, peer, tls_options, layer)
        client.take_early_data()
        return client
    except BaseException:
        stream.abort()
        raise
