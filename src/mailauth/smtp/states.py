"""The states of SMTP.  Which command is allowed in which state is in ``verbs``."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from ..events import NeedData


class State(enum.IntEnum):
    """The state of a session.

    For example:

        >>> smtp.ServerSettings().table["DATA"].states[smtp.State.RCPT]
        <State.DATA: 6>
    """

    __hash__ = int.__hash__  # that of an enum is written in Python, and each command looks its state up

    GREETING = 0
    """Nothing has been sent; the server's greeting is due."""
    REFUSING = 1
    """The greeting was 554: only QUIT is allowed (RFC 5321 section 3.1)."""
    CONNECTED = 2
    """The server has sent its greeting; EHLO, HELO or LHLO is due.  STARTTLS leads back here."""
    READY = 3
    """EHLO, HELO or LHLO was accepted; no mail transaction is open."""
    MAIL = 4
    """A transaction is open and has no recipient yet."""
    RCPT = 5
    """A transaction has a recipient."""
    DATA = 6
    """Message content is being transferred after DATA."""
    AUTH = 7
    """An authentication exchange is in progress."""
    TLS = 8
    """A TLS handshake is due."""
    CLOSED = 9
    CHUNKS = 10
    """Message content is being transferred by BDAT, and a chunk is complete (RFC 3030)."""
    CHUNK = 11
    """The data of a chunk is being transferred."""


CLIENT_TIMEOUTS: Final[Mapping[str, NeedData]] = {".": NeedData(timeout=600.0), "DATA": NeedData(timeout=120.0)}
"""How long a client waits for the replies to these two (RFC 5321 section 4.5.3.2); for all others, DEFAULT_TIMEOUT."""

DEFAULT_TIMEOUT: Final = NeedData(timeout=300.0)
