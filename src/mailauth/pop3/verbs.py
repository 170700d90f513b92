"""The verbs of POP3, one row for each: server, client and settings read everything about a verb from its row."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeAlias, TypeVar

import attrs

from .._validators import function_or, mapping_of, value_of
from ..errors import LocalProtocolError
from ..events import Command, Notice, Question, Tls
from . import _standard_replies
from .commands import (
    Apop,
    Auth,
    Capa,
    Dele,
    GenericCommand,
    List,
    Noop,
    Pass,
    Quit,
    Retrieve,
    Rset,
    Stat,
    Stls,
    Uidl,
    User,
    Utf8,
)
from .content import Lines, ListingSender
from .maildrop import MaildropView
from .replies import Reply, Unavailable
from .states import State

if TYPE_CHECKING:
    from .settings import ServerSettings

C = TypeVar("C", bound=Command)


class View(Protocol):
    """What a row may read of a server's connection.

    For example:

        def inside_tls(view: pop3.View, command: Command) -> pop3.Reply | None:  # pop3.Verb(check=inside_tls)
            return pop3.Reply(False, "", "STLS first") if view.tls is None else None
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
    def state(self) -> State:
        """The state of the session."""
        ...

    @property
    def maildrop(self) -> MaildropView:
        """The messages of the maildrop; none before it is open."""
        ...

    @property
    def utf8_mode(self) -> bool:
        """Whether the client has sent UTF8."""
        ...

    @property
    def has_timestamp(self) -> bool:
        """Whether the greeting had a timestamp, which APOP requires."""
        ...


class Effect(enum.Enum):
    """What an accepted command does, apart from its reply and its step in the table.

    For example:

        >>> pop3.ServerSettings().table["DELE"].effect
        <Effect.MARK_DELETED: 'a message is marked as deleted'>
    """

    NONE = "nothing"
    ENABLE_UTF8 = "messages with a UTF-8 header may be sent"
    BEGIN_TLS = "a TLS handshake begins"
    BEGIN_LOGIN = "an authentication exchange begins"
    CONTINUE_LOGIN = "the command is the response to the last challenge of the exchange"
    SEND_MESSAGE = "the text of a message follows the reply"
    MARK_DELETED = "a message is marked as deleted"
    UNMARK_ALL = "no message is marked as deleted any longer"
    CLOSE = "the session ends, after the deletions are committed"


_KINDS: Final[Mapping[Effect, tuple[type[Command], ...]]] = {
    Effect.BEGIN_LOGIN: (User, Apop, Auth),
    Effect.CONTINUE_LOGIN: (Pass,),
    Effect.SEND_MESSAGE: (Retrieve,),
    Effect.MARK_DELETED: (Dele,),
}
"""The effects that need a field of their command."""

_COMMANDS: Final = (State.AUTHORIZATION, State.USER_GIVEN, State.TRANSACTION)
"""The states in which a server reads commands."""

_STEPS: Final[Mapping[Effect, tuple[tuple[State, ...], tuple[State, ...]]]] = {
    Effect.BEGIN_TLS: ((State.AUTHORIZATION,), (State.TLS,)),
    Effect.BEGIN_LOGIN: (_COMMANDS[:2], (State.USER_GIVEN, State.AUTH, State.TRANSACTION)),
    Effect.CONTINUE_LOGIN: ((State.USER_GIVEN,), (State.TRANSACTION,)),
    Effect.SEND_MESSAGE: ((State.TRANSACTION,), (State.TRANSACTION,)),
    Effect.MARK_DELETED: ((State.TRANSACTION,), (State.TRANSACTION,)),
    Effect.UNMARK_ALL: ((State.TRANSACTION,), (State.TRANSACTION,)),
    Effect.CLOSE: (_COMMANDS, (State.CLOSED, State.UPDATE)),
}
"""The states before and after a command with this effect.  With any other effect, the state stays the same."""

_UNAVAILABLE_HINT: Final = '{each: Reply(False, each.value, "try later") for each in Unavailable}'

_IN_TRANSACTION: Final[Mapping[State, State]] = MappingProxyType({State.TRANSACTION: State.TRANSACTION})

_LOGIN: Final = (Effect.BEGIN_LOGIN, Effect.CONTINUE_LOGIN)

