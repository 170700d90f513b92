"""The part of the adapters that does not depend on an event loop, for those who write an adapter.

An adapter implements ``Stream`` and ``Listener`` with the operations of its loop, and a function that connects.  It
makes its public functions of them with ``make_serve``, ``make_serve_smtp``, ``make_serve_pop3`` and ``make_connect``.
``examples/threads_adapter.py`` is an adapter for blocking sockets and threads.
"""

from mailauth.addresses import Network

from ..limits import ConnectionLimiter, Limits
from .connection import AsyncClientConnection, AsyncConnection, AsyncServerConnection
from .functions import (
    Connect,
    ConnectOptions,
    OpenStream,
    Serve,
    ServeOptions,
    ServePop3,
    ServeSmtp,
    make_connect,
    make_serve,
    make_serve_pop3,
    make_serve_smtp,
)
from .listener import Listener, ListenerOptions, MachineFactory, OnError, Session
from .stream import LARGE_WRITE, READ_SIZE, Peer, Stream, to_peer

__all__ = [
    "LARGE_WRITE",
    "READ_SIZE",
    "AsyncClientConnection",
    "AsyncConnection",
    "AsyncServerConnection",
    "Connect",
    "ConnectOptions",
    "ConnectionLimiter",
    "Limits",
    "Listener",
    "ListenerOptions",
    "MachineFactory",
    "Network",
    "OnError",
    "OpenStream",
    "Peer",
    "Serve",
    "ServeOptions",
    "ServePop3",
    "ServeSmtp",
    "Session",
    "Stream",
    "make_connect",
    "make_serve",
    "make_serve_pop3",
    "make_serve_smtp",
    "to_peer",
]
