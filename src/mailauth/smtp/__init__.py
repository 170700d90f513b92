"""SMTP client and server as pure state machines (RFC 5321, 6409, 4954, 3207).  This package does no I/O."""

from .._events import MessageChunk as MessageChunk
from ._grammar import Mailbox as Mailbox, decode_xtext as decode_xtext, encode_xtext as encode_xtext
from ._parameters import Body as Body, Notify as Notify, OriginalRecipient as OriginalRecipient, Ret as Ret
from ._states import State as State
from .client import ClientConnection as ClientConnection
from .commands import (
    Bdat as Bdat,
    Data as Data,
    Hello as Hello,
    Help as Help,
    Mail as Mail,
    MessageComplete as MessageComplete,
    Noop as Noop,
    Quit as Quit,
    Rcpt as Rcpt,
    Rset as Rset,
    StartTls as StartTls,
    Vrfy as Vrfy,
)
from .events import (
    AuthenticationRejected as AuthenticationRejected,
    ClientEvent as ClientEvent,
    CommandRejected as CommandRejected,
    Connected as Connected,
    ContentFault as ContentFault,
    MessageAborted as MessageAborted,
    ReplyReceived as ReplyReceived,
    ServerEvent as ServerEvent,
)
from .replies import PerRecipient as PerRecipient, Reply as Reply, Verdict as Verdict
from .server import ServerConnection as ServerConnection
from .settings import (
    ClientSettings as ClientSettings,
    ServerSettings as ServerSettings,
)
from .verbs import TRANSITIONS as TRANSITIONS, Effect as Effect, Verb as Verb, View as View
