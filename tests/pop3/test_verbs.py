"""Verbs from outside: rows that a server or a client adds, or that replace those of the library."""

from __future__ import annotations

import re
from typing import Any, ClassVar

import attrs
import pytest

from mailauth import (
    ACCEPT,
    Accept,
    Closed,
    CloseReason,
    Command,
    ExtensionQuestion,
    LocalProtocolError,
    Malformed,
    MessageChunk,
    Question,
    Send,
    pop3,
)
from mailauth.pop3.commands import NoArgumentCommand, User
from mailauth.pop3.replies import FallibleQuestion
from mailauth.pop3.verbs import ROWS
from tests.pop3.drive import (
    OPEN,
    TLS,
    Application,
    ask,
    client,
    exchange,
    in_transaction,
    refused_locally,
    said,
    server,
    settle,
    talk,
)

TRANSACTION = pop3.State.TRANSACTION
STAYS = {TRANSACTION: TRANSACTION}


@attrs.frozen(kw_only=True)
class Xtnd(NoArgumentCommand, FallibleQuestion[Accept | pop3.Reply]):
    """A command that the application answers."""

    verb: ClassVar[str] = "XTND"


@attrs.frozen(kw_only=True)
class AskedDele(pop3.Dele, FallibleQuestion[Accept | pop3.Reply]):
    """``DELE``, if the application decides which messages may be deleted."""


def no_more_than_two(view: pop3.View, command: Command) -> pop3.Reply | None:
    return pop3.Reply(False, "", "too many messages") if view.maildrop.count > 2 else None


XTND = pop3.Verb(
    "XTND", kind=Xtnd, parse=Xtnd.parse, states=STAYS, accepted=pop3.Reply(True, "", "extended", ()),
    check=no_more_than_two, multi_line=True, capability="XTND 1", asks=True,
)  # fmt: skip
WITH_XTND = attrs.evolve(OPEN, verbs=(XTND,))


def asked(answer: object, *texts: bytes) -> bytes:
    connection, application = in_transaction(*texts, settings=WITH_XTND)
    application.instead[Xtnd] = answer
    return ask(connection, application, b"xtnd", b"NOOP")


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (ACCEPT, b"+OK extended\r\n.\r\n"),
        (pop3.Reply(True, "", "two", ("a", ".b")), b"+OK two\r\na\r\n..b\r\n.\r\n"),
        (pop3.Reply(False, "SYS/PERM", "no"), b"-ERR [SYS/PERM] no\r\n"),
        (pop3.Unavailable.TEMPORARY, b"-ERR [SYS/TEMP] command not available\r\n"),
    ],
)
def test_an_added_verb_is_answered_by_the_application(answer: object, reply: bytes) -> None:
    assert asked(answer) == reply + b"+OK ok\r\n"


@pytest.mark.parametrize("answer", [pop3.Reply(True, "", "no lines"), pop3.Reply(True)])
def test_positive_reply_without_lines_to_multi_line_verb_is_an_error(answer: pop3.Reply) -> None:
    """The client would wait for the final dot."""
    connection, application = in_transaction(settings=WITH_XTND)
    application.instead[Xtnd] = answer
    with pytest.raises(LocalProtocolError, match="needs lines"):
        ask(connection, application, b"XTND")


def test_lines_in_reply_to_single_line_verb_are_an_error() -> None:
    """The client would take them for further replies."""
    row = attrs.evolve(XTND, multi_line=False, accepted=pop3.Reply(True))
    connection, application = in_transaction(settings=attrs.evolve(OPEN, verbs=(row,)))
    application.instead[Xtnd] = pop3.Reply(True, "", "two", ("a", "b"))
    with pytest.raises(LocalProtocolError, match="must have no lines"):
        ask(connection, application, b"XTND")


def test_client_settings_reject_a_command_without_the_verb_of_its_row() -> None:
    class Xtra(Xtnd):
        verb: ClassVar[str] = "XTRA"

    row = attrs.evolve(XTND, kind=Xtra)
    with pytest.raises(LocalProtocolError, match="define verb: ClassVar"):
        pop3.ClientSettings(verbs=(row,))


def test_check_rejects_added_verb_instead_of_the_application() -> None:
    assert asked(None, b"a", b"b", b"c") == b"-ERR too many messages\r\n+OK ok\r\n"


