"""The listener of both adapters, and the start of server and client connections."""

from __future__ import annotations

import contextlib
import secrets
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final, Protocol, TypeAlias, TypedDict, TypeVar, Unpack

from mailauth import ClientMachine, Closed, Question, Send, ServerMachine, Tls, pop3, smtp

from .._addresses import Network, is_within
from ..limits import LOGGER, ConnectionLimiter, Limits
from ..logs import Event, describe_error, place
from .connection import Client, ServerConnection
from .proxy_header import proxied_peer
from .stream import Peer, Stream
from .tls.layer import POP3 as ALPN_POP3, SMTP as ALPN_SMTP, TlsOptions, log_tls_failure, start_tls

E = TypeVar("E")

GRACE: Final = 5.0
"""Seconds that sessions have to end after their listener begins to close."""

SERVER_LIMITS: Final = Limits()
CLIENT_LIMITS: Final = Limits()

Session: TypeAlias = Callable[[ServerConnection[E]], Awaitable[None]]
"""The handler of one connection: it iterates over the connection until the iteration ends."""

MachineFactory: TypeAlias = Callable[[bytes, Tls | None], ServerMachine[E]]
"""Builds the machine of one connection from 32 bytes of entropy and its TLS session (None without TLS)."""

ClientFactory: TypeAlias = Callable[[Tls | None], ClientMachine[E]]
"""Builds a client's machine from the TLS session of its connection (None without TLS)."""


class ConnectOptions(TypedDict, total=False):
    """The keyword arguments of ``connect``."""

    ssl_context: ssl.SSLContext | None
    implicit_tls: bool
    server_hostname: str | None
    local_address: str | None


class ListenerOptions(TypedDict):
    """The options of a Listener, besides its context."""

    implicit_tls: bool
    grace: float
    proxy_from: Collection[Network]
    limits: Limits
    limiter: ConnectionLimiter | None
    alpn: str | None


class ServeOptions(TypedDict, total=False):
    """The keyword arguments of ``serve``, for functions that call it."""

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

    def __call__(
        self, session: Session[smtp.ServerEvent], settings: smtp.ServerSettings, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]: ...


class ServePop3(Protocol):
    """``serve_pop3`` of either adapter."""

    def __call__(
        self, session: Session[pop3.ServerEvent], settings: pop3.ServerSettings, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]: ...


class Listener(ABC):
    """A listening server.  Leaving the context of ``serve`` closes it."""

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[ListenerOptions]) -> None:
        self._implicit_tls = options["implicit_tls"]
        if self._implicit_tls and context is None:
            raise ValueError("implicit_tls=True needs an ssl_context; pass one")
        self.address: str = ""
        """The address it listens on (the first one, if the host has several)."""
        self.port: int = 0
        """The port it listens on; chosen by the system if 0 was requested."""
        self._limits = limits = options["limits"]
        limiter = options["limiter"]
        self._limiter = ConnectionLimiter(limits) if limiter is None else limiter
        self._tls_options: TlsOptions | None = None
        if context is not None:
            self._tls_options = TlsOptions(context=context, timeout=limits.handshake_timeout, alpn=options["alpn"])
        self._grace = options["grace"]
        self._proxy_from = tuple(options["proxy_from"])
        self._closing = False
        self._connections: dict[Stream, ServerConnection[Any] | None] = {}  # None: the session has not started

    @abstractmethod
    def _stop_accepting(self) -> None: ...

    @abstractmethod
    async def aclose(self) -> None:
        """Call ``shut_down()``, wait up to ``grace`` seconds for the sessions to end, then cancel the others."""

    def shut_down(self) -> None:
        """Stop accepting connections, and ask every session to end.  Does not wait.

        A session that is receiving a message ends after the message.  The grace period starts at the first call.
        """
        self._closing = True
        self._stop_accepting()
        for stream, connection in list(self._connections.items()):
            if connection is None:
                stream.wake()
            else:
                connection.close_when_idle()

    def _forget(self, stream: Stream) -> None:
        """Remove *stream* from the open connections.  Called by the task of the connection at its end."""
        self._connections.pop(stream, None)

    def _stray_cancellation(self, error: BaseException) -> bool:
        """Return whether *error* is the cancellation of another task that the session awaited."""
        return False

    async def _run(self, stream: Stream, peer: Peer, session: Session[E], build: MachineFactory[E]) -> None:
        """Run one connection from start to end.

        An Exception is logged.  Other exceptions, such as the cancellation of the task, are raised.
        """
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
                    with contextlib.suppress(OSError):  # the peer may have disconnected
                        await stream.write_all(_refusal(build(secrets.token_bytes(32), None)))
                return
            counted = peer
            layer = None
            if self._implicit_tls and self._tls_options is not None:
                try:
                    layer = await start_tls(stream, self._tls_options, server_side=True)
                except OSError as error:
                    log_tls_failure(peer, error)
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
    """Split *error* into the failure of the session and the rest, which is raised again.

    The rest is a cancellation or the end of the program (SystemExit, KeyboardInterrupt).  A nursery that is cancelled
    while one of its tasks fails raises both in one group.
    """
    if isinstance(error, Exception):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        return error.split(Exception)
    return None, error


