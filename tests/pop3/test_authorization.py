"""The AUTHORIZATION state of the server: greeting, CAPA, USER and PASS, APOP, AUTH, STLS, and the error limits."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any

import attrs
import pytest

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    CloseReason,
    LocalProtocolError,
    NeedData,
    Paused,
    Question,
    Send,
    Tls,
    TlsStarted,
    pop3,
    sasl,
)
from mailauth.pop3.verbs import ROWS
from tests.pop3.drive import EVERYTHING, OPEN, STRICT, TLS, Application, ask, said, server, settle, talk

PLAIN = base64.b64encode(b"\0alice\0wonderland")
WRONG = base64.b64encode(b"\0alice\0looking-glass")
TIMESTAMP = re.compile(rb"<[A-Za-z0-9.-]+@[A-Za-z0-9.-]+>")


def greeting(settings: pop3.ServerSettings, tls: Tls | None = None) -> bytes:
    return said(settle(server(settings, tls), Application()))


def greeted(
    settings: pop3.ServerSettings = OPEN, tls: Tls | None = None
) -> tuple[pop3.ServerConnection, Application, bytes]:
    connection, application = server(settings, tls), Application()
    return connection, application, said(settle(connection, application))


def apop(line: bytes, secret: bytes = b"wonderland", name: bytes = b"alice") -> bytes:
    found = TIMESTAMP.search(line)
    assert found is not None
    return b"APOP " + name + b" " + hashlib.md5(found.group() + secret).hexdigest().encode()


# The greeting


def test_greeting_is_not_sent_before_connection_is_accepted() -> None:
    connection = server()
    question = connection.next_event()
    assert isinstance(question, pop3.Connected)
    assert isinstance(connection.next_event(), Paused)
    connection.answer(question, ACCEPT)
    assert isinstance(connection.next_event(), Send)


def test_rejected_connection_gets_err_and_is_closed() -> None:
    connection, application = server(), Application()
    application.instead[pop3.Connected] = pop3.Unavailable.TEMPORARY
    events = settle(connection, application)
    assert said(events).startswith(b"-ERR [SYS/TEMP] ")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_greeting_ends_with_its_only_timestamp() -> None:
    """RFC 1939 section 7, APOP: only letters, digits, dots and hyphens, because clients reject other characters."""
    line = greeting(OPEN)
    found = TIMESTAMP.findall(line)
    assert len(found) == 1
    assert line.endswith(found[0] + b"\r\n")
    assert line.count(b"<") == line.count(b">") == line.count(b"@") == 1
    assert len(line) <= 512


@pytest.mark.parametrize(
    "host_name", ["[192.0.2.1]", "[IPv6:2001:db8::1]", "under_score.example", "localhost", "a" * 255]
)
def test_any_host_name_gives_a_valid_timestamp(host_name: str) -> None:
    settings = pop3.ServerSettings(host_name=host_name, mechanisms_without_tls=EVERYTHING)
    connection, application, line = greeted(settings)
    assert len(TIMESTAMP.findall(line)) == 1
    assert ask(connection, application, apop(line)).startswith(b"+OK ")
    assert len(line) <= 512


@pytest.mark.parametrize("host_name", ["", "a b", "a<b", "a>", "a\r\n", "caf\xe9", "a" * 400])
def test_host_name_invalid_in_timestamp_is_rejected(host_name: str) -> None:
    with pytest.raises(LocalProtocolError):
        pop3.ServerSettings(host_name=host_name)


def test_greeting_differs_by_entropy_and_is_reproducible() -> None:
    first = pop3.ServerConnection(OPEN, entropy=bytes(32))
    second = pop3.ServerConnection(OPEN, entropy=bytes([1]) * 32)
    again = pop3.ServerConnection(OPEN, entropy=bytes(32))
    lines = [said(settle(connection, Application())) for connection in (first, second, again)]
    assert lines[0] != lines[1]
    assert lines[0] == lines[2]


@pytest.mark.parametrize(
    ("settings", "tls", "offered"),
    [
        (STRICT, None, False),
        (STRICT, TLS, True),
        (OPEN, None, True),
        (pop3.ServerSettings(mechanisms_without_tls=frozenset({"USER"})), None, False),
        (pop3.ServerSettings(mechanisms=pop3.DEFAULT_MECHANISMS.only("USER", "PLAIN")), TLS, False),
    ],
)
def test_greeting_has_timestamp_only_if_apop_is_offered(
    settings: pop3.ServerSettings, tls: Tls | None, offered: bool
) -> None:
    """architecture.md, invariant 3: only if APOP is offered."""
    assert (TIMESTAMP.search(greeting(settings, tls)) is not None) == offered


# CAPA


def capabilities(connection: pop3.ServerConnection, application: Application) -> list[str]:
    lines = ask(connection, application, b"CAPA").decode().split("\r\n")
    assert lines[0].startswith("+OK")
    assert lines[-2:] == [".", ""]
    return lines[1:-2]


ALWAYS = ["TOP", "UIDL", "RESP-CODES", "AUTH-RESP-CODE", "PIPELINING"]


def test_capa_without_tls_lists_neither_user_nor_sasl() -> None:
    """RFC 2449 section 6: by default neither USER nor SASL is listed without TLS."""
    connection, application, _ = greeted(STRICT)
    assert capabilities(connection, application) == [*ALWAYS, "STLS", "UTF8", "IMPLEMENTATION mailauth"]


def test_capa_with_tls_lists_user_and_sasl_but_not_stls() -> None:
    connection, application, _ = greeted(STRICT, TLS)
    assert capabilities(connection, application) == [
        *(*ALWAYS, "USER", "SASL PLAIN LOGIN CRAM-MD5", "UTF8 USER", "IMPLEMENTATION mailauth")
    ]


def test_capa_in_transaction_has_no_stls() -> None:
    """RFC 2595 section 4: STLS is listed only in AUTHORIZATION."""
    connection, application, _ = greeted()
    assert "STLS" in capabilities(connection, application)
    ask(connection, application, b"AUTH PLAIN " + PLAIN)
    assert "STLS" not in capabilities(connection, application)
    assert "USER" in capabilities(connection, application)


BINDING = {"tls-server-end-point": b"x"}
CERTIFICATE = {"serialNumber": "01"}


@pytest.mark.parametrize(
    ("tls", "offered"),
    [
        (None, "PLAIN"),
        (Tls(version="TLSv1.3"), "PLAIN"),
        (Tls(version="TLSv1.3", channel_bindings=BINDING), "SCRAM-SHA-256-PLUS PLAIN"),
        (Tls(version="TLSv1.3", peer_certificate=CERTIFICATE), "EXTERNAL PLAIN"),
        (
            Tls(version="TLSv1.3", channel_bindings=BINDING, peer_certificate=CERTIFICATE),
            "SCRAM-SHA-256-PLUS EXTERNAL PLAIN",
        ),
    ],
)
def test_capa_reply_is_cached_for_each_kind_of_connection(tls: Tls | None, offered: str) -> None:
    """A client may request it often.  Connections that differ get different lists, even with the same settings."""
    settings = pop3.ServerSettings(
        mechanisms=pop3.ALL_MECHANISMS.only("SCRAM-SHA-256-PLUS", "EXTERNAL", "PLAIN"),
        mechanisms_without_tls=frozenset({"PLAIN"}),
        scram_decoy=sasl.ScramDecoy(key=bytes(16)),
        stls=True,
    )
    others = [None, Tls(version="TLSv1.3", channel_bindings=BINDING, peer_certificate=CERTIFICATE)]
    for other in (*others, tls):
        settings.capa_reply(other, logged_in=False)
    first = settings.capa_reply(tls, logged_in=False)
    assert f"\r\nSASL {offered}\r\n".encode() in first
    assert (b"\r\nSTLS\r\n" in first) == (tls is None)
    assert b"STLS" not in settings.capa_reply(tls, logged_in=True)
    assert settings.capa_reply(tls, logged_in=False) is first
    assert settings.offered(tls) == tuple(offered.split(" "))


def test_capa_lists_only_configured_capabilities() -> None:
    settings = pop3.ServerSettings(
        mechanisms=pop3.DEFAULT_MECHANISMS.only("PLAIN"),
        mechanisms_without_tls=frozenset({"PLAIN", "USER"}),
        implementation="",
        utf8=False,
    )
    connection, application, _ = greeted(settings)
    assert capabilities(connection, application) == [*ALWAYS, "SASL PLAIN"]


# USER and PASS


def test_login_opens_maildrop_after_authentication_and_before_ok() -> None:
    """So that a grant can be made before +OK is sent."""
    connection, application, _ = greeted()
    connection.receive_data(b"USER alice\r\nPASS wonderland\r\n")
    events = settle(connection, application)
    kinds = [type(event) for event in events]
    assert kinds == [*(sasl.AuthenticationStarted, sasl.CheckPassword, sasl.Authenticated, pop3.OpenMaildrop, Send)]
    assert said(events) == b"+OK password required\r\n+OK maildrop has 0 messages (0 octets)\r\n"
    assert connection.identity == "alice"


def test_user_is_ok_for_every_name() -> None:
    """RFC 1939 section 13: -ERR would reveal which names exist."""
    answers = set()
    for name in (b"alice", b"nobody", b"\xff\xfe", b"with blanks inside", b"x" * 240):
        connection, application, _ = greeted()
        answers.add(ask(connection, application, b"USER " + name))
    assert answers == {b"+OK password required\r\n"}


def test_user_is_rejected_without_tls_by_default() -> None:
    """architecture.md, invariant 3: the client then does not send PASS."""
    connection, application, _ = greeted(STRICT)
    events = talk(connection, application, b"USER alice\r\n")
    assert said(events).startswith(b"-ERR ")
    assert [type(event) for event in events] == [pop3.CommandRejected, Send]
    assert ask(connection, application, b"PASS wonderland").startswith(b"-ERR ")


def test_password_may_contain_spaces() -> None:
    connection, application, _ = greeted()
    connection.receive_data(b"USER alice\r\nPASS  a b \r\n")
    asked = [event for event in settle(connection, application) if isinstance(event, sasl.CheckPassword)]
    assert [question.password for question in asked] == [b" a b "]


def test_wrong_name_and_wrong_password_get_same_reply() -> None:
    """RFC 3206 section 4: ``[AUTH]``; the session is in AUTHORIZATION again."""
    answers = []
    for name, password in ((b"alice", b"x"), (b"nobody", b"wonderland"), (b"\xff", b"wonderland")):
        connection, application, _ = greeted()
        answers.append(ask(connection, application, b"USER " + name, b"PASS " + password))
        assert connection.identity is None
        assert ask(connection, application, b"STAT").startswith(b"-ERR ")
    assert set(answers) == {b"+OK password required\r\n-ERR [AUTH] authentication failed\r\n"}


def test_pass_without_user_is_rejected() -> None:
    """RFC 1939 section 7."""
    connection, application, _ = greeted()
    assert ask(connection, application, b"PASS wonderland").startswith(b"-ERR ")


def test_second_user_command_replaces_the_first() -> None:
    connection, application, _ = greeted()
    events = talk(connection, application, b"USER bob\r\nUSER alice\r\nPASS wonderland\r\n")
    failed = [event for event in events if isinstance(event, sasl.AuthenticationFailed)]
    assert [(event.authentication_identity, event.reason) for event in failed] == [("bob", sasl.Fault.CANCELLED)]
    assert connection.identity == "alice"


@pytest.mark.parametrize("verb", sorted(ROWS))
def test_only_user_pass_capa_and_quit_are_allowed_after_user(verb: str) -> None:
    """The other commands are rejected and change nothing: PASS still logs in."""
    lines = {"AUTH": b"AUTH PLAIN", "APOP": b"APOP a b", "USER": b"USER alice", "PASS": b"PASS wonderland"}
    connection, application, _ = greeted()
    ask(connection, application, b"USER alice")
    arguments = {"TOP": b" 1 0", "RETR": b" 1", "DELE": b" 1"}
    reply = ask(connection, application, lines.get(verb, verb.encode() + arguments.get(verb, b"")))
    allowed = verb in ("USER", "PASS", "CAPA", "QUIT")
    assert reply.startswith(b"+OK" if allowed else b"-ERR")
    if verb not in ("PASS", "QUIT"):
        assert ask(connection, application, b"PASS wonderland").startswith(b"+OK ")


def test_unavailable_account_store_gets_sys_temp_response_code() -> None:
    """RFC 3206 section 4."""
    for _ in range(5):
        connection, application, _ = greeted()
        application.instead[sasl.CheckPassword] = sasl.Refusal.TEMPORARY
        answer = ask(connection, application, b"USER alice", b"PASS wonderland")
        assert answer.splitlines()[-1].startswith(b"-ERR [SYS/TEMP] ")


@pytest.mark.parametrize("reason", pop3.Unavailable)
def test_unavailable_maildrop_returns_session_to_authorization(reason: pop3.Unavailable) -> None:
    """RFC 2449 section 8.1.2, RFC 3206 section 4.  The login itself succeeded, and a grant was made."""
    connection, application, _ = greeted()
    application.instead[pop3.OpenMaildrop] = reason
    events = talk(connection, application, b"AUTH PLAIN " + PLAIN + b"\r\n")
    assert any(isinstance(event, sasl.Authenticated) for event in events)
    assert said(events).startswith(f"-ERR [{reason.value}] ".encode())
    assert connection.identity is None
    application.instead.clear()
    assert ask(connection, application, b"AUTH PLAIN " + PLAIN).startswith(b"+OK ")


def test_login_commands_and_stls_after_login_are_rejected() -> None:
    connection, application, _ = greeted()
    ask(connection, application, b"AUTH PLAIN " + PLAIN)
    for line in (b"USER alice", b"PASS wonderland", b"APOP alice 0", b"AUTH PLAIN", b"STLS"):
        assert ask(connection, application, line).startswith(b"-ERR ")


# APOP


def test_apop_with_digest_of_greeting_timestamp_logs_in() -> None:
    """RFC 1939 section 7."""
    connection, application, line = greeted()
    assert ask(connection, application, apop(line)).startswith(b"+OK ")
    assert connection.identity == "alice"


def test_apop_wrong_digest_and_unknown_name_get_same_reply() -> None:
    connection, application, line = greeted()
    wrong = ask(connection, application, apop(line, secret=b"x"))
    assert wrong == b"-ERR [AUTH] authentication failed\r\n"
    assert ask(connection, application, apop(line, name=b"nobody")) == wrong


def test_apop_without_timestamp_in_greeting_is_rejected() -> None:
    connection, application, _ = greeted(STRICT)
    assert ask(connection, application, b"APOP alice " + b"0" * 32).startswith(b"-ERR ")
    ask(connection, application, b"STLS")
    assert connection.tls is TLS
    assert ask(connection, application, b"APOP alice " + b"0" * 32).startswith(b"-ERR ")


def test_the_timestamp_stays_valid_after_stls() -> None:
    """RFC 2595 section 4: there is no second greeting, so clients use the timestamp of the first one."""
    connection, application, line = greeted()
    ask(connection, application, b"STLS")
    events = talk(connection, application, apop(line) + b"\r\n")
    assert said(events).startswith(b"+OK ")
    asked = [event for event in events if isinstance(event, sasl.FetchSecret)]
    assert [question.tls for question in asked] == [True]


# AUTH


def test_bare_auth_lists_the_mechanisms() -> None:
    connection, application, _ = greeted()
    lines = ask(connection, application, b"AUTH").split(b"\r\n")
    assert lines[0].startswith(b"+OK")
    assert lines[1:] == [b"PLAIN", b"LOGIN", b"CRAM-MD5", b".", b""]


def test_auth_with_user_or_apop_is_rejected() -> None:
    connection, application, _ = greeted()
    for name in (b"USER", b"APOP"):
        assert ask(connection, application, b"AUTH " + name).startswith(b"-ERR ")


def test_auth_login_with_prompts() -> None:
    connection, application, _ = greeted()
    first = ask(connection, application, b"AUTH login")
    assert first == b"+ " + base64.b64encode(b"Username:") + b"\r\n"
    second = ask(connection, application, base64.b64encode(b"alice"))
    assert second == b"+ " + base64.b64encode(b"Password:") + b"\r\n"
    assert ask(connection, application, base64.b64encode(b"wonderland")).startswith(b"+OK ")


def test_auth_cram_md5() -> None:
    """RFC 2195 section 2."""
    connection, application, _ = greeted()
    challenge = base64.b64decode(ask(connection, application, b"AUTH CRAM-MD5")[2:])
    digest = hmac.new(b"wonderland", challenge, hashlib.md5).hexdigest().encode()
    assert ask(connection, application, base64.b64encode(b"alice " + digest)).startswith(b"+OK ")


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([b"AUTH PLAIN", b"*"], sasl.Fault.CANCELLED),
        ([b"AUTH PLAIN", b"not base64!"], sasl.Fault.UNDECODABLE),
        ([b"AUTH PLAIN AGFsaWNl=AHdvbmRlcmxhbmQ="], sasl.Fault.UNDECODABLE),
        ([b"AUTH PLAIN ="], sasl.Fault.MALFORMED),
        ([b"AUTH PLAIN", b""], sasl.Fault.MALFORMED),
        ([b"AUTH CRAM-MD5 " + PLAIN], sasl.Fault.UNEXPECTED_INITIAL_RESPONSE),
        ([b"AUTH PLAIN", b"A" * 12_291], sasl.Fault.TOO_LONG),
        ([b"AUTH PLAIN " + WRONG], sasl.Refusal.BAD_CREDENTIALS),
        ([b"AUTH PLAIN " + base64.b64encode(b"bob\0alice\0wonderland")], sasl.Refusal.NOT_AUTHORIZED),
    ],
)
def test_failed_auth_gets_one_err_and_next_login_succeeds(
    lines: list[bytes], reason: sasl.Refusal | sasl.Fault
) -> None:
    """RFC 5034 section 4."""
    connection, application, _ = greeted()
    for line in lines[:-1]:
        ask(connection, application, line)
    events = talk(connection, application, lines[-1] + b"\r\n")
    assert [event.reason for event in events if isinstance(event, sasl.AuthenticationFailed)] == [reason]
    assert said(events).startswith(b"-ERR ")
    assert said(events).count(b"\r\n") == 1
    assert ask(connection, application, b"AUTH PLAIN " + PLAIN).startswith(b"+OK ")


def test_auth_response_may_exceed_command_line_limit() -> None:
    """RFC 5034 section 4: the limit for command lines does not apply to responses."""
    connection, application, _ = greeted()
    ask(connection, application, b"AUTH PLAIN")
    events = talk(connection, application, base64.b64encode(b"\0alice\0" + b"p" * 1000) + b"\r\n")
    assert [len(event.password) for event in events if isinstance(event, sasl.CheckPassword)] == [1000]


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("blanks", [b" ", b" \t "])
def test_blanks_at_the_end_of_a_response_are_accepted(blanks: bytes) -> None:
    """The same exchange as in SMTP."""
    for settings, code in ((OPEN, b"+OK "), (attrs.evolve(OPEN, strict_syntax=True), b"-ERR ")):
        connection, application, _ = greeted(settings)
        ask(connection, application, b"AUTH PLAIN")
        assert ask(connection, application, PLAIN + blanks).startswith(code)


def test_mechanism_not_offered_is_rejected_without_challenge() -> None:
    """architecture.md, invariant 3."""
    connection, application, _ = greeted(STRICT)
    for line in (b"AUTH PLAIN", b"AUTH PLAIN " + PLAIN, b"AUTH LOGIN", b"AUTH CRAM-MD5", b"AUTH NONE"):
        events = talk(connection, application, line + b"\r\n")
        assert said(events).startswith(b"-ERR ")
        assert not any(isinstance(event, Question) for event in events)


# STLS


def test_data_pipelined_after_stls_is_dropped() -> None:
    """RFC 2595 section 4, CVE-2011-0411: bytes after STLS are dropped and counted."""
    connection, application, _ = greeted()
    connection.receive_data(b"STLS\r\nUSER evil\r\nPASS evil\r\n")
    events = settle(connection, application)
    assert isinstance(events[-1], BeginTls)
    assert said(events).count(b"+OK") == 1
    with pytest.raises(LocalProtocolError):
        connection.receive_data(b"CAPA\r\n")
    connection.tls_started(TLS)
    after = settle(connection, application)
    assert after == [TlsStarted(tls=TLS, dropped=len(b"USER evil\r\nPASS evil\r\n"))]
    assert connection.tls is TLS


def test_stls_temporarily_unavailable_gets_sys_temp_response_code() -> None:
    connection, application, _ = greeted()
    application.instead[pop3.Stls] = pop3.Unavailable.TEMPORARY
    assert ask(connection, application, b"STLS").startswith(b"-ERR [SYS/TEMP] ")
    assert ask(connection, application, b"CAPA").startswith(b"+OK ")


def test_stls_not_offered_is_rejected() -> None:
    connection, application, _ = greeted(pop3.ServerSettings())
    assert ask(connection, application, b"STLS").startswith(b"-ERR ")


# Error limits


def test_the_third_failed_login_ends_the_session() -> None:
    connection, application, line = greeted()
    assert ask(connection, application, b"USER alice", b"PASS x").endswith(b"-ERR [AUTH] authentication failed\r\n")
    assert ask(connection, application, apop(line, b"x")).endswith(b"-ERR [AUTH] authentication failed\r\n")
    events = talk(connection, application, b"AUTH PLAIN " + WRONG + b"\r\nCAPA\r\n")
    assert said(events) == b"-ERR [AUTH] authentication failed\r\n"
    assert events[-1] == Closed(reason=CloseReason.TOO_MANY_ERRORS)


def test_max_failed_logins_below_three_is_rejected() -> None:
    with pytest.raises(LocalProtocolError, match="max_failed_logins must be 3 or more, not 2"):
        pop3.ServerSettings(max_failed_logins=2)


@pytest.mark.parametrize(
    "line", [b"XYZZY", b"STAT", b"STLS x", b"AUTH NONE", b"x" * 300, b"\xff\0\xfe", b"AUTH PLAIN !", b""]
)
def test_session_is_closed_after_max_errors(line: bytes) -> None:
    connection, application = (
        server(pop3.ServerSettings(max_errors=5, mechanisms_without_tls=EVERYTHING)),
        Application(),
    )
    settle(connection, application)
    for _ in range(4):
        answer = ask(connection, application, line)
        assert answer.startswith(b"-ERR ")
        assert answer.count(b"\r\n") == 1
    events = talk(connection, application, line + b"\r\nCAPA\r\n")
    assert said(events).startswith(b"-ERR ")
    assert said(events).count(b"\r\n") == 1
    assert events[-1] == Closed(reason=CloseReason.TOO_MANY_ERRORS)


def test_http_request_gets_one_err_and_is_closed() -> None:
    """CVE-2021-3618 (ALPACA): an HTTP request ends the session at once."""
    connection, application, _ = greeted()
    events = talk(connection, application, b"GET / HTTP/1.1\r\nHost: x\r\n\r\nCAPA\r\n")
    assert said(events) == b"-ERR this is a POP3 server, closing connection\r\n"
    assert events[-1] == Closed(reason=CloseReason.TOO_MANY_ERRORS)


def test_command_line_too_long_is_dropped_and_rejected_once() -> None:
    """RFC 2449 section 4: 255 bytes with CRLF."""
    connection, application, _ = greeted()
    longest = b"USER " + b"x" * 248
    assert len(longest + b"\r\n") == 255
    assert ask(connection, application, longest).startswith(b"+OK ")
    for _ in range(40):
        assert talk(connection, application, b"x" * 1000) == []
    assert ask(connection, application, b"", b"CAPA").startswith(b"-ERR command line too long\r\n+OK ")


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\n\r"])
def test_only_crlf_ends_a_command(end: bytes) -> None:
    connection, application, _ = greeted()
    events = talk(connection, application, b"CAPA" + end + b"CAPA\r\n")
    assert said(events).startswith(b"-ERR ")
    assert said(events).count(b"\r\n") == 1


def test_no_secret_is_in_any_repr() -> None:
    connection, application, line = greeted()
    secret = b"s3cret-s3cret"
    lines = (
        *(b"USER alice", b"PASS " + secret, b"PASS " + secret, b"AUTH PLAIN " + base64.b64encode(b"\0a\0" + secret)),
        *(b"AUTH BOGUS " + base64.b64encode(secret), b"pass  " + secret, b"PA SS" + secret, apop(line, secret)),
    )
    shown = ""
    for each in lines:
        connection.receive_data(each + b"\r\n")
        for event in settle(connection, application):
            shown += repr(event)
            if isinstance(event, pop3.CommandRejected) and event.verb:
                shown += repr(event.line)
    for hidden in (secret, base64.b64encode(secret), base64.b64encode(b"\0a\0" + secret), apop(line, secret)[-32:]):
        assert hidden.decode() not in shown


def test_server_timeout_is_ten_minutes() -> None:
    """RFC 1939 section 3: the autologout timer."""
    connection, _, _ = greeted()
    assert connection.next_event() == NeedData(timeout=600.0, until=600.0)


def test_answer_of_wrong_type_raises_and_question_stays_open() -> None:
    connection = server()
    question = connection.next_event()
    assert isinstance(question, pop3.Connected)
    wrong: Question[Any] = question
    for answer in (None, True, "yes", pop3.Content(data=b"")):
        with pytest.raises(LocalProtocolError):
            connection.answer(wrong, answer)
    connection.answer(question, ACCEPT)
    with pytest.raises(LocalProtocolError):
        connection.answer(question, ACCEPT)
