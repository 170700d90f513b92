"""The base class of listeners: the limits, the start and the end of each connection."""

from __future__ import annotations

import contextlib
import logging
import secrets
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias, TypedDict, TypeVar, Unpack, cast

from mailauth import Closed, Question, Send, ServerMachine, Tls
from mailauth.addresses import Network, is_within

from .._checks import check_function, check_networks, check_number, check_server_context, check_text, check_type
from ..limits import LOGGER, ConnectionLimiter, Limits
from ..logs import Event, describe_error, place
from .connection import AsyncServerConnection
from .proxy_header import proxied_peer
from .stream import Peer, Stream
from .tls.layer import TlsOptions, start_tls
from .turns import CONNECTION, Turns

__all__ = ["Listener", "ListenerOptions", "MachineFactory", "OnError", "Session"]

E = TypeVar("E")

Session: TypeAlias = Callable[[AsyncServerConnection[E]], Awaitable[None]]
"""The handler of one connection: it iterates over the connection until the iteration ends."""

MachineFactory: TypeAlias = Callable[[bytes, Tls | None], ServerMachine[E]]
"""Builds the machine of one connection from 32 bytes of entropy and its TLS session (None without TLS)."""

OnError: TypeAlias = Callable[[Exception, Peer], None]
"""Called with the exception of a session and the peer of its connection, after the exception was logged."""


class ListenerOptions(TypedDict):
    """The options of a Listener, besides its context.

    For example:

        class Listener(adapters.Listener):
            def __init__(self, context: ssl.SSLContext | None, **options: Unpack[adapters.ListenerOptions]) -> None:
                super().__init__(context, **options)
    """

    implicit_tls: bool
    grace: float
    proxy_from: Collection[Network]
    limits: Limits
    limiter: ConnectionLimiter | None
    alpn: str | None
    on_error: OnError | None


