"""Which logins count as failed and which as errors, in both servers: the work for logins is limited per connection."""

from __future__ import annotations

from typing import Any

import pytest

from mailauth import ACCEPT, Closed, CloseReason, NeedData, Question, Send, ServerMachine, Tls, pop3, sasl, smtp

TLS = Tls(version="TLSv1.3", peer_certificate={"serialNumber": "01"})
DECOY = sasl.ScramDecoy(key=bytes(16))
LIGATURE = "\ufdfa".encode()
"""The character that SASLprep expands most: from 3 bytes to 33."""
PROHIBITED = "a\u200e".encode()
TOKEN = b"\x01auth=Bearer t\x01\x01"
SCRAM_FIRST = b"n,,n=alice,r=x"


def b64(data: bytes) -> bytes:
    return sasl.encode_base64(data)


GOOD = (b"AUTH PLAIN", b64(b"\0alice\0wonderland"))

FAILED_LOGINS: dict[str, tuple[bytes, ...]] = {
    "PLAIN, a wrong password": (b"AUTH PLAIN", b64(b"\0alice\0x")),
    "PLAIN, a name that grows too long": (b"AUTH PLAIN", b64(b"\0" + LIGATURE * 85 + b"\0x")),
    "PLAIN, a prohibited name": (b"AUTH PLAIN", b64(b"\0" + PROHIBITED + b"\0x")),
    "PLAIN, a name that is not UTF-8": (b"AUTH PLAIN", b64(b"\0\xff\0x")),
    "PLAIN, another that grows too long": (b"AUTH PLAIN", b64(LIGATURE * 85 + b"\0alice\0wonderland")),
    "PLAIN, a password that grows too long": (b"AUTH PLAIN", b64(b"\0alice\0" + LIGATURE * 341)),
    "PLAIN, a password that is too long": (b"AUTH PLAIN", b64(b"\0alice\0" + b"x" * 1025)),
    "PLAIN, a prohibited password": (b"AUTH PLAIN", b64(b"\0alice\0" + PROHIBITED)),
    "PLAIN, another form": (b"AUTH PLAIN", b64(b"alice")),
    "LOGIN, a wrong password": (b"AUTH LOGIN", b64(b"alice"), b64(b"x")),
    "LOGIN, a name that is too long": (b"AUTH LOGIN", b64(b"x" * 256)),
    "LOGIN, a password that is too long": (b"AUTH LOGIN", b64(b"alice"), b64(b"x" * 1025)),
    "CRAM-MD5, a wrong digest": (b"AUTH CRAM-MD5", b64(b"alice " + b"0" * 32)),
    "CRAM-MD5, another form": (b"AUTH CRAM-MD5", b64(b"alice 0")),
    "SCRAM, a name that grows too long": (b"AUTH SCRAM-SHA-256", b64(b"n,,n=" + LIGATURE * 85 + b",r=x")),
    "SCRAM, a prohibited name": (b"AUTH SCRAM-SHA-1", b64(b"n,a=" + PROHIBITED + b",n=alice,r=x")),
    "SCRAM, another form after the salt": (b"AUTH SCRAM-SHA-256", b64(SCRAM_FIRST), b64(b"c=biws")),
    "SCRAM, cancelled after the salt": (b"AUTH SCRAM-SHA-256", b64(SCRAM_FIRST), b"*"),
    "SCRAM, not base64 after the salt": (b"AUTH SCRAM-SHA-256", b64(SCRAM_FIRST), b"!"),
    "SCRAM, too long after the salt": (b"AUTH SCRAM-SHA-256", b64(SCRAM_FIRST), b"x" * 12_289),
    "OAUTHBEARER, a wrong token": (b"AUTH OAUTHBEARER", b64(b"n,," + TOKEN), b64(b"\x01")),
    "OAUTHBEARER, a wrong token, then cancelled": (b"AUTH OAUTHBEARER", b64(b"n,," + TOKEN), b"*"),
    "OAUTHBEARER, a name that grows too long": (b"AUTH OAUTHBEARER", b64(b"n,a=" + LIGATURE * 85 + b"," + TOKEN)),
    "XOAUTH2, a wrong token, then cancelled": (b"AUTH XOAUTH2", b64(b"user=alice" + TOKEN), b"*"),
    "XOAUTH2, a prohibited name": (b"AUTH XOAUTH2", b64(b"user=" + PROHIBITED + TOKEN)),
    "EXTERNAL, a name that grows too long": (b"AUTH EXTERNAL", b64(LIGATURE * 85)),
    "EXTERNAL, a prohibited name": (b"AUTH EXTERNAL", b64(PROHIBITED)),
}
"""With AUTH of either protocol."""

