"""The network of a test server: the faults that a test has registered, and the listener that applies them."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from typing import Literal, Unpack

from .. import on_asyncio
from .._checks import check_choice, check_function, check_integer, check_number, check_type
from ..adapters import ListenerOptions, Peer
from ..adapters.timekeeper import Timekeeper
from ._faults import (
    DIRECTIONS,
    DOWNSTREAM,
    PROTOCOLS,
    Bandwidth,
    Cutoff,
    Direction,
    Emit,
    Fault,
    Latency,
    ProtocolName,
    Signal,
    Slicer,
    Stage,
)
from ._link import KitStream, Link

__all__ = ["Listener", "Network"]


class Network:
    """The network faults of a test server.  They act below TLS, so handshakes are affected too.

    Each method adds a fault to the connections that the server accepts later, until ``clear()``.  A connection has all
    the faults that apply to it, in the order of the calls.  *direction* is ``"downstream"``, from the server to the
    client, or ``"upstream"``, from the client to the server.  *protocol* limits a fault to ``"SMTP"`` or ``"POP3"``,
    and *connections* to the next connections, of that protocol if both are given.  Nothing is random: bytes are counted
    from the start of the connection, TLS included, and the order of data is kept.  The methods may be called from any
    thread.

    Up to 64 KiB in each direction are on their way at a time; then the sender has to wait, as with the buffers of a
    socket.  Data on its way to the client when the server closes the connection still arrives.

    Each method raises TypeError or ValueError for an invalid argument.

    For example:

        mail_server.network.slicer(1, protocol="SMTP")
        mail_server.network.reset_peer(after=100, connections=1)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: tuple[Fault, ...] = ()

    def latency(
        self,
        seconds: float,
        *,
        direction: Literal["downstream", "upstream"] = "downstream",
        protocol: Literal["SMTP", "POP3"] | None = None,
        connections: int | None = None,
    ) -> None:
        """Delay all data, and the end of the stream, by *seconds*.

        For example:

            mail_server.network.latency(0.2)
            mail_server.network.latency(0.2, direction="upstream")
        """
        check_number("seconds", seconds)
        self._add(
            f"latency({seconds}", direction, protocol, connections,
            lambda fault, loop, emit: Latency(seconds, fault, loop, emit),
        )  # fmt: skip

    def bandwidth(
        self,
        bytes_per_second: float,
        *,
        direction: Literal["downstream", "upstream"] = "downstream",
        protocol: Literal["SMTP", "POP3"] | None = None,
        connections: int | None = None,
    ) -> None:
        """Limit the rate of the data to *bytes_per_second*.

        The data arrives in pieces, each with the data of a tenth of a second.  The server disconnects a client that
        takes less than 500 bytes per second while more than 64 KiB are waiting (``Limits.min_rate``).

        For example:

            mail_server.network.bandwidth(20_000)
            mail_server.network.bandwidth(5_000, direction="upstream")
        """
        check_number("bytes_per_second", bytes_per_second)
        self._add(
            f"bandwidth({bytes_per_second}", direction, protocol, connections,
            lambda fault, loop, emit: Bandwidth(bytes_per_second, fault, loop, emit),
        )  # fmt: skip

    def slicer(
        self,
        size: int,
        *,
        delay: float = 0.0,
        direction: Literal["downstream", "upstream"] = "downstream",
        protocol: Literal["SMTP", "POP3"] | None = None,
        connections: int | None = None,
    ) -> None:
        """Cut the data after each *size* bytes of the connection, and wait *delay* seconds between two pieces.

        Each piece is sent by itself.  A client may still receive several at once, since TCP keeps no boundaries; with a
        *delay*, a client that reads at once receives one at a time.

        For example:

            mail_server.network.slicer(1)
            mail_server.network.slicer(5, delay=0.01, direction="upstream")
        """
        check_integer("size", size, 1)
        check_number("delay", delay, zero=True)
        self._add(
            f"slicer({size}{f', delay={delay}' if delay else ''}", direction, protocol, connections,
            lambda fault, loop, emit: Slicer(size, delay, fault, loop, emit),
        )  # fmt: skip

    def reset_peer(
        self, *, after: int = 0, protocol: Literal["SMTP", "POP3"] | None = None, connections: int | None = None
    ) -> None:
        """Reset the connection after *after* bytes were sent to the client: the client gets a TCP RST.

        0: before any data.  The reset follows a tenth of a second after the last byte, so that the client can read the
        data first.

        For example:

            mail_server.network.reset_peer()
            mail_server.network.reset_peer(after=100)
        """
        check_integer("after", after, 0)
        self._add(
            f"reset_peer({f'after={after}' if after else ''}", DOWNSTREAM, protocol, connections,
            lambda fault, loop, emit: Cutoff(after, Signal.RESET, fault, loop, emit),
        )  # fmt: skip

    def limit_data(
        self,
        size: int,
        *,
        direction: Literal["downstream", "upstream"] = "downstream",
        protocol: Literal["SMTP", "POP3"] | None = None,
        connections: int | None = None,
    ) -> None:
        """Close the connection with a FIN after *size* bytes.

        Downstream, the client receives exactly *size* bytes, and no close_notify of TLS.  Upstream, the server receives
        exactly *size* bytes and then the end of the stream: it answers the commands that are complete, and closes as
        usual.  0: at once.

        For example:

            mail_server.network.limit_data(10)
            mail_server.network.limit_data(1_000, direction="upstream")
        """
        check_integer("size", size, 0)
        self._add(
            f"limit_data({size}", direction, protocol, connections,
            lambda fault, loop, emit: Cutoff(size, Signal.CLOSE, fault, loop, emit),
        )  # fmt: skip

    def clear(self) -> None:
        """Remove all faults.  Connections that have started keep theirs.

        For example:

            mail_server.network.latency(0.2)
            mail_server.network.clear()
        """
        with self._lock:
            self._faults = ()

    @property
    def unused(self) -> list[str]:
        """The faults that have had no effect on a connection since the last ``clear()``, as the calls that made them.

        An example is ``limit_data(10_000)`` if no connection has carried as much data.

        For example:

            mail_server.network.reset_peer(after=10)
            assert mail_server.network.unused == ["reset_peer(after=10)"]
        """
        return [fault.description for fault in self._faults if not fault.affected]

    @property
    def problems(self) -> list[str]:
        """What ``check()`` reports about the faults in ``unused``.

        For example:

            mail_server.network.limit_data(10_000, protocol="POP3")
            print(mail_server.network.problems)
        """
        problems: list[str] = []
        for fault in self._faults:
            if not fault.affected:
                most = "" if fault.passed is None else f": only {fault.passed} bytes have passed"
                problems.append(f"network.{fault.description} has affected no connection{most}")
        return problems

    @property
    def used(self) -> list[str]:
        """The faults that have had an effect on a connection since the last ``clear()``.

        For example:

            assert mail_server.network.used == ["reset_peer()"]
        """
        return [fault.description for fault in self._faults if fault.affected]

    def _add(
        self,
        call: str,
        direction: Direction,
        protocol: ProtocolName | None,
        connections: int | None,
        build: Callable[[Fault, asyncio.AbstractEventLoop, Emit], Stage],
    ) -> None:
        check_choice("direction", direction, DIRECTIONS)
        if protocol is not None:
            check_choice("protocol", protocol, PROTOCOLS)
        check_integer("connections", connections, 1, optional=True)
        options = [
            *([f'direction="{direction}"'] if direction != DOWNSTREAM else []),
            *([f'protocol="{protocol}"'] if protocol is not None else []),
            *([f"connections={connections}"] if connections is not None else []),
        ]
        separator = "" if call.endswith("(") or not options else ", "
        fault = Fault(
            description=f"{call}{separator}{', '.join(options)})",
            direction=direction,
            protocol=protocol,
            connections_left=connections,
            build=build,
        )
        with self._lock:
            self._faults = (*self._faults, fault)

    def _start_connection(self, protocol: ProtocolName | None) -> list[Fault]:
        """Return the faults of a new connection.  Called by the listener, in the order in which it accepts them."""
        found: list[Fault] = []
        with self._lock:
            for fault in self._faults:
                if fault.protocol in (None, protocol) and fault.connections_left != 0:
                    if fault.connections_left is not None:
                        fault.connections_left -= 1
                    found.append(fault)
        return found


