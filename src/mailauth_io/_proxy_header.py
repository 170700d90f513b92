"""Whom a proxy speaks for: its PROXY header, read before TLS and before any machine.

Knows no loop; what a header may hold is told by ``mailauth.proxy``.
"""

from __future__ import annotations

from mailauth.proxy import HeaderReader, Invalid, Proxied

from ._stream import Peer, Stream


async def proxied_peer(stream: Stream, peer: Peer, timeout: float) -> Peer:
    """The client that the proxy *peer* names, or *peer* itself when its header names none; octets behind it stay.

    Raises OSError when there is no valid header in *timeout* seconds.
    """
    reader = HeaderReader()
    due = stream.now() + timeout
    while reader.header is None:
        data = await stream.read(due)
        if data is None:
            raise ConnectionAbortedError("shut down while its PROXY header was due")
        while True:
            size = reader.wanted
            reader.receive_data(data[:size])
            data = data[size:]
            if not data or reader.header is not None:
                break
        stream.put_back(data)
    header = reader.header
    if isinstance(header, Invalid):
        raise ConnectionAbortedError(f"no valid PROXY header: {header.reason}")
    if isinstance(header, Proxied):
        return Peer(str(header.source.address), header.source.port)
    return peer
