"""SMTP, both sides, as pure state machines (RFC 5321, 6409, 4954, 3207).  Knows nothing of POP3 and does no I/O."""

from .._events import MessageChunk as MessageChunk
from ._grammar import Mailbox as Mailbox
from ._parameters import Body as Body, Notify as Notify, OriginalRecipient as OriginalRecipient, Ret as Ret
from ._states import TRANSITIONS as TRANSITIONS, State as State
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
    AnyServerEvent as AnyServerEvent,
    AuthenticationFailed as AuthenticationFailed,
    ClientEvent as ClientEvent,
    Connected as Connected,
    ContentFault as ContentFault,
    MessageAborted as MessageAborted,
    Refused as Refused,
    Replied as Replied,
    ServerEvent as ServerEvent,
)
from .replies import PerRecipient as PerRecipient, Reply as Reply, Verdict as Verdict
from .server import AnyServerConnection as AnyServerConnection, ServerConnection as ServerConnection
from .settings import (
    AnyServerSettings as AnyServerSettings,
    ClientSettings as ClientSettings,
    ServerSettings as ServerSettings,
)
