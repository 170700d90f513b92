"""TLS for tests: an authority, a context for each side, and a pair of connected TLS layers without sockets."""

from __future__ import annotations

import ssl
from functools import cache

import trustme

from mailauth_io.adapters.tls import layer


@cache
def authority() -> trustme.CA:
    """Return the authority of this process; it is cached, since generating keys is slow."""
    return trustme.CA()


@cache
def server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996; mailauth_io.server requires it
    authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


@cache
def client_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    return context


def layers(
    context: ssl.SSLContext | None = None, *, client_side: ssl.SSLContext | None = None, host: str = "localhost"
) -> tuple[layer.TlsLayer, layer.TlsLayer]:
    """Return the TLS layers of a server and a client, after the handshake, with these contexts if they are given."""
    server = layer.TlsLayer(context or server_context(), server_side=True, server_hostname=None)
    client = layer.TlsLayer(client_side or client_context(), server_side=False, server_hostname=host)
    done = [False, False]
    while not all(done):
        done[1] = client.step_handshake()
        if data := client.take():
            server.feed(data)
        done[0] = server.step_handshake()
        if data := server.take():
            client.feed(data)
    return server, client
