"""Makes the functions of an adapter: ``serve``, ``serve_smtp``, ``serve_pop3`` and ``connect``.

An adapter passes what depends on its loop: a Listener class, and a function that connects.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, Protocol, TypeAlias, TypedDict, TypeVar

from mailauth import ClientMachine, Tls, pop3, smtp
from mailauth.addresses import Network

from .._checks import check_client_context, check_function, check_port, check_text, check_type
from ..limits import ConnectionLimiter, Limits
from .connection import AsyncClientConnection
from .listener import Listener, MachineFactory, OnError, Session
from .stream import Stream
from .tls import layer

__all__ = [
    "CLIENT_LIMITS",
    "GRACE",
    "SERVER_LIMITS",
    "ClientFactory",
    "Connect",
    "ConnectOptions",
    "OpenStream",
    "Serve",
    "ServeOptions",
    "ServePop3",
    "ServeSmtp",
    "make_connect",
    "make_serve",
    "make_serve_pop3",
    "make_serve_smtp",
]

E = TypeVar("E")

GRACE: Final = 5.0
"""Seconds that sessions have to end after their listener begins to close."""

SERVER_LIMITS: Final = Limits()
CLIENT_LIMITS: Final = Limits()

ClientFactory: TypeAlias = Callable[[Tls | None], ClientMachine[E]]
"""Builds a client's machine from the TLS session of its connection (None without TLS)."""

OpenStream: TypeAlias = Callable[[str, int, str | None, Limits], Awaitable[Stream]]
"""Connects to a host and a port, from a source address (None: any), within ``Limits.connect_timeout``.

Raises OSError; TimeoutError is one.  After an exception, a cancellation included, no socket stays open."""


class ConnectOptions(TypedDict, total=False):
    """The keyword arguments of ``connect``.

    For example:

        options: adapters.ConnectOptions = {"ssl_context": ssl.create_default_context(), "implicit_tls": True}
        client = await on_trio.connect(machine, "mail.example", 995, **options)
    """

    ssl_context: ssl.SSLContext | None
    implicit_tls: bool
    server_hostname: str | None
    local_address: str | None
    limits: Limits


class ServeOptions(TypedDict, total=False):
    """The keyword arguments of ``serve``, for functions that call it.

    For example:

        options: adapters.ServeOptions = {"host": "::", "port": 995, "ssl_context": context, "implicit_tls": True}
        async with on_trio.serve_pop3(session, settings, **options) as listener:
            await trio.sleep_forever()
    """

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
    on_error: OnError | None


class Serve(Protocol):
    """``serve`` of an adapter.

    For example:

        serve: adapters.Serve = adapters.make_serve(on_trio.Listener)
        async with serve(session, build, host="::1", port=2525) as listener:
            await stopped.wait()
    """

    def __call__(
        self,
        session: Session[E],
        build: MachineFactory[E],
        *,
        host: str = ...,
        port: int = ...,
        ssl_context: ssl.SSLContext | None = ...,
        implicit_tls: bool = ...,
        grace: float = ...,
        proxy_from: Collection[Network] = ...,
        reuse_port: bool = ...,
        limits: Limits = ...,
        limiter: ConnectionLimiter | None = ...,
        alpn: str | None = ...,
        on_error: OnError | None = ...,
    ) -> AbstractAsyncContextManager[Listener]: ...


class ServeSmtp(Protocol):
    """``serve_smtp`` of an adapter.

    For example:

        serve_smtp: adapters.ServeSmtp = adapters.make_serve_smtp(on_asyncio.serve)
        async with serve_smtp(session, smtp.ServerSettings(), port=25) as listener:
            await stopped.wait()
    """

    def __call__(
        self,
        session: Session[smtp.ServerEvent],
        settings: smtp.ServerSettings,
        *,
        host: str = ...,
        port: int = ...,
        ssl_context: ssl.SSLContext | None = ...,
        implicit_tls: bool = ...,
        grace: float = ...,
        proxy_from: Collection[Network] = ...,
        reuse_port: bool = ...,
        limits: Limits = ...,
        limiter: ConnectionLimiter | None = ...,
        alpn: str | None = ...,
        on_error: OnError | None = ...,
    ) -> AbstractAsyncContextManager[Listener]: ...