FAILED_LOGINS_BY_POP3: dict[str, tuple[bytes, ...]] = {
    "USER, a wrong password": (b"USER alice", b"PASS x"),
    "USER, a name that grows too long": (b"USER " + LIGATURE * 80, b"PASS wonderland"),
    "USER, a prohibited name": (b"USER " + PROHIBITED, b"PASS wonderland"),
    "PASS, a password that is not UTF-8": (b"USER alice", b"PASS \xff"),
    "PASS, a prohibited password": (b"USER alice", b"PASS " + PROHIBITED),
    "APOP, a wrong digest": (b"APOP alice " + b"0" * 32,),
    "APOP, a name that grows too long": (b"APOP " + LIGATURE * 60 + b" " + b"0" * 32,),
    "APOP, another form": (b"APOP alice",),
}

ERRORS: dict[str, tuple[bytes, ...]] = {
    "cancelled": (b"AUTH PLAIN", b"*"),
    "cancelled after the name": (b"AUTH LOGIN", b64(b"alice"), b"*"),
    "cancelled after the challenge": (b"AUTH CRAM-MD5", b"*"),
    "not base64": (b"AUTH PLAIN", b"!"),
    "too long": (b"AUTH PLAIN", b"x" * 12_289),
    "an initial response that must not be": (b"AUTH CRAM-MD5 " + b64(b"alice"),),
}
"""Exchanges that have caused no work yet."""


class Session:
    """A server of either protocol, inside TLS, and an application with an account alice."""

    def __init__(self, protocol: str, *, errors: int = 20) -> None:
        self.machine: ServerMachine[Any]
        if protocol == "smtp":
            self.machine = smtp.ServerConnection(
                smtp.ServerSettings(mechanisms=sasl.ALL_MECHANISMS, scram_decoy=DECOY, max_errors=errors),
                entropy=bytes(32), tls=TLS,
            )  # fmt: skip
        else:
            self.machine = pop3.ServerConnection(
                pop3.ServerSettings(mechanisms=pop3.ALL_MECHANISMS, scram_decoy=DECOY, max_errors=errors),
                entropy=bytes(32), tls=TLS,
            )  # fmt: skip
        self.instead: dict[type[object], object] = {}
        self.closed: Closed | None = None
        if protocol == "smtp":
            self.say(b"EHLO c")

    def say(self, *lines: bytes) -> bytes:
        """Return the replies to *lines*."""
        replies = self._pull()
        if self.closed is None:
            self.machine.receive_data(b"".join(line + b"\r\n" for line in lines))
            replies = self._pull()
        return replies

    def _pull(self) -> bytes:
        replies = b""
        while True:
            match self.machine.next_event():
                case Send(data=data):
                    replies += data
                case NeedData():
                    return replies
                case Closed() as closed:
                    self.closed = closed
                    return replies
                case Question() as question:
                    self.machine.answer(question, self.instead.get(type(question)) or self._answer(question))

    def _answer(self, question: Question[Any]) -> object:
        match question:
            case sasl.CheckPassword(authentication_identity="alice", password=b"wonderland"):
                return ACCEPT
            case sasl.FetchScramKeys():
                return sasl.scram_keys(b"wonderland", b"salt", 4096, question.hash_name)
            case sasl.FetchSecret():
                return None
            case sasl.CheckPassword() | sasl.CheckToken() | sasl.CheckExternal():
                return sasl.Refusal.BAD_CREDENTIALS
            case pop3.OpenMaildrop():
                return pop3.Maildrop()
            case _:
                return ACCEPT

    @property
    def identity(self) -> str | None:
        return self.machine.identity


