"""The exceptions: LocalProtocolError is the caller's mistake, RemoteProtocolError the peer's."""

from __future__ import annotations


class ProtocolError(Exception):
    """The base class of both protocol errors.  It is never raised itself."""


class LocalProtocolError(ProtocolError):
    """The caller made a mistake: an invalid argument, a command out of order, or an answer without a question.

    It is raised before anything changes, so the connection can still be used.
    """


class RemoteProtocolError(ProtocolError):
    """The server violated the protocol.

    Only clients raise it, and only from ``next_event()``.  After that, each further call raises it again.
    """


class Malformed(ValueError):
    """Bytes or a value that the grammar does not allow.  Parsers and serializers raise no other exception.

    The connections do not pass it on: a server sends an error reply, a client raises RemoteProtocolError, and a
    constructor raises LocalProtocolError.  Some functions, such as ``saslprep()``, do raise it.  This class is not
    exported, so catch it as ValueError.
    """
