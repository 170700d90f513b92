"""POP3 client and server as state machines without I/O (RFC 1939, 2449, 2595, 5034, 6856)."""

from ..events import MessageChunk
from ..sasl import ApopClient, ApopServer, UserPassClient, UserPassServer
from .client import ClientConnection
from .commands import (
    Auth,
    Capa,
    Dele,
    GenericCommand,
    List,
    NoArgumentCommand,
    Noop,
    OptionalNumber,
    Quit,
    Retrieve,
    Rset,
    Stat,
    Stls,
    Uidl,
    Utf8,
)
from .content import Lines
from .events import (
    AuthenticationRejected,
    ClientEvent,
    CommandRejected,
    Connected,
    OpenMaildrop,
    ReplyReceived,
    RetrieveMore,
    ServerEvent,
    Update,
)
from .maildrop import Maildrop, MaildropSession, MaildropView, Message
from .replies import Content, FallibleQuestion, Reply, Unavailable
from .server import ServerConnection
from .settings import (
    ALL_MECHANISMS,
    DEFAULT_MECHANISMS,
    ClientSettings,
    ServerSettings,
)
from .states import State
from .verbs import TRANSITIONS, Capability, Effect, Verb, View

__all__ = [
    "ALL_MECHANISMS",
    "DEFAULT_MECHANISMS",
    "TRANSITIONS",
    "ApopClient",
    "ApopServer",
    "Auth",
    "AuthenticationRejected",
    "Capa",
    "Capability",
    "ClientConnection",
    "ClientEvent",
    "ClientSettings",
    "CommandRejected",
    "Connected",
    "Content",
    "Dele",
    "Effect",
    "FallibleQuestion",
    "GenericCommand",
    "Lines",
    "List",
    "Maildrop",
    "MaildropSession",
    "MaildropView",
    "Message",
    "MessageChunk",
    "NoArgumentCommand",
    "Noop",
    "OpenMaildrop",
    "OptionalNumber",
    "Quit",
    "Reply",
    "ReplyReceived",
    "Retrieve",
    "RetrieveMore",
    "Rset",
    "ServerConnection",
    "ServerEvent",
    "ServerSettings",
    "Stat",
    "State",
    "Stls",
    "Uidl",
    "Unavailable",
    "Update",
    "UserPassClient",
    "UserPassServer",
    "Utf8",
    "Verb",
    "View",
]