FAILED = [
    pytest.param(protocol, lines, id=f"{protocol}: {name}")
    for protocol, logins in (("smtp", FAILED_LOGINS), ("pop3", FAILED_LOGINS), ("pop3", FAILED_LOGINS_BY_POP3))
    for name, lines in logins.items()
]


@pytest.mark.parametrize(("protocol", "lines"), FAILED)
def test_the_third_failed_login_ends_the_session(protocol: str, lines: tuple[bytes, ...]) -> None:
    """RFC 4954 section 9: at least three attempts; whether the name or password can be prepared makes no difference."""
    session = Session(protocol)
    session.say(*lines)
    session.say(*lines)
    assert session.closed is None
    session.say(*lines)
    assert session.closed == Closed(reason=CloseReason.TOO_MANY_ERRORS)


@pytest.mark.parametrize(("protocol", "lines"), FAILED)
def test_a_login_after_two_failures_succeeds(protocol: str, lines: tuple[bytes, ...]) -> None:
    session = Session(protocol)
    session.say(*lines)
    session.say(*lines)
    session.say(*GOOD)
    assert session.identity == "alice"


@pytest.mark.parametrize(
    ("protocol", "failed", "last"),
    [
        (
            "smtp",
            b"334 \r\n501 5.5.2 malformed authentication response\r\n",
            b"421 4.7.0 too many authentication failures\r\n",
        ),
        ("pop3", b"+ \r\n-ERR malformed authentication response\r\n", b""),
    ],
)
def test_only_smtp_reports_too_many_failed_logins(protocol: str, failed: bytes, last: bytes) -> None:
    """RFC 4954 section 9; POP3 has no unsolicited replies.  The fourth login is not answered."""
    session = Session(protocol)
    assert session.say(*FAILED_LOGINS["PLAIN, a prohibited name"] * 4) == failed * 3 + last
    assert session.closed == Closed(reason=CloseReason.TOO_MANY_ERRORS)


@pytest.mark.parametrize("lines", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("protocol", ["smtp", "pop3"])
def test_exchange_that_fails_before_any_work_counts_as_an_error(protocol: str, lines: tuple[bytes, ...]) -> None:
    """Errors have a separate, larger limit."""
    session = Session(protocol, errors=5)
    for _ in range(4):
        session.say(*lines)
    assert session.closed is None
    session.say(*lines)
    assert session.closed == Closed(reason=CloseReason.TOO_MANY_ERRORS)


def test_repeated_user_commands_count_as_errors() -> None:
    """SASLprep runs for each name.  The first USER is not an error, and the last reply has the reason for the end."""
    session = Session("pop3", errors=5)
    for _ in range(5):
        assert session.say(b"USER " + LIGATURE * 80).startswith(b"+OK ")
    assert session.closed is None
    assert session.say(b"USER alice") == b"-ERR too many errors, closing connection\r\n"
    assert session.closed == Closed(reason=CloseReason.TOO_MANY_ERRORS)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (sasl.CheckPassword, sasl.Refusal.TEMPORARY),
        (pop3.OpenMaildrop, pop3.Unavailable.IN_USE),
        (pop3.OpenMaildrop, pop3.Unavailable.TEMPORARY),
    ],
)
def test_temporary_login_failures_count_as_errors_in_pop3(question: type[object], answer: object) -> None:
    """It is not a failed login, since the client may try again, but its password may have been hashed."""
    session = Session("pop3", errors=5)
    session.instead[question] = answer
    for _ in range(4):
        assert b"-ERR [" in session.say(*GOOD)
    assert session.closed is None
    session.say(*GOOD)
    assert session.closed == Closed(reason=CloseReason.TOO_MANY_ERRORS)


def test_temporary_login_failures_count_as_junk_commands_in_smtp() -> None:
    """It counts as a junk command."""
    session = Session("smtp")
    session.instead[sasl.CheckPassword] = sasl.Refusal.TEMPORARY
    for _ in range(smtp.ServerSettings().max_junk_commands):
        session.say(*GOOD)
    assert session.closed == Closed(reason=CloseReason.TOO_MANY_ERRORS)