Capability: TypeAlias = str | Callable[["ServerSettings", Tls | None, bool], str | None]
"""A line of the response to CAPA, or a function of settings, TLS, and whether the client has logged in."""


@attrs.frozen(kw_only=True, eq=False)
class Verb(Generic[C]):
    """One verb: how it is parsed, when it is allowed, and what it does.

    ``ServerSettings(verbs=...)`` and ``ClientSettings(verbs=...)`` add a row, or replace the row of the same name.

    An exception of a function in a row (ValueError and LocalProtocolError in *parse* excepted) is a mistake of its
    author, and is raised by ``next_event()`` or ``answer()``.

    Raises LocalProtocolError for a row that no server could carry out.

        pop3.Verb("XTND", kind=Xtnd, parse=Xtnd.parse, states={pop3.State.TRANSACTION: pop3.State.TRANSACTION},
                  accepted=pop3.Reply(True, "", "ok"), capability="XTND")
    """

    name: str = attrs.field(kw_only=False, validator=value_of(str))
    """The verb in capitals."""

    kind: type[C]
    """The class of the command.

    If *asks*, it is also the Question that the application answers, else an ExtensionNotice (or a class of this
    library)."""

    parse: Callable[[bytes], C] = attrs.field(validator=function_or(hint="a function such as Xtnd.parse"))
    """Build the command from the bytes after the verb and its space, which may be any bytes except CRLF.

    Unless ``ServerSettings.strict_syntax`` is set, further spaces before them, and spaces and tabs at the end of the
    line, are removed first.  In the arguments of USER, PASS and APOP, and of a row with *secret*, they are kept.

    It gets bytes, where ``smtp.Verb.parse`` gets a str: a password in POP3, for example, may be in any encoding.

    Raises ``Malformed`` if they are invalid: the reply is -ERR with the text of the error.  A LocalProtocolError, such
    as a validator of a command raises, does the same, and any other ValueError, such as UnicodeDecodeError, gives -ERR
    with a standard text."""

    states: Mapping[State, State] = attrs.field(
        validator=mapping_of(State, State, "{State.TRANSACTION: State.TRANSACTION}")
    )
    """The states in which it is allowed, each with the state after a positive reply.  In others it is -ERR."""

    accepted: Reply | Callable[[View, C], Reply | bytes] = attrs.field(
        validator=function_or(Reply, hint='Reply(True, "", "ok")')
    )
    """The reply to an accepted command, or a function that returns it, as a Reply or as the bytes on the wire."""

    effect: Effect = attrs.field(default=Effect.NONE, validator=value_of(Effect))

    check: Callable[[View, C], Reply | None] | None = attrs.field(
        default=None, validator=function_or(optional=True, hint="a function that returns a Reply or None")
    )
    """Return the reply that rejects the command, or None.  It is called before the application is asked."""

    multi_line: bool | Callable[[C], bool] = attrs.field(
        default=False, validator=function_or(bool, hint="True or False")
    )
    """Whether lines and a final dot follow a positive reply: how a client finds the end of the response.

    Each positive Reply then needs *lines*, ``()`` if there are none, unless the row has *lines*."""

    lines: Callable[[View], Lines] | None = attrs.field(
        default=None, validator=function_or(optional=True, hint="a function that returns Lines")
    )
    """Return the lines after a multi-line reply, if they are too many to be part of *accepted*."""

    capability: Capability | None = attrs.field(
        default=None, validator=function_or(str, optional=True, hint="a line such as 'XTND'")
    )
    """The line of the response to CAPA that announces it, or a function that returns it (None: not offered now)."""

    asks: bool = attrs.field(default=False, validator=value_of(bool))
    """Whether the application decides.  If not, the command is carried out at once, and is a Notice."""

    unavailable: Mapping[Unavailable, Reply] = attrs.field(
        default=_standard_replies.UNAVAILABLE, validator=mapping_of(Unavailable, Reply, _UNAVAILABLE_HINT)
    )
    """The replies to the negative answers of the application: a negative Reply for each Unavailable."""

    secret: bool = attrs.field(default=False, validator=value_of(bool))
    """Its argument may be a secret, so the event of a rejected command has only the verb."""

    @property
    def is_login(self) -> bool:
        """Whether ``authenticate()`` sends the command, and not ``send()``."""
        return self.effect in _LOGIN

    def __attrs_post_init__(self) -> None:
        if not (self.name.isascii() and self.name.isalnum() and self.name.isupper()):
            raise LocalProtocolError(f"name must be a verb in capitals, such as XTND, not {self.name!r}")
        self._check_kind()
        if isinstance(self.accepted, Reply) and not self.accepted.positive:
            raise LocalProtocolError("accepted must be a positive Reply; use Reply(True, ...)")
        if isinstance(self.accepted, Reply) and isinstance(self.multi_line, bool):
            self._check_lines(self.accepted, self.multi_line)
        if set(self.unavailable) != set(Unavailable) or any(reply.positive for reply in self.unavailable.values()):
            raise LocalProtocolError(
                f"unavailable must have a negative Reply for each Unavailable; use {_UNAVAILABLE_HINT}"
            )
        self._check_states()
        sends_message = self.effect is Effect.SEND_MESSAGE
        if sends_message and not self.asks:
            raise LocalProtocolError("asks must be True for SEND_MESSAGE: only the application has the message")
        if (self.lines is not None or sends_message) and self.states != _IN_TRANSACTION:
            raise LocalProtocolError("a verb with lines or a message is allowed in TRANSACTION only, and stays there")

    def _check_kind(self) -> None:
        kind: object = self.kind
        if not isinstance(kind, type) or not issubclass(kind, Command):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise LocalProtocolError(f"kind must be a class derived from Command, not {kind!r}")
        kinds = _KINDS.get(self.effect)
        if kinds is not None and not issubclass(kind, kinds):
            names = " or ".join(each.__name__ for each in kinds)
            raise LocalProtocolError(f"kind must be {names} for the effect {self.effect.name}, not {kind}")
        if self.asks:
            if not issubclass(kind, Question):
                raise LocalProtocolError(f"kind must be a Question if the application is asked, not {kind}")
        elif not self.is_login and (issubclass(kind, Question) or not issubclass(kind, Notice)):
            raise LocalProtocolError(
                f"kind must be derived from ExtensionNotice, not {kind}, because asks=False; a Question needs asks=True"
            )

    def _check_states(self) -> None:
        """Otherwise a command could lead to a state in which the server has nothing to do, or a question too many."""
        for state, after in self.states.items():
            before, allowed = _STEPS.get(self.effect, (_COMMANDS, (state,)))
            if state not in before or after not in allowed:
                raise LocalProtocolError(
                    f"{self.name}: {self.effect.name} cannot lead from {state.name} to {after.name}; it leads from"
                    f" {' or '.join(each.name for each in before)} to {' or '.join(each.name for each in allowed)}"
                )

    def is_multi_line(self, command: C) -> bool:
        """Return whether lines and a final dot follow a positive reply to *command*."""
        return self.multi_line(command) if callable(self.multi_line) else self.multi_line

    def check_lines(self, command: C, reply: Reply) -> None:
        """Raise LocalProtocolError if a client would not find the end of *reply*, a positive reply to *command*."""
        self._check_lines(reply, self.is_multi_line(command))

    def _check_lines(self, reply: Reply, multi_line: bool) -> None:
        expected = multi_line and self.lines is None and self.effect is not Effect.SEND_MESSAGE
        if expected and reply.lines is None:
            raise LocalProtocolError(f"a positive reply to {self.name} needs lines: the row is multi_line; pass ()")
        if reply.lines is not None and not expected:
            raise LocalProtocolError(f"a positive reply to {self.name} must have no lines; set multi_line in its row")


