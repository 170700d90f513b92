"""The base class of contexts whose certificate changes while a server runs."""

from __future__ import annotations

import ssl

from .channel_binding import BindingContext


class CurrentContext(ssl.SSLContext):
    """A context for a server that passes each handshake on to ``_current``, which a subclass sets and replaces.

    A connection keeps the context that it started with.  Attributes set on this context have no effect.

    ``SSLContext.sni_callback`` is not used for this, although it is also called for a client that sends no name: the
    first context would go on to issue and accept the session tickets.  A client could then resume a session with a
    certificate of an authority that has been removed from the file of client authorities.
    """

    _current: BindingContext

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As ``ssl.SSLContext.wrap_bio``, with the current context."""
        return self._current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    @property
    def certificate(self) -> bytes | None:
        """The certificate that the next handshake presents, in DER."""
        return self._current.certificate