class Listener(ABC):
    """A listening server: the object of ``async with serve(...) as listener``.  Leaving the context closes it.

    An adapter implements the abstract methods with the operations of its loop, and runs ``handle()`` for each
    connection.

        async with on_asyncio.serve_pop3(session, settings, port=0) as listener:
            print(f"listening on {listener.address}, port {listener.port}")
            await stopped.wait()
    """

    def __init__(self, context: ssl.SSLContext | None, **options: Unpack[ListenerOptions]) -> None:
        """Raises TypeError or ValueError for an invalid option."""
        check_server_context("ssl_context", context)
        check_type("implicit_tls", options["implicit_tls"], bool)
        check_number("grace", options["grace"], zero=True, infinite=True)
        check_networks("proxy_from", options["proxy_from"])
        check_type("limits", options["limits"], Limits)
        check_type("limiter", options["limiter"], ConnectionLimiter, optional=True)
        check_text("alpn", options["alpn"], optional=True)
        if options["on_error"] is not None:
            check_function("on_error", options["on_error"])
        self._implicit_tls = options["implicit_tls"]
        if self._implicit_tls and context is None:
            raise ValueError("implicit_tls=True needs an ssl_context; pass one")
        self.address: str = ""
        """The address on which it listens (the first one, if the host has several)."""
        self.port: int = 0
        """The port on which it listens; chosen by the system if 0 was requested."""
        self.limits = limits = options["limits"]
        """The limits of the connections; each Stream gets them."""
        limiter = options["limiter"]
        self._limiter = ConnectionLimiter(limits) if limiter is None else limiter
        self._tls_options: TlsOptions | None = None
        if context is not None:
            self._tls_options = TlsOptions(context=context, timeout=limits.handshake_timeout, alpn=options["alpn"])
        self.grace = options["grace"]
        """The grace period: seconds in which sessions may end after ``shut_down()``."""
        self._proxy_from = tuple(options["proxy_from"])
        self._on_error = options["on_error"]
        self.closing = False
        """Whether ``shut_down()`` was called."""
        self.turns: Turns | None = None
        """The turns of the event loop, the same object for all its listeners.  ``listen()`` sets it.

        None: no turns, for an adapter with a thread for each connection."""
        self._connections: dict[Stream, AsyncServerConnection[Any] | None] = {}  # None: the session has not started

    @abstractmethod
    def listen(
        self, session: Session[E], build: MachineFactory[E], host: str, port: int, *, reuse_port: bool
    ) -> AbstractAsyncContextManager[object]:
        """Return a context manager that listens, and at its end closes the listener as ``aclose()`` does.

        It sets ``address`` and ``port``, and runs ``handle()`` in a task of its own for each connection.

        Raises OSError if it cannot listen, and ValueError if *reuse_port* is set and the system cannot share ports.
        """

    @abstractmethod
    def stop_accepting(self) -> None:
        """Accept no more connections, and start the grace period.  ``shut_down()`` may call it more than once."""

    @abstractmethod
    async def aclose(self) -> None:
        """Call ``shut_down()``, wait up to ``grace`` seconds for the sessions to end, then cancel the others."""

    def shut_down(self) -> None:
        """Stop accepting connections, and ask every session to end.  Does not wait.

        A session that is receiving a message ends after the message.  The grace period starts at the first call.
        """
        self.closing = True
        self.stop_accepting()
        for stream, connection in list(self._connections.items()):
            if connection is None:
                stream.wake()
            else:
                connection.close_when_idle()

    def connection_ended(self, stream: Stream) -> None:
        """Stop counting the connection of *stream*.  ``handle()`` calls it at its end, in its own task."""
        self._connections.pop(stream, None)

    def is_stray_cancellation(self, error: BaseException) -> bool:
        """Return whether *error* is the cancellation of another task that the session awaited, not of the session.

        An adapter overrides it if its loop raises the same exception in both cases, as asyncio does.
        """
        return False

    async def handle(self, stream: Stream, session: Session[E], build: MachineFactory[E]) -> None:
        """Run one connection from start to end.

        An Exception is logged, and passed to ``on_error``.  Other exceptions, such as the cancellation of the task, are
        raised.
        """
        counted: Peer | None = None
        try:
            peer = stream.peer()
        except OSError:
            self.connection_ended(stream)
            return stream.abort()
        try:
            if self.closing:
                return
            self._connections[stream] = None
            if self._proxy_from and is_within(peer.address, self._proxy_from):
                client = await self._client_of(stream, peer)
                if client is None:
                    return
                peer = client
            if not self._limiter.acquire(peer.address):
                await self._refuse(stream, build)
                return
            counted = peer
            self._share_turns(stream, peer)
            await stream.take_turn(CONNECTION)
            if stream.woken:  # shut_down() was called meanwhile
                return
            layer = None
            if self._implicit_tls and self._tls_options is not None:
                try:
                    layer = await start_tls(stream, self._tls_options, server_side=True)
                except OSError as error:
                    stream.tls_failed(peer, error)
                    return
            connection = AsyncServerConnection(
                build(secrets.token_bytes(32), None if layer is None else layer.tls),
                *(stream, peer, self._tls_options, layer),
            )
            self._connections[stream] = connection
            connection.take_early_data()
            await session(connection)
            await connection.aclose()
        except BaseException as error:
            left = self._report(error, peer)
            if left is error:
                raise
            if left is not None:
                raise left from None
        finally:
            self.connection_ended(stream)
            if counted is not None:
                self._limiter.release(counted.address)
            stream.abort()

    # What follows is not part of handle(), whose variables take memory as long as the connection is open.

    async def _client_of(self, stream: Stream, proxy: Peer) -> Peer | None:
        """Return the client that *proxy* names in its PROXY header; None, after logging it, if there is no header."""
        self._share_turns(stream, proxy)
        try:
            return await proxied_peer(stream, proxy, self.limits.proxy_header_timeout)
        except OSError as error:
            reason = str(error) or type(error).__name__
            fields = {"peer": proxy.address, "port": proxy.port, "reason": reason}
            stream.share.log(logging.INFO, "proxy dropped", fields)
            return None

    async def _refuse(self, stream: Stream, build: MachineFactory[E]) -> None:
        """Write the reply to a connection over the limit, if no TLS handshake comes first."""
        if not self._implicit_tls:
            with contextlib.suppress(OSError):  # the peer may have disconnected
                await stream.write_all(_refusal(build(secrets.token_bytes(32), None)))

    def _report(self, error: BaseException, peer: Peer) -> BaseException | None:
        """Log *error*, raised by the session with *peer*, or pass it on.  Returns the part that must be raised."""
        failure, rest = _failure_in(error)
        if failure is not None:
            _log_failure(peer, failure)
            report_error(self._on_error, failure, peer)
        if rest is not None and self.is_stray_cancellation(rest):
            _log_failure(peer, rest)
            stray = RuntimeError("a task that the session awaited was cancelled")
            stray.__cause__ = rest
            report_error(self._on_error, stray, peer)
            return None
        return rest

    def _share_turns(self, stream: Stream, peer: Peer) -> None:
        """Let *stream* share the turns of the event loop with the network of *peer*."""
        if self.turns is not None:
            stream.limit_key, network = self._limiter.keys(peer.address)
            stream.share = self.turns.share(network)


def report_error(on_error: OnError | None, error: Exception, peer: Peer) -> None:
    """Call *on_error*, if there is one.  An exception that it raises is logged."""
    if on_error is None:
        return
    try:
        on_error(error, peer)
    except Exception as mistake:
        _log_failure(peer, mistake, "error hook failed")


def _failure_in(error: BaseException) -> tuple[Exception | None, BaseException | None]:
    """Split *error* into the failure of the session and the rest, which is raised again.

    The rest is a cancellation, SystemExit or KeyboardInterrupt.  A nursery that is cancelled while one of its tasks
    fails raises both in one group.
    """
    if isinstance(error, Exception):
        return error, None
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return group.split(Exception)
    return None, error


def _log_failure(peer: Peer, error: BaseException, event: str = "session failed") -> None:
    """Log *error*, raised by the session with *peer* or by ``on_error``, with its traceback.

    An OSError is logged too: a peer that disconnects raises nothing in a session, so the error comes from the session's
    own files or sockets.
    """
    fields: dict[str, object] = {
        "peer": peer.address,
        "port": peer.port,
        "reason": describe_error(error),
        "at": place(error),
    }
    LOGGER.error(Event(event, fields), exc_info=error)


def _refusal(machine: ServerMachine[E]) -> bytes:
    """Return the reply of *machine* to a connection over the limit."""
    data = b""
    while not isinstance(event := machine.next_event(), Closed):
        if isinstance(event, Send):
            data += event.data
        elif isinstance(event, Question):
            machine.decline(event)  # pyright: ignore[reportUnknownArgumentType]  # isinstance() leaves the answer open
        else:
            machine.shut_down()
    return data