S = State
_BEFORE: Final = (S.AUTHORIZATION, S.USER_GIVEN)


def _check_number(view: View, command: List | Uidl | Dele | Retrieve) -> Reply | None:
    return None if command.number is None else view.maildrop.missing(command.number)


def _check_utf8(view: View, utf8: Utf8) -> Reply | None:
    return None if view.settings.utf8 else _standard_replies.NO_UTF8


def _check_stls(view: View, stls: Stls) -> Reply | None:
    if view.tls is not None:
        return _standard_replies.TLS_ACTIVE
    if view.utf8_mode:
        return _standard_replies.NO_TLS_AFTER_UTF8
    return None if view.settings.stls else _standard_replies.NO_TLS


def _check_user(view: View, user: User) -> Reply | None:
    """Reject USER, so that the client does not send PASS."""
    return None if view.settings.offers("USER", view.tls) else _standard_replies.NO_MECHANISM


def _check_apop(view: View, apop: Apop) -> Reply | None:
    offered = view.has_timestamp and view.settings.offers("APOP", view.tls)
    return None if offered else _standard_replies.NO_MECHANISM


def _check_auth(view: View, auth: Auth) -> Reply | None:
    offered = auth.mechanism is None or auth.mechanism in view.settings.offered(view.tls)
    return None if offered else _standard_replies.NO_MECHANISM


