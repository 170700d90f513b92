"""SMTP client and server as pure state machines (RFC 5321, 6409, 4954, 3207).  This package does no I/O."""

from ..events import MessageChunk
from ._grammar import Mailbox, decode_xtext, encode_xtext
from .client import ClientConnection
from .commands import (
    Auth,
    Bdat,
    Data,
    GenericCommand,
    Hello,
    Help,
    Mail,
    MessageComplete,
    NoArgumentCommand,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    TextCommand,
    VerdictQuestion,
    Vrfy,
)
from .content import ContentLimits
from .events import (
    AuthenticationRejected,
    ClientEvent,
    CommandRejected,
    Connected,
    ContentFault,
    MessageAborted,
    ReplyReceived,
    ServerEvent,
)
from .parameters import Body, Notify, OriginalRecipient, Ret
from .replies import PerRecipient, Reply, Verdict
from .server import ServerConnection
from .settings import (
    ClientSettings,
    ServerSettings,
)
from .states import State
from .verbs import TRANSITIONS, Accepted, Effect, Verb, View

__all__ = [
    "TRANSITIONS",
    "Accepted",
    "Auth",
    "AuthenticationRejected",
    "Bdat",
    "Body",
    "ClientConnection",
    "ClientEvent",
    "ClientSettings",
    "CommandRejected",
    "Connected",
    "ContentFault",
    "ContentLimits",
    "Data",
    "Effect",
    "GenericCommand",
    "Hello",
    "Help",
    "Mail",
    "Mailbox",
    "MessageAborted",
    "MessageChunk",
    "MessageComplete",
    "NoArgumentCommand",
    "Noop",
    "Notify",
    "OriginalRecipient",
    "PerRecipient",
    "Quit",
    "Rcpt",
    "Reply",
    "ReplyReceived",
    "Ret",
    "Rset",
    "ServerConnection",
    "ServerEvent",
    "ServerSettings",
    "StartTls",
    "State",
    "TextCommand",
    "Verb",
    "Verdict",
    "VerdictQuestion",
    "View",
    "Vrfy",
    "decode_xtext",
    "encode_xtext",
]
