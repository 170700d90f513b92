"""UTF8 on both sides (RFC 6856): the command, names and passwords, and messages with a non-ASCII header."""

from __future__ import annotations

import hashlib

import attrs
import pytest

from mailauth import LocalProtocolError, Send, pop3, sasl
from tests.pop3.drive import EVERYTHING, OPEN, TLS, Application, ask, client, exchange, pull, said, server, settle, talk

NAME = "j\xf6rg"
LOGIN = b"USER alice\r\nPASS wonderland\r\n"
INTERNATIONAL = "Subject: gr\xfc\xdfe\r\n\r\nbody\r\n".encode()
BODY_ONLY = "Subject: a\r\n\r\ngr\xfc\xdfe\r\n".encode()
REFUSING = attrs.evolve(OPEN, refuse_utf8_headers=True)
WITHOUT = pop3.ServerSettings(mechanisms_without_tls=EVERYTHING, utf8=False)


class Jorg(Application):
    """Has one user, with a prepared name and password."""

    def __init__(self, password: bytes) -> None:
        super().__init__()
        self.asked: list[sasl.CheckPassword | sasl.FetchSecret] = []
        self.password = password

    def usual(self, question: object) -> object:
        if isinstance(question, sasl.CheckPassword | sasl.FetchSecret):
            self.asked.append(question)
            known = question.authentication_identity == NAME
            if isinstance(question, sasl.FetchSecret):
                return self.password if known else None
        return super().usual(question)


# The command


def test_utf8_is_accepted_only_before_login_and_without_argument() -> None:
    """RFC 6856 section 2.1."""
    connection, application = server(OPEN, TLS), Application()
    events = talk(connection, application, b"utf8\r\n")
    assert pop3.Utf8() in events
    assert said(events).splitlines()[-1].startswith(b"+OK")
    assert ask(connection, application, b"UTF8 LANG").startswith(b"-ERR")
    assert ask(connection, application, b"USER alice", b"PASS wonderland").count(b"+OK") == 2
    assert ask(connection, application, b"UTF8").startswith(b"-ERR")


def test_stls_after_utf8_is_rejected() -> None:
    """RFC 6856 section 2.1; UTF8 after STLS is allowed."""
    connection, application = server(), Application()
    settle(connection, application)
    assert ask(connection, application, b"UTF8").startswith(b"+OK")
    assert ask(connection, application, b"STLS").startswith(b"-ERR")
    connection = server()
    settle(connection, application)
    assert ask(connection, application, b"STLS").startswith(b"+OK")
    assert ask(connection, application, b"UTF8").startswith(b"+OK")


def test_disabled_utf8_is_neither_listed_nor_accepted() -> None:
    connection, application = server(WITHOUT), Application(INTERNATIONAL)
    settle(connection, application)
    assert b"UTF8" not in ask(connection, application, b"CAPA")
    assert ask(connection, application, b"UTF8").startswith(b"-ERR")
    talk(connection, application, LOGIN)
    assert ask(connection, application, b"RETR 1").endswith(INTERNATIONAL + b".\r\n")


@pytest.mark.parametrize(
    ("mechanisms", "line"), [(("PLAIN",), b"UTF8"), (("USER",), b"UTF8 USER"), (("APOP", "PLAIN"), b"UTF8 USER")]
)
def test_capa_lists_utf8_user_if_user_or_apop_is_offered(mechanisms: tuple[str, ...], line: bytes) -> None:
    """RFC 6856 section 2.2: ``USER`` is listed if USER or APOP is offered; AUTH does not matter."""
    connection, application = (
        server(pop3.ServerSettings(mechanisms=pop3.DEFAULT_MECHANISMS.only(*mechanisms)), TLS),
        Application(),
    )
    settle(connection, application)
    assert line in ask(connection, application, b"CAPA").split(b"\r\n")


# Messages


@pytest.mark.parametrize("line", [b"RETR 1", b"TOP 1 0", b"TOP 1 9"])
@pytest.mark.parametrize("piece", [12, 13, 20, 1000])
def test_message_with_utf8_header_is_rejected_without_utf8(line: bytes, piece: int) -> None:
    """RFC 6856 sections 2.1 and 5; the session continues, and no error is counted."""
    connection, application = server(REFUSING, TLS), Application(INTERNATIONAL, piece=piece)
    talk(connection, application, LOGIN)
    for _ in range(30):
        assert ask(connection, application, line).startswith(b"-ERR [UTF8] ")
    assert ask(connection, application, b"LIST 1") == b"+OK 1 %d\r\n" % len(INTERNATIONAL)