def _capa_reply(view: View, capa: Capa) -> bytes:
    return view.settings.capa_reply(view.tls, logged_in=view.state is S.TRANSACTION)


def _mechanisms_reply(view: View, auth: Auth) -> Reply:
    return Reply(True, "", "mechanisms follow", view.settings.offered(view.tls))


def _stat_reply(view: View, stat: Stat) -> bytes:
    return b"+OK " + view.maildrop.drop_listing()


def _list_reply(view: View, command: List) -> bytes:
    maildrop = view.maildrop
    if command.number is not None:
        return b"+OK " + maildrop.scan_listing(command.number)
    return b"+OK %d messages (%d octets)\r\n" % (maildrop.count, maildrop.size)


def _uidl_reply(view: View, uidl: Uidl) -> bytes:
    if uidl.number is not None:
        return b"+OK " + view.maildrop.unique_id_listing(uidl.number)
    return b"+OK unique-ids follow\r\n"


def _list_lines(view: View) -> Lines:
    return ListingSender(view.maildrop, view.maildrop.scan_listing)


def _uidl_lines(view: View) -> Lines:
    return ListingSender(view.maildrop, view.maildrop.unique_id_listing)


def _dele_reply(view: View, dele: Dele) -> bytes:
    return b"+OK message %d deleted\r\n" % dele.number


def maildrop_reply(view: View, command: object) -> bytes:
    """Return the positive reply to a login and to RSET, which describes the maildrop."""
    return b"+OK maildrop has %d messages (%d octets)\r\n" % (view.maildrop.count, view.maildrop.size)


def _about_all(command: List | Uidl) -> bool:
    return command.number is None


def _offer_user(settings: ServerSettings, tls: Tls | None, logged_in: bool) -> str | None:
    return "USER" if settings.offers("USER", tls) else None


def _offer_auth(settings: ServerSettings, tls: Tls | None, logged_in: bool) -> str | None:
    offered = settings.offered(tls)
    return f"SASL {' '.join(offered)}" if offered else None


def _offer_stls(settings: ServerSettings, tls: Tls | None, logged_in: bool) -> str | None:
    return "STLS" if settings.stls and tls is None and not logged_in else None  # only in AUTHORIZATION


def _offer_utf8(settings: ServerSettings, tls: Tls | None, logged_in: bool) -> str | None:
    named = settings.offers("USER", tls) or settings.offers("APOP", tls)
    return None if not settings.utf8 else "UTF8 USER" if named else "UTF8"


