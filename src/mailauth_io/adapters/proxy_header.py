"""Reads the PROXY header of a connection, before TLS and before the machine is built.

The header itself is parsed by ``mailauth.proxy``.
"""

from __future__ import annotations

from mailauth.proxy import HeaderReader, Invalid, Proxied

from .stream import Peer, Stream

__all__ = ["proxied_peer"]


async def proxied_peer(stream: Stream, peer: Peer, timeout: float) -> Peer:
    """Return the client that the proxy *peer* names in its header, or *peer* itself if the header names none.

    Data after the header stays in *stream*.  Raises OSError if no valid header arrives in *timeout* seconds.
    """
    reader = HeaderReader()
    due = stream.now() + timeout
    while reader.header is None:
        data = await stream.read(due)
        if data is None:
            raise ConnectionAbortedError("shut down while waiting for the PROXY header")
        while True:
            size = reader.wanted
            reader.receive_data(data[:size])
            data = data[size:]
            if not data or reader.header is not None:
                break
        stream.put_back(data)
    header = reader.header
    if isinstance(header, Invalid):
        raise ConnectionAbortedError(f"invalid PROXY header: {header.reason}")
    if isinstance(header, Proxied):
        return Peer(str(header.source.address), header.source.port)
    return peer
