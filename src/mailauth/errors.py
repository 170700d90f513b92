"""The exceptions: LocalProtocolError is the caller's mistake, RemoteProtocolError the peer's.

Malformed is neither: a parser raises it, and its caller decides what it means.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The base class of all errors of this library.  It is never raised itself.

    For example:

        try:
            event = client.next_event()
        except ProtocolError as error:
            sys.exit(f"not delivered: {error}")
    """


class LocalProtocolError(ProtocolError):
    """The caller made a mistake: an invalid argument, a command out of order, or an answer without a question.

    It is raised before anything changes, so the connection can still be used.

        try:
            client.send(smtp.Data())
        except LocalProtocolError as error:
            print(error)  # DATA is not allowed in state READY
    """


class RemoteProtocolError(ProtocolError):
    """The server violated the protocol.

    Only clients raise it, and only from ``next_event()``.  After that, each further call raises it again.

        try:
            event = client.next_event()
        except RemoteProtocolError as error:
            print(error)  # not a reply: b'hello'
    """


class Malformed(ProtocolError, ValueError):
    """Bytes or a value that the grammar does not allow.  Parsers raise no other exception for what they parse.

    The parser of a verb or a mechanism that an application adds raises it too, with a text that says what is allowed:

    The connections do not pass it on: a server sends an error reply with this text (SMTP: 501), a client raises
    RemoteProtocolError, and a constructor raises LocalProtocolError.  Some functions, such as ``saslprep()``, do raise
    it.  The text must not quote a secret.

        if not argument:
            raise Malformed("syntax: XCLIENT attribute=value ...")
    """
