"""The two errors of the house, which differ by who is to blame, and the codecs' own.

Knows no protocol: a text says what is wrong, the class says whose mistake it is.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """A rule of the protocol was broken; never raised itself, catch it to catch both kinds."""


class LocalProtocolError(ProtocolError):
    """This program broke the rule: a bad argument, a command out of order, an answer nobody asked for.

    Raised before anything happened: the connection is as it was and may be used on.
    """


class RemoteProtocolError(ProtocolError):
    """The server broke the rule.  Only clients raise it, only from ``next_event()``, and then at each further call."""


class Malformed(ValueError):
    """Octets or values that the grammar does not allow: what codecs raise, and nothing else.

    The entrances translate it: a server replies, a client raises RemoteProtocolError, a constructor LocalProtocolError.
    """