def test_an_added_verb_is_allowed_in_its_states_only_and_listed_by_capa() -> None:
    connection, application = server(WITH_XTND), Application()
    settle(connection, application)
    assert ask(connection, application, b"XTND").startswith(b"-ERR command not valid")
    assert b"\r\nXTND 1\r\n" in ask(connection, application, b"CAPA")
    connection, application = in_transaction()
    assert ask(connection, application, b"XTND") == b"-ERR unknown command\r\n"


@pytest.mark.parametrize("answer", [ACCEPT, pop3.Reply(True, "", "later"), pop3.Unavailable.TEMPORARY])
def test_an_added_verb_may_ask_between_user_and_pass(answer: object) -> None:
    """The answer belongs to the verb, not to the login that has begun."""
    states = {state: state for state in (pop3.State.AUTHORIZATION, pop3.State.USER_GIVEN)}
    row = attrs.evolve(XTND, states=states, multi_line=False, accepted=pop3.Reply(True, "", "later"), check=None)
    connection, application = server(attrs.evolve(OPEN, verbs=(row,))), Application()
    application.instead[Xtnd] = answer
    answered = b"-ERR [SYS/TEMP] " if answer is pop3.Unavailable.TEMPORARY else b"+OK later\r\n"
    assert answered in ask(connection, application, b"USER alice", b"XTND", b"PASS wonderland")
    assert connection.identity == "alice"


def test_added_verb_answer_of_wrong_type_raises_and_stays_open() -> None:
    connection, application = in_transaction(settings=WITH_XTND)
    connection.receive_data(b"XTND\r\n")
    question: object = settle(connection, application, pause_at=Xtnd)[-1]
    assert isinstance(question, Xtnd)
    wrong: Question[Any] = question
    with pytest.raises(LocalProtocolError):
        connection.answer(wrong, pop3.Content(data=b""))
    connection.answer(question, ACCEPT)
    assert said(settle(connection, application)) == b"+OK extended\r\n.\r\n"


def test_stls_question_rejects_reply_as_answer() -> None:
    connection, application = server(), Application()
    settle(connection, application)
    connection.receive_data(b"STLS\r\n")
    question = connection.next_event()
    assert isinstance(question, pop3.Stls)
    wrong: Question[Any] = question
    with pytest.raises(LocalProtocolError):
        connection.answer(wrong, pop3.Reply(True))


class Counted:
    """The numbers 1 to 3, one in each piece."""

    def __init__(self, view: pop3.View) -> None:
        self.number = 0

    @property
    def ended(self) -> bool:
        return self.number == 4

    def next_piece(self) -> bytes:
        self.number += 1
        return b".\r\n" if self.ended else b"%d\r\n" % self.number


def test_an_added_verb_sends_its_lines_piece_by_piece() -> None:
    row = attrs.evolve(ROWS["NOOP"], name="XCNT", multi_line=True, lines=Counted)
    connection, application = in_transaction(settings=attrs.evolve(OPEN, verbs=(row,)))
    assert ask(connection, application, b"XCNT", b"NOOP") == b"+OK ok\r\n1\r\n2\r\n3\r\n.\r\n+OK ok\r\n"


def test_replaced_row_is_used_for_fast_path_commands() -> None:
    row = attrs.evolve(ROWS["DELE"], kind=AskedDele, parse=AskedDele.parse, asks=True)
    connection, application = in_transaction(b"a", b"b", settings=attrs.evolve(OPEN, verbs=(row,)))
    application.instead[AskedDele] = pop3.Reply(False, "", "kept")
    assert ask(connection, application, b"DELE 1", b"STAT") == b"-ERR kept\r\n+OK 2 2\r\n"
    application.instead[AskedDele] = ACCEPT
    assert ask(connection, application, b"DELE 1", b"STAT") == b"+OK message 1 deleted\r\n+OK 1 1\r\n"


def test_a_replaced_retr_is_not_answered_by_the_fast_path() -> None:
    row = attrs.evolve(ROWS["RETR"], accepted=pop3.Reply(True, "", "here it is"))
    connection, application = in_transaction(b"a\r\n", settings=attrs.evolve(OPEN, verbs=(row,)))
    assert ask(connection, application, b"RETR 1") == b"+OK here it is\r\na\r\n.\r\n"