class ServePop3(Protocol):
    """``serve_pop3`` of an adapter.

    For example:

        serve_pop3: adapters.ServePop3 = adapters.make_serve_pop3(on_trio.serve)
        async with serve_pop3(session, pop3.ServerSettings(), port=110) as listener:
            await stopped.wait()
    """

    def __call__(
        self,
        session: Session[pop3.ServerEvent],
        settings: pop3.ServerSettings,
        *,
        host: str = ...,
        port: int = ...,
        ssl_context: ssl.SSLContext | None = ...,
        implicit_tls: bool = ...,
        grace: float = ...,
        proxy_from: Collection[Network] = ...,
        reuse_port: bool = ...,
        limits: Limits = ...,
        limiter: ConnectionLimiter | None = ...,
        alpn: str | None = ...,
        on_error: OnError | None = ...,
    ) -> AbstractAsyncContextManager[Listener]: ...


class Connect(Protocol):
    """``connect`` of an adapter.

    For example:

        async def read_greeting(connect: adapters.Connect, host: str) -> pop3.ClientEvent:
            async with await connect(pop3.ClientConnection(), host, 110) as client:
                return await anext(client)
    """

    async def __call__(
        self,
        machine: ClientMachine[E] | ClientFactory[E],
        host: str,
        port: int,
        *,
        ssl_context: ssl.SSLContext | None = ...,
        implicit_tls: bool = ...,
        server_hostname: str | None = ...,
        local_address: str | None = ...,
        limits: Limits = ...,
    ) -> AsyncClientConnection[E]: ...


def make_serve(listener_type: Callable[..., Listener]) -> Serve:
    """Return ``serve`` for the adapter whose listeners are of the class *listener_type*."""

    @contextlib.asynccontextmanager
    async def serve(
        session: Session[E],
        build: MachineFactory[E],
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        grace: float = GRACE,
        proxy_from: Collection[Network] = (),
        reuse_port: bool = False,
        limits: Limits = SERVER_LIMITS,
        limiter: ConnectionLimiter | None = None,
        alpn: str | None = None,
        on_error: OnError | None = None,
    ) -> AsyncGenerator[Listener]:
        """Listen, and run *session* on a machine from *build* for each connection, until the context is left.

        *ssl_context* is used for BeginTls, or, with *implicit_tls*, for a handshake at the start of each connection.

        *grace* is the number of seconds that sessions have to end after the context is left.

        Peers in the networks *proxy_from* are proxies.  Each must first send a valid PROXY header
        (``mailauth.proxy``), or its connection is closed.  The peer of the connection is then the client that the
        header names.

        *limits* sets the maximum number of connections and the timeouts.  Listeners with the same *limiter* share the
        limits on connections.  A connection over the limit gets a refusal from the machine; with *implicit_tls* it is
        closed without one.

        With *alpn*, a TLS client that offers protocols by ALPN must offer this one; ``serve_smtp`` and ``serve_pop3``
        set it.  With *reuse_port*, other processes of the same user may listen on the same port.

        Raises OSError if it cannot listen, TypeError or ValueError for an invalid argument, and ValueError if the
        system cannot share ports.  An exception in a session
        ends only its own connection.  It is logged with its message and traceback, as ``exc_info`` of a record of the
        logger ``mailauth_io``.  Then *on_error* is called with the exception and the Peer, for example to count it or
        to send it to a service that collects errors.  It must not block; an exception that it raises is logged and
        ignored.
        """
        check_function("session", session)
        check_function("build", build)
        check_text("host", host)
        check_port("port", port)
        check_type("reuse_port", reuse_port, bool)
        listener = listener_type(
            ssl_context,
            implicit_tls=implicit_tls,
            grace=grace,
            proxy_from=proxy_from,
            limits=limits,
            limiter=limiter,
            alpn=alpn,
            on_error=on_error,
        )
        async with listener.listen(session, build, host, port, reuse_port=reuse_port):
            yield listener

    return serve


def make_serve_smtp(serve: Serve) -> ServeSmtp:
    """Return ``serve_smtp`` for the adapter that *serve* belongs to."""

    def serve_smtp(
        session: Session[smtp.ServerEvent],
        settings: smtp.ServerSettings,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        grace: float = GRACE,
        proxy_from: Collection[Network] = (),
        reuse_port: bool = False,
        limits: Limits = SERVER_LIMITS,
        limiter: ConnectionLimiter | None = None,
        alpn: str | None = layer.SMTP,
        on_error: OnError | None = None,
    ) -> AbstractAsyncContextManager[Listener]:
        """Serve SMTP: listen, and run *session* for each connection, until the context is left.

        *settings* are those of the protocol; the other parameters are as for ``serve``.  Raises what ``serve`` raises,
        and ValueError if STARTTLS is enabled and there is no *ssl_context*.
        """
        check_type("settings", settings, smtp.ServerSettings, use="smtp.ServerSettings(...)")
        if settings.starttls and ssl_context is None:
            raise ValueError("settings.starttls needs an ssl_context; pass one, or set starttls=False")
        return serve(
            session,
            partial(_smtp_machine, settings),
            host=host,
            port=port,
            ssl_context=ssl_context,
            implicit_tls=implicit_tls,
            grace=grace,
            proxy_from=proxy_from,
            reuse_port=reuse_port,
            limits=limits,
            limiter=limiter,
            alpn=alpn,
            on_error=on_error,
        )

    return serve_smtp