@pytest.mark.parametrize("piece", [3, 1000])
def test_message_is_sent_unchanged_after_utf8(piece: int) -> None:
    """RFC 6856 section 2.1."""
    connection, application = server(REFUSING, TLS), Application(INTERNATIONAL, piece=piece)
    talk(connection, application, b"UTF8\r\n" + LOGIN)
    assert ask(connection, application, b"RETR 1").endswith(b"\r\n" + INTERNATIONAL + b".\r\n")


@pytest.mark.parametrize("text", [BODY_ONLY, b"\r\n" + INTERNATIONAL, b"Subject: gr\xfcn\r\n\r\n", b"Subject: \xff"])
def test_non_ascii_body_and_non_utf8_header_do_not_require_utf8(text: bytes) -> None:
    """RFC 6856 section 2.1 concerns headers only; a message that begins with a blank line has no header.

    A header in an encoding other than UTF-8 does not require UTF8.
    """
    connection, application = server(REFUSING, TLS), Application(text)
    talk(connection, application, LOGIN)
    assert ask(connection, application, b"RETR 1").partition(b"\r\n")[2].startswith(text)


def test_application_may_reject_retr_with_utf8_response_code() -> None:
    """RFC 6856 section 5."""
    connection, application = server(OPEN, TLS), Application(b"a\r\n")
    talk(connection, application, LOGIN)
    application.instead[pop3.Retrieve] = pop3.Unavailable.UTF8
    assert ask(connection, application, b"RETR 1").startswith(b"-ERR [UTF8] ")


# Names and passwords


def test_user_and_pass_are_prepared_as_utf8() -> None:
    """RFC 6856 section 2.2: a decomposed letter equals the composed one, and a no-break space equals a space."""
    connection, application = server(OPEN, TLS), Jorg(b"")
    talk(connection, application, "USER jo\u0308rg\r\nPASS gr\u00fc\u00dfe\u00a0dich\r\n".encode())
    (question,) = application.asked
    assert isinstance(question, sasl.CheckPassword)
    assert (question.authentication_identity, question.password) == (NAME, "gr\u00fc\u00dfe dich".encode())


NOT_UTF8 = [b"\xff", b"\xc3", b"gr\xfcn"]
PROHIBITED = ["\u0378\u200e".encode(), "a\u0085".encode()]


@pytest.mark.parametrize(
    ("data", "strict"),
    [*((data, True) for data in NOT_UTF8), *((data, s) for data in PROHIBITED for s in (False, True))],
)
def test_invalid_utf8_and_prohibited_characters_are_rejected(data: bytes, strict: bool) -> None:
    """RFC 6856 section 2.2; the reply to USER does not show it, because it is +OK for every name."""
    connection, application = server(attrs.evolve(OPEN, strict_syntax=strict), TLS), Jorg(b"")
    settle(connection, application)
    assert ask(connection, application, b"USER " + data).startswith(b"+OK")
    assert ask(connection, application, b"PASS x").startswith(b"-ERR")
    assert ask(connection, application, b"USER alice", b"PASS " + data).splitlines()[-1].startswith(b"-ERR")
    assert application.asked == []


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("password", NOT_UTF8)
def test_password_that_is_not_utf8_is_passed_on_as_received(password: bytes) -> None:
    """Old clients send Latin-1.  A name is still rejected."""
    connection, application = server(OPEN, TLS), Jorg(b"")
    talk(connection, application, b"USER alice\r\nPASS " + password + b"\r\n")
    (question,) = application.asked
    assert isinstance(question, sasl.CheckPassword)
    assert question.password == password
    assert ask(connection, application, b"USER " + password, b"PASS x").splitlines()[-1].startswith(b"-ERR")
    assert len(application.asked) == 1


def test_server_without_utf8_passes_password_bytes_unchanged() -> None:
    connection, application = server(WITHOUT, TLS), Jorg(b"")
    talk(connection, application, b"USER alice\r\nPASS gr\xfcn\r\n")
    (question,) = application.asked
    assert isinstance(question, sasl.CheckPassword)
    assert question.password == b"gr\xfcn"