def test_replaced_quit_sends_its_own_reply_after_the_update() -> None:
    row = attrs.evolve(ROWS["QUIT"], accepted=pop3.Reply(True, "", "see you"))
    last = [Send(data=b"+OK see you\r\n"), Closed(reason=CloseReason.QUIT)]
    connection, application = in_transaction(b"a", settings=attrs.evolve(OPEN, verbs=(row,)))
    assert talk(connection, application, b"QUIT\r\n") == [pop3.Quit(), *last]
    connection, application = in_transaction(b"a", settings=attrs.evolve(OPEN, verbs=(row,)))
    ask(connection, application, b"DELE 1")
    update = pop3.Update(deleted=frozenset({1}))
    assert talk(connection, application, b"QUIT\r\n") == [pop3.Quit(deleting=True), update, *last]


def test_a_replaced_user_has_its_own_reply() -> None:
    row = attrs.evolve(ROWS["USER"], accepted=lambda view, user: b"+OK go on\r\n")
    connection, application = server(attrs.evolve(OPEN, verbs=(row,)), TLS), Application()
    settle(connection, application)
    assert ask(connection, application, b"USER alice") == b"+OK go on\r\n"
    assert ask(connection, application, b"PASS wonderland").startswith(b"+OK maildrop")


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "xtnd"},
        {"name": "X TND"},
        {"name": ""},
        {"kind": pop3.Noop},
        {"effect": pop3.Effect.MARK_DELETED},
        {"effect": pop3.Effect.BEGIN_LOGIN},
        {"kind": pop3.Retrieve, "effect": pop3.Effect.SEND_MESSAGE, "asks": False},
        {"lines": Counted, "states": {pop3.State.AUTHORIZATION: pop3.State.AUTHORIZATION}},
        {"accepted": pop3.Reply(False)},
        {"states": {pop3.State.AUTHORIZATION: pop3.State.OPENING}},  # without an identity
        {"states": {TRANSACTION: pop3.State.SENDING}},
        {"states": {TRANSACTION: pop3.State.GREETING}},
        {"states": {pop3.State.GREETING: pop3.State.GREETING}},
        {"effect": pop3.Effect.CLOSE},
        {"effect": pop3.Effect.BEGIN_TLS, "states": {TRANSACTION: pop3.State.TLS}},
        {"effect": pop3.Effect.UNMARK_ALL, "states": {pop3.State.AUTHORIZATION: pop3.State.AUTHORIZATION}},
    ],
)
def test_invalid_row_is_rejected(changes: dict[str, Any]) -> None:
    with pytest.raises(LocalProtocolError):
        attrs.evolve(XTND, **changes)


class Extension(Xtnd, ExtensionQuestion[Accept | pop3.Reply | pop3.Unavailable]): ...


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": b"XTND"}, "name must be a str, not bytes; use .decode()"),
        ({"kind": "Xtnd"}, "kind must be a class derived from Command, not 'Xtnd'"),
        ({"kind": int}, "kind must be a class derived from Command, not <class 'int'>"),
        ({"kind": Extension, "asks": False}, "because asks=False; a Question needs asks=True"),
        ({"kind": pop3.Retrieve, "asks": False}, "because asks=False; a Question needs asks=True"),
        ({"kind": type("Neither", (Command,), {}), "asks": False}, "kind must be derived from ExtensionNotice"),
        ({"parse": None}, "parse must be a function, not None; use a function such as Xtnd.parse"),
        ({"states": [TRANSACTION]}, "states must be a Mapping, not list; use a dict"),
        (
            {"states": {TRANSACTION: 5}},
            "states: must map each State to a State; use {State.TRANSACTION: State.TRANSACTION}",
        ),
        ({"accepted": "ok"}, 'accepted must be a Reply or a function, not str; use Reply(True, "", "ok")'),
        ({"effect": None}, "effect must be an Effect, not None; use a member such as Effect.NONE"),
        ({"check": pop3.Reply(False)}, "check must be a function or None, not Reply; use a function that returns"),
        ({"multi_line": 1}, "multi_line must be a bool or a function, not int; use True or False"),
        ({"lines": ("a",)}, "lines must be a function or None, not tuple; use a function that returns Lines"),
        (
            {"capability": b"XTND"},
            "capability must be a str or a function or None, not bytes; use a line such as 'XTND'",
        ),
        ({"asks": 1}, "asks must be a bool, not int; use True or False"),
        ({"unavailable": pop3.Reply(False)}, "unavailable must be a Mapping, not Reply; use a dict"),
        ({"unavailable": {"IN-USE": pop3.Reply(False)}}, "unavailable: must map each Unavailable to a Reply; use {"),
        (
            {"unavailable": {pop3.Unavailable.UTF8: pop3.Reply(False)}},
            "unavailable must have a negative Reply for each",
        ),
        ({"unavailable": dict.fromkeys(pop3.Unavailable, pop3.Reply(True))}, "unavailable must have a negative Reply"),
        ({"secret": None}, "secret must be a bool, not None; use True or False"),
    ],
)
def test_row_with_a_field_of_the_wrong_type_is_rejected(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(text)):
        attrs.evolve(XTND, **changes)


