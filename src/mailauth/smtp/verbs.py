"""The verbs of SMTP, one row for each: server, client and settings read everything about a verb from its row."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

import attrs

from .._validators import function_or, mapping_of, value_of
from .._values import shared_repr
from ..errors import LocalProtocolError
from ..events import Command, ExtensionNotice, ExtensionQuestion, Question, Tls
from . import _standard_replies
from ._grammar import Mailbox
from .commands import (
    Auth,
    Bdat,
    Data,
    GenericCommand,
    Hello,
    Help,
    Mail,
    MessageComplete,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from .events import ContentFault
from .parameters import Body
from .replies import Reply
from .states import State

if TYPE_CHECKING:
    from .settings import ServerSettings

C = TypeVar("C", bound=Command)


class View(Protocol):
    """What a row may read of a server's connection.

    For example:

        def after_login(view: smtp.View, command: Command) -> smtp.Reply | None:  # smtp.Verb(check=after_login)
            return None if view.identity else smtp.Reply(530, "5.7.0", "authentication required")
    """

    @property
    def settings(self) -> ServerSettings:
        """The settings of the server."""
        ...

    @property
    def tls(self) -> Tls | None:
        """The TLS layer; None in clear text."""
        ...

    @property
    def identity(self) -> str | None:
        """The authorization identity of the client; None before a login."""
        ...

    @property
    def mail(self) -> Mail | None:
        """The MAIL command of the open transaction; None without one."""
        ...

    @property
    def recipients(self) -> Sequence[Mailbox]:
        """The accepted recipients of the open transaction."""
        ...

    @property
    def transactions(self) -> int:
        """The number of transactions that were opened in this session."""
        ...

    @property
    def content_size(self) -> int:
        """The bytes received of the message in progress."""
        ...

    @property
    def ascii_line(self) -> bool:
        """Whether the command line that is being checked is ASCII."""
        ...


class Effect(enum.Enum):
    """What an accepted command does, apart from its reply and its step in the table.

    For example:

        >>> smtp.ServerSettings().table["RSET"].effect
        <Effect.RESET: 'the transaction is discarded'>
    """

    NONE = "nothing"
    OPEN_TRANSACTION = "a mail transaction begins"
    ADD_RECIPIENT = "the transaction has one more recipient"
    BEGIN_CONTENT = "message content follows, up to the final dot"
    BEGIN_CHUNK = "the data of a chunk follows"
    BEGIN_LOGIN = "an authentication exchange begins"
    BEGIN_TLS = "a TLS handshake begins"
    RESET = "the transaction is discarded"
    RESTART_SESSION = "the transaction and the identity are discarded, and the client must send EHLO again"
    CLOSE = "the session ends"


S = State
_ANY: Final = (S.CONNECTED, S.READY, S.MAIL, S.RCPT, S.CHUNKS)

_STEPS: Final[Mapping[Effect, tuple[tuple[State, ...], tuple[State, ...]]]] = {
    Effect.NONE: (_ANY, _ANY),  # and the state stays the same
    Effect.OPEN_TRANSACTION: ((S.READY,), (S.MAIL,)),
    Effect.ADD_RECIPIENT: ((S.MAIL, S.RCPT), (S.RCPT,)),
    Effect.BEGIN_CONTENT: ((S.RCPT,), (S.DATA,)),
    Effect.BEGIN_CHUNK: ((S.RCPT, S.CHUNKS), (S.CHUNK,)),
    Effect.BEGIN_LOGIN: ((S.READY,), (S.AUTH,)),
    Effect.BEGIN_TLS: ((S.CONNECTED, S.READY), (S.TLS,)),
    Effect.RESET: (_ANY, (S.CONNECTED, S.READY)),
    Effect.RESTART_SESSION: (_ANY, (S.CONNECTED,)),
    Effect.CLOSE: ((S.REFUSING, *_ANY), (S.CLOSED,)),
}
"""The states before and after a command with this effect: a row may use some of them, and no other."""

_KINDS: Final[Mapping[Effect, type[Command]]] = {
    Effect.OPEN_TRANSACTION: Mail,
    Effect.ADD_RECIPIENT: Rcpt,
    Effect.BEGIN_CHUNK: Bdat,
    Effect.BEGIN_LOGIN: Auth,
}
"""The effects that use the fields of the command, with its class."""

_ONLY_FOR: Final[tuple[tuple[Effect, type[Command]], ...]] = (
    *_KINDS.items(),
    (Effect.BEGIN_CONTENT, Data),
    (Effect.BEGIN_TLS, StartTls),
)
"""What follows after these classes are accepted is known to applications, so each has its effect."""

_QUESTIONS: Final = (Mail, Rcpt, Data, StartTls, ExtensionQuestion)
_NOTICES: Final = (Hello, Rset, Noop, Vrfy, Help, Quit, ExtensionNotice)


Accepted: TypeAlias = Reply | Callable[[View], Reply | bytes]
"""The reply to an accepted command, or a function that returns it, as a Reply or as the bytes on the wire."""


@shared_repr
@attrs.frozen(kw_only=True, eq=False, repr=False)
class Verb(Generic[C]):
    """One verb: how it is parsed, when it is allowed, and what it does.

    ``ServerSettings(verbs=...)`` and ``ClientSettings(verbs=...)`` add a row, or replace the row of the same name.

    An exception of a function in a row (ValueError and LocalProtocolError in *parse* excepted) is a mistake of its
    author, and is raised by ``next_event()`` or ``answer()``.  The command gets no reply then, so the caller should end
    the session.

    Raises LocalProtocolError if the fields of a row do not fit together.

        smtp.Verb("ETRN", kind=Etrn, parse=Etrn.parse, states={smtp.State.READY: smtp.State.READY},
                  accepted=smtp.Reply(250, "2.0.0", "queuing started"), extension="ETRN")
    """

    name: str = attrs.field(kw_only=False, validator=value_of(str))
    """The verb in capitals."""

    kind: type[C]
    """The class of the command.

    If *asks*, it is also an ``ExtensionQuestion[Verdict]``, else an ExtensionNotice (or a class of this library).  For
    a client, it has a method ``to_wire()``, which returns the line with its CRLF."""

    parse: Callable[[str], C] = attrs.field(validator=function_or(hint="a function such as Etrn.parse"))
    """Build the command from the text after the verb and its spaces: a str of printable ASCII.

    With ``strict_syntax``, it is the text after one space.

    Raises ``Malformed`` if it is invalid: the reply is 501 with the text of the error.  A LocalProtocolError, such as
    the constructor of Mailbox raises, does the same, and any other ValueError gives 501 with a standard text."""

    states: Mapping[State, State] = attrs.field(validator=mapping_of(State, State, "{State.READY: State.READY}"))
    """The states in which it is allowed, each with the state after a positive reply.  In others it is 503.

    A verb without effect does not change the state; for the others, each Effect has its own states."""

    accepted: Accepted = attrs.field(validator=function_or(Reply, hint='Reply(250, "2.0.0", "ok")'))
    """The reply to ACCEPT, or a function that returns it, called after the effect.  The application may answer with a
    positive reply of its own."""

    effect: Effect = attrs.field(default=Effect.NONE, validator=value_of(Effect))

    check: Callable[[View, C], Reply | None] | None = attrs.field(
        default=None, validator=function_or(optional=True, hint="a function that returns a Reply or None")
    )
    """Return the reply that rejects the command, or None.  It is called before the application is asked."""

    extension: str | Callable[[ServerSettings, Tls | None], str | None] | None = attrs.field(
        default=None, validator=function_or(str, optional=True, hint="a line such as 'ETRN'")
    )
    """The line of the EHLO reply that announces it, or a function that returns it (None: it is not offered now, and not
    in the reply to HELP).

    If it is a line, a client sends the verb only to a server that offers its keyword."""

    enabled: Callable[[ServerSettings], bool] | None = attrs.field(
        default=None, validator=function_or(optional=True, hint="a function that returns True or False")
    )
    """Whether the server has the verb with these settings; None: always.  Otherwise it is 502."""

    before_tls: bool = attrs.field(default=False, validator=value_of(bool))
    """Allowed without TLS where the settings require TLS (RFC 3207 section 4)."""

    groupable: bool = attrs.field(default=False, validator=value_of(bool))
    """A client may send further commands before the reply, and the reply may wait for theirs (RFC 2920 section 3)."""

    asks: bool = attrs.field(default=True, validator=value_of(bool))
    """Whether the application decides.  If not, the command is carried out at once, and is a Notice."""

    code_fixed: bool = attrs.field(default=False, validator=value_of(bool))
    """The code of a positive reply is the protocol's own: only the text of the application's reply is used."""

    def __attrs_post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isalnum() and self.name.isupper()):
            raise LocalProtocolError(f"name must be a verb in capitals, such as XCLIENT, not {self.name!r}")
        self._check_kind()
        self._check_states()
        if isinstance(self.accepted, Reply) and self.accepted.positive is (self.effect is Effect.BEGIN_CONTENT):
            raise LocalProtocolError(f"{self.name}: accepted must be a 2yz Reply; for BEGIN_CONTENT, 354")

    def _check_kind(self) -> None:
        base = "ExtensionQuestion[Verdict]" if self.asks else "ExtensionNotice"
        derived = f"{self.name}: kind must be a class derived from Command and {base}, because asks={self.asks}"
        if not isinstance(self.kind, type):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LocalProtocolError(derived)
        wanted = _KINDS.get(self.effect)
        if wanted is not None and not issubclass(self.kind, wanted):
            raise LocalProtocolError(f"{self.name}: the kind for {self.effect.name} must be smtp.{wanted.__name__}")
        for effect, kind in _ONLY_FOR:
            if issubclass(self.kind, kind) and self.effect is not effect:
                raise LocalProtocolError(f"{self.name}: the effect for smtp.{kind.__name__} must be {effect.name}")
        if wanted in (Auth, Bdat):
            return
        if (
            Command not in self.kind.__mro__
            or not issubclass(self.kind, _QUESTIONS if self.asks else _NOTICES)
            or issubclass(self.kind, Question) is not self.asks
        ):
            raise LocalProtocolError(derived)

    def _check_states(self) -> None:
        before, after = _STEPS[self.effect]
        for state, following in self.states.items():
            allowed = (state,) if self.effect is Effect.NONE else after
            if state not in before or following not in allowed:
                raise LocalProtocolError(
                    f"{self.name}: {self.effect.name} cannot lead from {state.name} to {following.name}; it leads from"
                    f" {' or '.join(each.name for each in before)} to {' or '.join(each.name for each in allowed)}"
                )

    @property
    def keyword(self) -> str | None:
        """The keyword of *extension*; None if it is None or a function."""
        return self.extension.partition(" ")[0] if isinstance(self.extension, str) else None


def _same(*states: State) -> Mapping[State, State]:
    return {state: state for state in states}


def _all_to(after: State, *states: State) -> Mapping[State, State]:
    return dict.fromkeys(states, after)


def _not_offered(parameter: str) -> Reply:
    return Reply(555, "5.5.4", f"unsupported parameter: {parameter[:40]}")


def _check_mail(view: View, mail: Mail) -> Reply | None:
    settings = view.settings
    if settings.authentication_required and view.identity is None:
        return _standard_replies.LOGIN_REQUIRED
    unknown = settings.not_offered(mail)
    if unknown is None and mail.body is Body.BINARY_MIME and not settings.binary_mime:
        unknown = "BODY=BINARYMIME"
    if unknown is None and mail.require_tls and view.tls is None:
        unknown = "REQUIRETLS"
    if unknown is not None:
        return _not_offered(unknown)
    if not (mail.smtputf8 or view.ascii_line):
        return _standard_replies.ASCII_REVERSE_PATH
    if mail.size is not None and mail.size > settings.max_message_size:
        return _standard_replies.CONTENT_FAULTS[ContentFault.TOO_LARGE]
    if view.transactions >= settings.max_transactions:
        return _standard_replies.TOO_MANY_TRANSACTIONS
    return None


def _check_rcpt(view: View, rcpt: Rcpt) -> Reply | None:
    unknown = view.settings.not_offered(rcpt)
    if unknown is not None:
        return _not_offered(unknown)
    mail = view.mail
    if not (view.ascii_line or (mail is not None and mail.smtputf8)):
        return _standard_replies.ASCII_FORWARD_PATH
    return _standard_replies.TOO_MANY_RECIPIENTS if len(view.recipients) >= view.settings.max_recipients else None


def _check_data(view: View, data: Data) -> Reply | None:
    binary = view.mail is not None and view.mail.body is Body.BINARY_MIME
    return _standard_replies.BINARY_NEEDS_BDAT if binary else None


def _check_bdat(view: View, bdat: Bdat) -> Reply | None:
    too_large = view.content_size + bdat.size > view.settings.max_message_size
    return _standard_replies.CONTENT_FAULTS[ContentFault.TOO_LARGE] if too_large else None


def _check_start_tls(view: View, start_tls: StartTls) -> Reply | None:
    if view.tls is not None:
        return _standard_replies.TLS_ACTIVE
    return None if view.settings.starttls else _standard_replies.NOT_IMPLEMENTED


def _check_auth(view: View, auth: Auth) -> Reply | None:
    if view.identity is not None:
        return _standard_replies.ALREADY_LOGGED_IN
    settings = view.settings
    if auth.mechanism in settings.offered(view.tls):
        return None
    if not settings.mechanisms.names:
        return _standard_replies.NOT_IMPLEMENTED
    if view.tls is None and auth.mechanism in settings.mechanisms:
        return _standard_replies.ENCRYPTION_REQUIRED
    return _standard_replies.NO_MECHANISM


def _check_vrfy(view: View, vrfy: Vrfy) -> Reply | None:
    return _not_offered("SMTPUTF8") if vrfy.smtputf8 and not view.settings.smtputf8 else None


def _hello_reply(view: View) -> bytes:
    return view.settings.hello_reply(view.tls)


def _helo_reply(view: View) -> Reply:
    return Reply(250, "", view.settings.host_name)


def _help_reply(view: View) -> Reply:
    return view.settings.help_reply(view.tls)


def _offer_starttls(settings: ServerSettings, tls: Tls | None) -> str | None:
    return "STARTTLS" if settings.starttls and tls is None else None


def _offer_auth(settings: ServerSettings, tls: Tls | None) -> str | None:
    names = settings.offered(tls)
    return f"AUTH {' '.join(names)}" if names else None


def _offer_chunking(settings: ServerSettings, tls: Tls | None) -> str | None:
    return "CHUNKING" if settings.chunking else None


def _hello(name: str, parse: Callable[[str], Hello], accepted: Accepted, *, lmtp: bool) -> Verb[Hello]:
    return Verb(
        name, kind=Hello, parse=parse, states=_all_to(S.READY, *_ANY), accepted=accepted, effect=Effect.RESET,
        enabled=lambda settings: settings.lmtp is lmtp, asks=False, before_tls=True,
    )  # fmt: skip


VERBS: Final[tuple[Verb[Any], ...]] = (
    _hello("EHLO", Hello.parse, _hello_reply, lmtp=False),
    _hello("HELO", partial(Hello.parse, extended=False), _helo_reply, lmtp=False),
    _hello("LHLO", partial(Hello.parse, lmtp=True), _hello_reply, lmtp=True),
    Verb(
        "STARTTLS", kind=StartTls, parse=StartTls.parse,
        states=_all_to(S.TLS, S.READY, S.CONNECTED),  # gsasl sends it before EHLO
        accepted=Reply(220, "2.0.0", "ready to start TLS"), effect=Effect.BEGIN_TLS, check=_check_start_tls,
        extension=_offer_starttls, before_tls=True, code_fixed=True,
    ),
    Verb(
        "AUTH", kind=Auth, parse=Auth.parse,
        states={S.READY: S.AUTH},  # not in a transaction (RFC 4954 section 4)
        accepted=_standard_replies.LOGGED_IN, effect=Effect.BEGIN_LOGIN, check=_check_auth, extension=_offer_auth,
        asks=False,
    ),
    Verb(
        "MAIL", kind=Mail, parse=Mail.parse, states={S.READY: S.MAIL}, accepted=Reply(250, "2.1.0", "sender ok"),
        effect=Effect.OPEN_TRANSACTION, check=_check_mail, groupable=True,
    ),
    Verb(
        "RCPT", kind=Rcpt, parse=Rcpt.parse, states=_all_to(S.RCPT, S.MAIL, S.RCPT),
        accepted=Reply(250, "2.1.5", "recipient ok"), effect=Effect.ADD_RECIPIENT, check=_check_rcpt, groupable=True,
    ),
    Verb(
        "DATA", kind=Data, parse=Data.parse, states={S.RCPT: S.DATA},  # not after BDAT (RFC 3030 section 2)
        accepted=Reply(354, "", "end data with <CR><LF>.<CR><LF>"), effect=Effect.BEGIN_CONTENT, check=_check_data,
        code_fixed=True,
    ),
    Verb(
        "BDAT", kind=Bdat, parse=Bdat.parse, states=_all_to(S.CHUNK, S.RCPT, S.CHUNKS),
        accepted=Reply(250, "2.0.0", "chunk received"), effect=Effect.BEGIN_CHUNK, check=_check_bdat,
        extension=_offer_chunking, enabled=lambda settings: settings.chunking, groupable=True, asks=False,
    ),
    Verb(
        "RSET", kind=Rset, parse=Rset.parse,
        states={S.CONNECTED: S.CONNECTED, **_all_to(S.READY, S.READY, S.MAIL, S.RCPT, S.CHUNKS)},
        accepted=_standard_replies.RESET, effect=Effect.RESET, before_tls=True, groupable=True, asks=False,
    ),
    Verb(
        "NOOP", kind=Noop, parse=Noop.parse, states=_same(*_ANY), accepted=_standard_replies.NOOP, before_tls=True,
        asks=False,
    ),
    Verb(
        "VRFY", kind=Vrfy, parse=Vrfy.parse, states=_same(*_ANY), accepted=_standard_replies.VRFY, check=_check_vrfy,
        asks=False,
    ),
    Verb(
        "HELP", kind=Help, parse=Help.parse, states=_same(*_ANY), accepted=_help_reply, before_tls=True, asks=False
    ),
    Verb(
        "QUIT", kind=Quit, parse=Quit.parse, states=_all_to(S.CLOSED, S.REFUSING, *_ANY),
        accepted=_standard_replies.GOODBYE, effect=Effect.CLOSE, before_tls=True, asks=False,
    ),
)  # fmt: skip
"""The verbs of this library."""

GENERIC: Final = Verb(
    "GENERIC", kind=GenericCommand, parse=lambda argument: GenericCommand(verb="GENERIC", argument=argument),
    states=_same(*_ANY), accepted=_standard_replies.NOOP, asks=False,
)  # fmt: skip
"""The row of the commands without a class, for a client: they are sent as NOOP is."""

ROWS: Final[Mapping[str, Verb[Any]]] = MappingProxyType({row.name: row for row in VERBS})
"""The verbs of this library by name."""

COMPLETED: Final = Reply(250, "2.0.0", "message accepted")
"""The reply to MessageComplete."""

TRANSITIONS: Final[Mapping[tuple[State, str], State]] = MappingProxyType({
    **{(state, row.name): after for row in VERBS for state, after in row.states.items() if row.kind.verb == row.name},
    (S.DATA, MessageComplete.verb): S.READY,
    (S.CHUNK, MessageComplete.verb): S.READY,
    (S.CHUNKS, MessageComplete.verb): S.READY,  # on a client, which sends the data with the command
})  # fmt: skip
"""The state after a positive reply to a verb, by the state before it.  HELO and LHLO are as EHLO."""
