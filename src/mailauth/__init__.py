"""Mail authentication as a pure, sans-IO library: SMTP, POP3, SASL, and the grants of POP before SMTP.

This module is the vocabulary that all of them speak; the protocols are ``mailauth.smtp``, ``mailauth.pop3`` and
``mailauth.sasl``.
"""

from ._client import ClientMachine as ClientMachine
from ._errors import (
    LocalProtocolError as LocalProtocolError,
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