def test_capability_with_line_end_is_rejected() -> None:
    with pytest.raises(LocalProtocolError):
        attrs.evolve(OPEN, verbs=(attrs.evolve(XTND, capability="X\r\nY"),))


def raising(error: Exception) -> Any:
    def parse(argument: bytes) -> Any:
        raise error

    return parse


@pytest.mark.parametrize(
    ("parse", "text"),
    [
        (raising(Malformed("syntax: XTND number")), b"syntax: XTND number"),
        (raising(Malformed("not\r\n+OK \x1b \u2028" + "x" * 2_000)), b"not??+OK ? ?" + b"x" * 388),
        (raising(Malformed("[IN-USE] x")), b"syntax: [IN-USE] x"),
        (raising(Malformed("")), b"invalid argument"),
        (raising(LocalProtocolError("number must be an int")), b"number must be an int"),
        (raising(ValueError("secret")), b"invalid argument"),
        (lambda argument: Xtnd.parse(argument.decode("ascii").encode()), b"invalid argument"),
        (lambda argument: Xtnd.parse(b"%d" % int(argument)), b"invalid argument"),
    ],
)
def test_invalid_argument_of_an_added_verb_is_err(parse: Any, text: bytes) -> None:
    """As an SMTP server does: a server never raises for what a client sends (architecture.md, invariant 8)."""
    row = attrs.evolve(XTND, parse=parse)
    connection, application = in_transaction(settings=attrs.evolve(OPEN, verbs=(row,)))
    assert ask(connection, application, b"XTND \xff", b"NOOP") == b"-ERR " + text + b"\r\n+OK ok\r\n"


def test_any_other_exception_of_a_parser_reaches_the_caller() -> None:
    """It is a mistake of the author of the row."""
    row = attrs.evolve(XTND, parse=raising(KeyError("planted")))
    connection, application = in_transaction(settings=attrs.evolve(OPEN, verbs=(row,)))
    connection.receive_data(b"XTND\r\n")
    with pytest.raises(KeyError, match="planted"):
        settle(connection, application)


# Client


def logged_in(*rows: pop3.Verb[Any]) -> pop3.ClientConnection:
    connection = client(pop3.ClientSettings(verbs=rows), TLS)
    connection._state = TRANSACTION
    return connection


def test_a_client_sends_an_added_verb_and_reads_its_lines() -> None:
    command = Xtnd()
    events = exchange(logged_in(XTND), command, b"+OK two\r\na\r\n..b\r\n.\r\n")
    assert events == [pop3.ReplyReceived(command=command, reply=pop3.Reply(True, "", "two", ("a", ".b")))]
    assert refused_locally(logged_in(), command)
    assert refused_locally(client(pop3.ClientSettings(verbs=(XTND,))), command)


def test_a_client_does_not_send_login_commands_or_content() -> None:
    for command in (User(argument=b"alice"), MessageChunk(data=b"a")):
        assert refused_locally(client(), command)


def test_client_reads_multi_line_reply_according_to_row() -> None:
    row = attrs.evolve(ROWS["NOOP"], multi_line=True, accepted=pop3.Reply(True, "", "", ()))
    connection = logged_in(row)
    connection.send(pop3.Noop())
    assert isinstance(connection.next_event(), Send)
    connection.receive_data(b"+OK\r\nline\r\n")
    assert is_waiting(connection)
    connection.receive_data(b".\r\n")
    assert connection.next_event() == pop3.ReplyReceived(command=pop3.Noop(), reply=pop3.Reply(True, "", "", ("line",)))


def is_waiting(connection: pop3.ClientConnection) -> bool:
    return not isinstance(connection.next_event(), pop3.ReplyReceived)


def test_added_verb_works_between_server_and_client() -> None:
    connection, application = in_transaction(settings=WITH_XTND)
    application.instead[Xtnd] = pop3.Reply(True, "", "", ("a",))
    reader = logged_in(XTND)
    reader.send(Xtnd())
    sent = reader.next_event()
    assert isinstance(sent, Send)
    reader.receive_data(said(talk(connection, application, sent.data)))
    answered = reader.next_event()
    assert isinstance(answered, pop3.ReplyReceived)
    assert answered.reply.lines == ("a",)