VERBS: Final[tuple[Verb[Any], ...]] = (
    Verb(
        "CAPA", kind=Capa, parse=Capa.parse, states={state: state for state in (*_BEFORE, S.TRANSACTION)},
        accepted=_capa_reply, multi_line=True,
    ),
    Verb(
        "USER", kind=User, parse=User.parse,
        states=dict.fromkeys(_BEFORE, S.USER_GIVEN),  # in USER_GIVEN, a second USER replaces the first
        accepted=_standard_replies.PASSWORD_REQUIRED,  # for every name (RFC 1939 section 13)
        effect=Effect.BEGIN_LOGIN, check=_check_user, capability=_offer_user,
    ),
    Verb(
        "PASS", kind=Pass, parse=Pass.parse, states={S.USER_GIVEN: S.TRANSACTION}, accepted=maildrop_reply,
        effect=Effect.CONTINUE_LOGIN, secret=True,
    ),
    Verb(
        "APOP", kind=Apop, parse=Apop.parse, states={S.AUTHORIZATION: S.TRANSACTION}, accepted=maildrop_reply,
        effect=Effect.BEGIN_LOGIN, check=_check_apop, secret=True,
    ),
    Verb(
        "AUTH", kind=Auth, parse=Auth.parse, states={S.AUTHORIZATION: S.AUTH},
        multi_line=lambda auth: auth.mechanism is None,
        accepted=_mechanisms_reply,  # to AUTH without a mechanism; a login has no reply until the maildrop is open
        effect=Effect.BEGIN_LOGIN, check=_check_auth, capability=_offer_auth, secret=True,
    ),
    Verb(
        "STLS", kind=Stls, parse=Stls.parse,
        states={S.AUTHORIZATION: S.TLS},  # in no other state (RFC 2595 section 4)
        accepted=Reply(True, "", "begin TLS negotiation"), effect=Effect.BEGIN_TLS, check=_check_stls,
        capability=_offer_stls, asks=True, unavailable=_standard_replies.TLS_UNAVAILABLE,
    ),
    Verb(
        "UTF8", kind=Utf8, parse=Utf8.parse,
        states={S.AUTHORIZATION: S.AUTHORIZATION},  # only before the login (RFC 6856 section 2.1)
        accepted=Reply(True, "", "UTF8 enabled"), effect=Effect.ENABLE_UTF8, check=_check_utf8, capability=_offer_utf8,
    ),
    Verb("STAT", kind=Stat, parse=Stat.parse, states=_IN_TRANSACTION, accepted=_stat_reply),
    Verb(
        "LIST", kind=List, parse=List.parse, states=_IN_TRANSACTION, accepted=_list_reply, check=_check_number,
        multi_line=_about_all, lines=_list_lines,
    ),
    Verb(
        "RETR", kind=Retrieve, parse=Retrieve.parse, states=_IN_TRANSACTION,
        accepted=_standard_replies.MESSAGE_FOLLOWS, effect=Effect.SEND_MESSAGE, check=_check_number, asks=True,
        unavailable=_standard_replies.MESSAGE_UNAVAILABLE,
    ),
    Verb(
        "TOP", kind=Retrieve, parse=Retrieve.parse_top, states=_IN_TRANSACTION,
        accepted=_standard_replies.MESSAGE_FOLLOWS, effect=Effect.SEND_MESSAGE, check=_check_number,
        capability="TOP", asks=True, unavailable=_standard_replies.MESSAGE_UNAVAILABLE,
    ),
    Verb(
        "UIDL", kind=Uidl, parse=Uidl.parse, states=_IN_TRANSACTION, accepted=_uidl_reply, check=_check_number,
        multi_line=_about_all, lines=_uidl_lines, capability="UIDL",
    ),
    Verb(
        "DELE", kind=Dele, parse=Dele.parse, states=_IN_TRANSACTION, accepted=_dele_reply,
        effect=Effect.MARK_DELETED, check=_check_number,
    ),
    Verb(
        "RSET", kind=Rset, parse=Rset.parse, states=_IN_TRANSACTION, accepted=maildrop_reply,
        effect=Effect.UNMARK_ALL,
    ),
    Verb("NOOP", kind=Noop, parse=Noop.parse, states=_IN_TRANSACTION, accepted=_standard_replies.NOOP),
    Verb(
        "QUIT", kind=Quit, parse=Quit.parse, states={**dict.fromkeys(_BEFORE, S.CLOSED), S.TRANSACTION: S.UPDATE},
        accepted=_standard_replies.GOODBYE, effect=Effect.CLOSE,
    ),
)  # fmt: skip
"""The verbs of this library."""

GENERIC: Final = Verb(
    "GENERIC", kind=GenericCommand, parse=lambda argument: GenericCommand(verb="GENERIC"),
    states={state: state for state in (S.AUTHORIZATION, S.TRANSACTION)}, accepted=_standard_replies.NOOP,
    multi_line=lambda command: command.multi_line,
)  # fmt: skip
"""The row of the commands without a class, for a client."""

ROWS: Final[Mapping[str, Verb[Any]]] = MappingProxyType({row.name: row for row in VERBS})
"""The verbs of this library by name."""


def by_name(added: tuple[Verb[Any], ...]) -> Mapping[str, Verb[Any]]:
    """Return the rows of this library by name, with *added* in addition or instead."""
    return MappingProxyType({**ROWS, **{row.name: row for row in added}})


TRANSITIONS: Final[Mapping[tuple[State, str], State]] = MappingProxyType(
    {(state, row.name): after for row in VERBS for state, after in row.states.items()}
)
"""Maps (state, verb) to the state after a positive reply: the commands allowed in each state, on both sides."""