def test_apop_uses_prepared_name_and_secret_on_both_sides() -> None:
    """RFC 6856 section 2.2: the name is prepared as a query string, the secret as a stored string."""
    secret = "gr\u00fc\u00dfe dich".encode()
    connection, application = server(), Jorg(secret)
    greeting = said(settle(connection, application))
    timestamp = greeting[greeting.index(b"<") : -2]
    mechanism = sasl.ApopClient(authentication_identity="jo\u0308rg", password="gr\u00fc\u00dfe\u00a0dich".encode())
    mechanism.respond(None)
    argument = mechanism.respond(timestamp)
    assert argument == NAME.encode() + b" " + hashlib.md5(timestamp + secret).hexdigest().encode()
    assert ask(connection, application, b"APOP " + argument).startswith(b"+OK")
    connection = server()
    settle(connection, application)
    assert ask(connection, application, b"APOP " + argument.replace(NAME.encode(), "jo\u0308rg".encode())).startswith(
        b"+OK"
    )


def test_apop_client_rejects_secret_with_prohibited_character() -> None:
    """RFC 4013 section 2.3; a secret in another encoding is not changed."""
    with pytest.raises(LocalProtocolError):
        sasl.ApopClient(authentication_identity="a", password="a\u0085".encode())
    mechanism = sasl.ApopClient(authentication_identity="a", password=b"gr\xfcn")
    mechanism.respond(None)
    assert mechanism.respond(b"<1@x>") == b"a " + hashlib.md5(b"<1@x>gr\xfcn").hexdigest().encode()


# Client


def test_client_sends_utf8_only_before_login() -> None:
    connection = client(tls=TLS)
    command = pop3.Utf8()
    assert exchange(connection, command, b"+OK\r\n") == [pop3.ReplyReceived(command=command, reply=pop3.Reply(True))]
    connection.authenticate(sasl.UserPassClient(authentication_identity="a", password=b"b"))
    pull(connection)
    for _ in range(2):
        connection.receive_data(b"+OK\r\n")
        pull(connection)
    with pytest.raises(LocalProtocolError):
        connection.send(pop3.Utf8())


def test_client_rejects_stls_after_utf8() -> None:
    """RFC 6856 section 2.1."""
    connection = client()
    exchange(connection, pop3.Utf8(), b"+OK\r\n")
    with pytest.raises(LocalProtocolError):
        connection.send(pop3.Stls())


@pytest.mark.parametrize(
    "mechanism",
    [
        sasl.UserPassClient(authentication_identity=NAME, password=b"b"),
        sasl.UserPassClient(authentication_identity="a", password=NAME.encode()),
        sasl.ApopClient(authentication_identity=NAME, password=b"b"),
    ],
)
def test_non_ascii_credentials_require_utf8_user_capability(mechanism: sasl.ClientMechanism) -> None:
    """RFC 6856 section 2.2; another mechanism is used instead."""
    for utf8, allowed in ((b"", False), (b"UTF8\r\n", False), (b"UTF8 USER\r\n", True)):
        connection = pop3.ClientConnection(tls=TLS)
        connection.receive_data(b"+OK hello <1@example.test>\r\n")
        connection.next_event()
        exchange(connection, pop3.Capa(), b"+OK\r\nUSER\r\nSASL PLAIN\r\n" + utf8 + b".\r\n")
        if not allowed:
            with pytest.raises(LocalProtocolError):
                connection.authenticate(mechanism)
        plain = sasl.PlainClient(authentication_identity=NAME, password=b"b")
        connection.authenticate(mechanism) if allowed else connection.authenticate(mechanism, plain)
        (sent,) = pull(connection)
        assert isinstance(sent, Send)
        assert sent.data.startswith((b"USER ", b"APOP ") if allowed else b"AUTH PLAIN ")


def test_client_reads_utf8_response_code() -> None:
    """RFC 6856 section 5."""
    connection = client(tls=TLS)
    connection.authenticate(sasl.UserPassClient(authentication_identity="a", password=b"b"))
    pull(connection)
    for _ in range(2):
        connection.receive_data(b"+OK\r\n")
        pull(connection)
    (replied,) = exchange(connection, pop3.Retrieve(number=1), b"-ERR [UTF8] no\r\n")
    assert isinstance(replied, pop3.ReplyReceived)
    assert replied.reply == pop3.Reply(False, "UTF8", "no")