def _log_failure(peer: Peer, error: BaseException) -> None:
    """Log *error*, raised by the session with *peer*, with its traceback.

    An OSError is logged too: a peer that disconnects raises nothing in a session, so the error comes from the session's
    own files or sockets.
    """
    fields = {"peer": peer.address, "port": peer.port, "reason": describe_error(error), "at": place(error)}
    LOGGER.error(Event("session failed", fields), exc_info=error)


def _refusal(machine: ServerMachine[E]) -> bytes:
    """Return the reply of *machine* to a connection over the limit."""
    data = b""
    while not isinstance(event := machine.next_event(), Closed):
        if isinstance(event, Send):
            data += event.data
        elif isinstance(event, Question):
            machine.decline(event)
        else:
            machine.shut_down()
    return data


def smtp_server(serve: Serve) -> ServeSmtp:
    """Return ``serve_smtp`` for the adapter that *serve* belongs to."""

    def serve_smtp(
        session: Session[smtp.ServerEvent], settings: smtp.ServerSettings, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]:
        """Call ``serve`` for SMTP, with the same options.

        Raises ValueError if STARTTLS is enabled and there is no ssl_context.
        """
        if settings.starttls and options.get("ssl_context") is None:
            raise ValueError("settings.starttls needs an ssl_context; pass one, or set starttls=False")
        options.setdefault("alpn", ALPN_SMTP)
        return serve(session, partial(_smtp_machine, settings), **options)

    return serve_smtp


def _smtp_machine(settings: smtp.ServerSettings, entropy: bytes, tls: Tls | None) -> smtp.ServerConnection:
    return smtp.ServerConnection(settings, entropy=entropy, tls=tls)


def pop3_server(serve: Serve) -> ServePop3:
    """Return ``serve_pop3`` for the adapter that *serve* belongs to."""

    def serve_pop3(
        session: Session[pop3.ServerEvent], settings: pop3.ServerSettings, **options: Unpack[ServeOptions]
    ) -> AbstractAsyncContextManager[Listener]:
        """Call ``serve`` for POP3, with the same options.

        Raises ValueError if STLS is enabled and there is no ssl_context.
        """
        if settings.stls and options.get("ssl_context") is None:
            raise ValueError("settings.stls needs an ssl_context; pass one, or set stls=False")
        options.setdefault("alpn", ALPN_POP3)
        return serve(session, partial(_pop3_machine, settings), **options)

    return serve_pop3


def _pop3_machine(settings: pop3.ServerSettings, entropy: bytes, tls: Tls | None) -> pop3.ServerConnection:
    return pop3.ServerConnection(settings, entropy=entropy, tls=tls)


async def start_client(
    machine: ClientMachine[E] | ClientFactory[E],
    stream: Stream,
    peer: Peer,
    context: ssl.SSLContext | None,
    *,
    implicit_tls: bool,
    hostname: str,
) -> Client[E]:
    """Return a Client on the connected *stream*.  On failure the stream is closed."""
    try:
        tls_options = None
        if context is not None:
            tls_options = TlsOptions(context=context, timeout=CLIENT_LIMITS.handshake_timeout, hostname=hostname)
        layer = None
        if implicit_tls:
            if tls_options is None:
                raise ValueError("implicit_tls=True needs an ssl_context; pass one")
            layer = await start_tls(stream, tls_options, server_side=False)
        if not isinstance(machine, ClientMachine):
            machine = machine(layer.tls if layer is not None else None)
        client = Client(machine, stream, peer, tls_options, layer)
        client.take_early_data()
        return client
    except BaseException:
        stream.abort()
        raise
