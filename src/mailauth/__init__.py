"""Mail authentication without I/O: SMTP, POP3, SASL and POP-before-SMTP grants.

This package has the events and errors that all connections share.  The protocols are in ``mailauth.smtp``,
``mailauth.pop3`` and ``mailauth.sasl``.
"""

from ._client import ClientMachine
from ._machine import Machine
from ._server import ServerMachine
from .errors import (
    LocalProtocolError,
    Malformed,
    ProtocolError,
    RemoteProtocolError,
)
from .events import (
    ACCEPT,
    PAUSED,
    Accept,
    Action,
    BeginTls,
    Closed,
    CloseReason,
    Command,
    ExtensionNotice,
    ExtensionQuestion,
    MessageChunk,
    NeedData,
    Notice,
    Paused,
    Payload,
    Question,
    Send,
    Tls,
    TlsStarted,
)

__version__ = "0.1.0"

__all__ = [
    "ACCEPT",
    "PAUSED",
    "Accept",
    "Action",
    "BeginTls",
    "ClientMachine",
    "CloseReason",
    "Closed",
    "Command",
    "ExtensionNotice",
    "ExtensionQuestion",
    "LocalProtocolError",
    "Machine",
    "Malformed",
    "MessageChunk",
    "NeedData",
    "Notice",
    "Paused",
    "Payload",
    "ProtocolError",
    "Question",
    "RemoteProtocolError",
    "Send",
    "ServerMachine",
    "Tls",
    "TlsStarted",
    "__version__",
]