def _smtp_machine(settings: smtp.ServerSettings, entropy: bytes, tls: Tls | None) -> smtp.ServerConnection:
    return smtp.ServerConnection(settings, entropy=entropy, tls=tls)


def make_serve_pop3(serve: Serve) -> ServePop3:
    """Return ``serve_pop3`` for the adapter that *serve* belongs to."""

    def serve_pop3(
        session: Session[pop3.ServerEvent],
        settings: pop3.ServerSettings,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        grace: float = GRACE,
        proxy_from: Collection[Network] = (),
        reuse_port: bool = False,
        limits: Limits = SERVER_LIMITS,
        limiter: ConnectionLimiter | None = None,
        alpn: str | None = layer.POP3,
        on_error: OnError | None = None,
    ) -> AbstractAsyncContextManager[Listener]:
        """Serve POP3: listen, and run *session* for each connection, until the context is left.

        *settings* are those of the protocol; the other parameters are as for ``serve``.  Raises what ``serve`` raises,
        and ValueError if STLS is enabled and there is no *ssl_context*.
        """
        check_type("settings", settings, pop3.ServerSettings, use="pop3.ServerSettings(...)")
        if settings.stls and ssl_context is None:
            raise ValueError("settings.stls needs an ssl_context; pass one, or set stls=False")
        return serve(
            session,
            partial(_pop3_machine, settings),
            host=host,
            port=port,
            ssl_context=ssl_context,
            implicit_tls=implicit_tls,
            grace=grace,
            proxy_from=proxy_from,
            reuse_port=reuse_port,
            limits=limits,
            limiter=limiter,
            alpn=alpn,
            on_error=on_error,
        )

    return serve_pop3


def _pop3_machine(settings: pop3.ServerSettings, entropy: bytes, tls: Tls | None) -> pop3.ServerConnection:
    return pop3.ServerConnection(settings, entropy=entropy, tls=tls)


def make_connect(open_stream: OpenStream) -> Connect:
    """Return ``connect`` for the adapter that connects with *open_stream*."""

    async def connect(
        machine: ClientMachine[E] | ClientFactory[E],
        host: str,
        port: int,
        *,
        ssl_context: ssl.SSLContext | None = None,
        implicit_tls: bool = False,
        server_hostname: str | None = None,
        local_address: str | None = None,
        limits: Limits = CLIENT_LIMITS,
    ) -> AsyncClientConnection[E]:
        """Connect to *host* and *port*, and return a Client that runs *machine*.

        *machine* may also be a function that builds the machine from the TLS session in which the connection starts
        (None without TLS).  The server's certificate must be valid for *server_hostname*, by default *host*.
        *local_address* is the source address.  *limits* sets the timeouts.

        Raises OSError if the connection, or with *implicit_tls* the handshake, fails; TimeoutError is an OSError.
        Raises TypeError or ValueError for an invalid argument.
        """
        if not isinstance(machine, ClientMachine) and not callable(machine):
            raise TypeError(
                f"machine must be a ClientMachine or a function that builds one, not {type(machine).__name__};"
                " use smtp.ClientConnection()"
            )
        check_text("host", host)
        check_port("port", port, 1)
        check_client_context("ssl_context", ssl_context)
        check_type("implicit_tls", implicit_tls, bool)
        check_text("server_hostname", server_hostname, optional=True)
        check_text("local_address", local_address, optional=True)
        check_type("limits", limits, Limits)
        if implicit_tls and ssl_context is None:
            raise ValueError("implicit_tls=True needs an ssl_context; pass one")
        stream = await open_stream(host, port, local_address, limits)
        try:
            peer = stream.peer()
            tls_options = None
            if ssl_context is not None:
                tls_options = layer.TlsOptions(
                    context=ssl_context, timeout=limits.handshake_timeout, hostname=server_hostname or host
                )
            tls_layer = None
            if implicit_tls and tls_options is not None:
                tls_layer = await layer.start_tls(stream, tls_options, server_side=False)
            if not isinstance(machine, ClientMachine):
                machine = machine(tls_layer.tls if tls_layer is not None else None)
            client: AsyncClientConnection[E] = AsyncClientConnection(machine, stream, peer, tls_options, tls_layer)  # pyright: ignore[reportUnknownArgumentType]
            client.take_early_data()
            return client
        except BaseException:
            stream.abort()
            raise

    return connect
