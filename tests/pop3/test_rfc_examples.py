"""The examples in the RFCs."""

from __future__ import annotations

import base64

import pytest

from mailauth import BeginTls, Question, TlsStarted, pop3, sasl
from tests.pop3.drive import OPEN, TLS, Application, in_transaction, said, server, talk

A_120 = b"Subject: one\r\n\r\n" + b"x" * 102 + b"\r\n"
A_200 = b"Subject: two\r\n\r\n" + b"y" * 182 + b"\r\n"


def first_lines(data: bytes) -> list[bytes]:
    return data.split(b"\r\n")


def test_stat() -> None:
    """RFC 1939 section 5: the reply to ``STAT`` is ``+OK 2 320``."""
    connection, application = in_transaction(A_120, A_200)
    assert said(talk(connection, application, b"STAT\r\n")) == b"+OK 2 320\r\n"


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"LIST", b"+OK 2 messages (320 octets)\r\n1 120\r\n2 200\r\n.\r\n"),
        (b"LIST 2", b"+OK 2 200\r\n"),
        (b"LIST 3", b"-ERR no such message, only 2 messages in maildrop\r\n"),
    ],
)
def test_list(line: bytes, answer: bytes) -> None:
    """RFC 1939 section 5: the examples of LIST, byte for byte."""
    connection, application = in_transaction(A_120, A_200)
    assert said(talk(connection, application, line + b"\r\n")) == answer


def test_uidl() -> None:
    """RFC 1939 section 7: the examples of UIDL."""
    connection, application = in_transaction()
    messages = (
        pop3.Message(size=120, unique_id="whqtswO00WBw418f9t5JxYwZ"),
        pop3.Message(size=200, unique_id="QhdPYR:00WBw1Ph7x7"),
    )
    application.instead[pop3.OpenMaildrop] = pop3.Maildrop(messages=messages)
    connection = server(tls=TLS)
    talk(connection, application, b"USER alice\r\nPASS wonderland\r\n")
    answer = said(talk(connection, application, b"UIDL\r\n"))
    assert first_lines(answer)[1:] == [b"1 whqtswO00WBw418f9t5JxYwZ", b"2 QhdPYR:00WBw1Ph7x7", b".", b""]
    assert said(talk(connection, application, b"UIDL 2\r\n")) == b"+OK 2 QhdPYR:00WBw1Ph7x7\r\n"
    assert said(talk(connection, application, b"UIDL 3\r\n")).startswith(b"-ERR no such message")


def test_dele_and_rset() -> None:
    """RFC 1939 section 5: a second DELE is an error, and RSET restores both messages."""
    connection, application = in_transaction(A_120, A_200)
    assert said(talk(connection, application, b"DELE 1\r\n")) == b"+OK message 1 deleted\r\n"
    assert said(talk(connection, application, b"DELE 1\r\n")) == b"-ERR message 1 already deleted\r\n"
    assert said(talk(connection, application, b"RSET\r\n")) == b"+OK maildrop has 2 messages (320 octets)\r\n"


def test_example_session_of_rfc_1939() -> None:
    """RFC 1939 section 10 with USER and PASS instead of APOP: the data lines, and the status of each reply."""
    connection, application = in_transaction(A_120, A_200)
    lines = (b"STAT", b"LIST", b"RETR 1", b"DELE 1", b"RETR 2", b"DELE 2", b"QUIT")
    answers = [said(talk(connection, application, line + b"\r\n")) for line in lines]
    assert [answer[:3] for answer in answers] == [b"+OK"] * 7
    assert answers[0] == b"+OK 2 320\r\n"
    assert answers[1].endswith(b"\r\n1 120\r\n2 200\r\n.\r\n")
    assert answers[2].partition(b"\r\n")[2] == A_120 + b".\r\n"
    assert answers[4].partition(b"\r\n")[2] == A_200 + b".\r\n"
    assert application.committed == [frozenset({1, 2})]


def test_apop_digest() -> None:
    """RFC 1939 section 7: the digest of ``tanstaaf`` is c4c9334bac560ecc979e58001b3e22fb; on the client side too."""
    connection = pop3.ClientConnection()
    connection.receive_data(b"+OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>\r\n")
    connection.next_event()
    connection.authenticate(sasl.ApopClient(authentication_identity="mrose", password=b"tanstaaf"))
    assert said([connection.next_event()]) == b"APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\n"


TEST_TEST_TEST = base64.b64encode(b"test\0test\0test")


class KnowsTest(Application):
    def usual(self, question: object) -> object:
        match question:
            case sasl.CheckPassword(authentication_identity="test", password=b"test"):
                return super().usual(
                    sasl.CheckPassword(
                        authentication_identity="alice", password=b"wonderland", mechanism="PLAIN", tls=True
                    )
                )
            case _:
                return super().usual(question)


def test_auth_plain_with_an_initial_response() -> None:
    """RFC 5034 section 4.1: ``AUTH PLAIN dGVzdAB0ZXN0AHRlc3Q=`` with TLS."""
    connection, application = server(), KnowsTest()
    events = talk(connection, application, b"CAPA\r\n", b"STLS\r\n", b"CAPA\r\n")
    assert [type(event) for event in events if isinstance(event, BeginTls | TlsStarted)] == [BeginTls, TlsStarted]
    answer = said(talk(connection, application, b"AUTH PLAIN dGVzdAB0ZXN0AHRlc3Q=\r\n"))
    assert answer.startswith(b"+OK ")
    assert answer.count(b"\r\n") == 1
    assert connection.identity == "test"


def test_auth_plain_with_a_separate_response() -> None:
    """RFC 5034 section 4.1: the empty challenge is a plus sign and a space."""
    connection, application = server(OPEN, TLS), KnowsTest()
    talk(connection, application)
    assert said(talk(connection, application, b"AUTH PLAIN\r\n")) == b"+ \r\n"
    assert said(talk(connection, application, TEST_TEST_TEST + b"\r\n")).startswith(b"+OK ")


def test_stls() -> None:
    """RFC 2595 section 4: STLS is +OK; with TLS, CAPA does not list STLS and a second STLS is -ERR."""
    connection, application = server(), Application()
    talk(connection, application)
    before = said(talk(connection, application, b"CAPA\r\n"))
    said(talk(connection, application, b"STLS\r\n"))
    after = said(talk(connection, application, b"CAPA\r\n"))
    assert (b"\r\nSTLS\r\n" in before, b"\r\nSTLS\r\n" in after) == (True, False)
    assert said(talk(connection, application, b"STLS\r\n")).startswith(b"-ERR ")


def test_in_use() -> None:
    """RFC 2449 section 8.1.2: a maildrop locked by another session is ``-ERR [IN-USE]``."""
    connection, application = server(OPEN, TLS), Application()
    application.instead[pop3.OpenMaildrop] = pop3.Unavailable.IN_USE
    answer = said(talk(connection, application, b"USER alice\r\nPASS wonderland\r\n"))
    assert answer.splitlines()[-1].startswith(b"-ERR [IN-USE] ")
    assert not any(isinstance(event, Question) for event in talk(connection, application, b"STAT\r\n"))
