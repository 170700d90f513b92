"""POP3 client and server as state machines without I/O (RFC 1939, 2449, 2595, 5034, 6856)."""

from .._events import MessageChunk as MessageChunk
from ._states import State as State
from .client import ClientConnection as ClientConnection
from .commands import (
    Capa as Capa,
    Dele as Dele,
    List as List,
    Noop as Noop,
    Quit as Quit,
    Retrieve as Retrieve,
    Rset as Rset,
    Stat as Stat,
    Stls as Stls,
    Uidl as Uidl,
    Utf8 as Utf8,
)
from .events import (
    AuthenticationRejected as AuthenticationRejected,
    ClientEvent as ClientEvent,
    CommandRejected as CommandRejected,
    Connected as Connected,
    OpenMaildrop as OpenMaildrop,
    ReplyReceived as ReplyReceived,
    RetrieveMore as RetrieveMore,
    ServerEvent as ServerEvent,
    Update as Update,
)
from .maildrop import Maildrop as Maildrop, Message as Message
from .replies import Content as Content, Reply as Reply, Unavailable as Unavailable
from .server import ServerConnection as ServerConnection
from .settings import (
    ALL_MECHANISMS as ALL_MECHANISMS,
    DEFAULT_MECHANISMS as DEFAULT_MECHANISMS,
    ClientSettings as ClientSettings,
    ServerSettings as ServerSettings,
)
from .verbs import TRANSITIONS as TRANSITIONS, Effect as Effect, Verb as Verb, View as View