class Listener(on_asyncio.Listener):
    """A listener on asyncio whose connections have the faults of *network*.

    *protocol* is the one that it serves; faults may be limited to a protocol.  *on_connect* is called with the peer of
    each connection, before its session starts, and *on_tls_failure* with the peer and the error of each handshake that
    has failed.  Both are called in the thread of the loop, and must not block or raise an exception.

    For example:

        listener_type = functools.partial(Listener, network=Network(), protocol="SMTP")
        async with adapters.make_serve(listener_type)(session, build) as listener:
            await stopped.wait()
    """

    def __init__(
        self,
        context: ssl.SSLContext | None,
        *,
        network: Network,
        protocol: Literal["SMTP", "POP3"] | None = None,
        on_connect: Callable[[Peer], object] = lambda peer: None,
        on_tls_failure: Callable[[Peer, OSError], object] = lambda peer, error: None,
        **options: Unpack[ListenerOptions],
    ) -> None:
        """Raises TypeError or ValueError for an invalid argument."""
        super().__init__(context, **options)
        check_type("network", network, Network)
        if protocol is not None:
            check_choice("protocol", protocol, PROTOCOLS)
        check_function("on_connect", on_connect)
        check_function("on_tls_failure", on_tls_failure)
        self._network = network
        self._protocol: ProtocolName | None = protocol
        self._on_connect = on_connect
        self._on_tls_failure = on_tls_failure
        self._links: dict[Link, None] = {}

    def _stream_factory(
        self,
        loop: asyncio.AbstractEventLoop,
        made: Callable[[on_asyncio.TransportStream], None],
        timekeeper: Timekeeper,
    ) -> Callable[[], asyncio.BaseProtocol]:
        def new() -> asyncio.BaseProtocol:
            stream = KitStream(loop, self.limits, made, timekeeper, self._on_connect, self._on_tls_failure)
            faults = self._network._start_connection(self._protocol)  # pyright: ignore[reportPrivateUsage]  # of this module
            return Link(loop, stream, faults, self._links) if faults else stream

        return new

    @property
    def connected(self) -> bool:
        """Whether a connection is open, or data that the server has sent before it closed one is still on its way."""
        return bool(self._connections or self._links)

    def abort_connections(self) -> None:
        """Close all connections at once, and discard data on its way.  ``connected`` is False some iterations later."""
        for stream in list(self._connections):
            stream.abort()
        for link in list(self._links):
            link.kill()

    async def aclose(self) -> None:
        try:
            await super().aclose()
        finally:
            if self._links:
                self.abort_connections()
                await asyncio.sleep(0)  # until the sockets are closed
