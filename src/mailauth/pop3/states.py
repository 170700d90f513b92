"""The states of a POP3 session, used by both server and client, and the waits of a client.

The rows in ``verbs`` list the states in which each command is allowed.
"""

from __future__ import annotations

import enum
from typing import Final

from ..events import NeedData


class State(enum.IntEnum):
    """The state of a session (RFC 1939 section 3).  An IntEnum, whose members are hashed faster.

    For example:

        >>> pop3.ServerSettings().table["QUIT"].states[pop3.State.TRANSACTION]
        <State.UPDATE: 7>
    """

    GREETING = 0
    """The server has not sent its greeting yet."""
    AUTHORIZATION = 1
    """The greeting was sent, and the client is not authenticated.  After STLS the session is in this state again."""
    USER_GIVEN = 2
    """AUTHORIZATION after a +OK to USER: PASS is expected."""
    AUTH = 3
    """An authentication exchange is in progress: lines are responses, not commands."""
    OPENING = 4
    """The client is authenticated; the maildrop is not open yet."""
    TRANSACTION = 5
    """The maildrop is open and locked."""
    SENDING = 6
    """TRANSACTION, while a server sends the rest of a multi-line response: no command is read."""
    UPDATE = 7
    """QUIT was received in TRANSACTION: the deletions are being committed."""
    TLS = 8
    """STLS was accepted: the TLS handshake is next."""
    CLOSED = 9


CLIENT_TIMEOUTS: Final = NeedData(timeout=600.0)
"""The wait of a client for a reply.  RFC 1939 has a timeout only for servers; this one is equal to it."""

ANSWER_TIMEOUT: Final = NeedData(timeout=600.0, min_rate=500.0)
"""The same for a multi-line response, which may be a large message on a slow connection."""
