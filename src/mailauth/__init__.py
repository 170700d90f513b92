"""Mail authentication without I/O: SMTP, POP3, SASL and POP-before-SMTP grants.

This package has the events and errors that all connections share.  The protocols are in ``mailauth.smtp``,
``mailauth.pop3`` and ``mailauth.sasl``.
"""

from ._client import ClientMachine as ClientMachine
from ._errors import (
    LocalProtocolError as LocalProtocolError,
    Malformed as Malformed,
    ProtocolError as ProtocolError,
    RemoteProtocolError as RemoteProtocolError,
)
from ._events import (
    ACCEPT as ACCEPT,
    PAUSED as PAUSED,
    Accept as Accept,
    Action as Action,
    BeginTls as BeginTls,
    Closed as Closed,
    CloseReason as CloseReason,
    Command as Command,
    ExtensionNotice as ExtensionNotice,
    ExtensionQuestion as ExtensionQuestion,
    MessageChunk as MessageChunk,
    NeedData as NeedData,
    Notice as Notice,
    Paused as Paused,
    Payload as Payload,
    Question as Question,
    Send as Send,
    Tls as Tls,
    TlsStarted as TlsStarted,
)
from ._machine import Machine as Machine
from ._server import ServerMachine as ServerMachine
