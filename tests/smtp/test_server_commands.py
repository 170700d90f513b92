"""The server's rules for single commands: order, form, limits (RFC 5321 sections 4.1 and 4.5.3)."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from mailauth import CloseReason, LocalProtocolError, Tls, sasl, smtp
from tests.smtp.drive import IN_CLEAR, ready, serve

EHLO_FIRST = "send EHLO or HELO first, also after STARTTLS"
TRANSACTION = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
AFTER = (
    *(b"DATA\r\n.\r\n", b"RCPT TO:<x@y>\r\nDATA\r\n.\r\n", b"MAIL FROM:<x@y>\r\n"),
    *(b"AUTH PLAIN\r\n*\r\n", b"STARTTLS\r\n"),
)
"""Their replies and events differ from one state to another."""


@pytest.mark.parametrize(
    ("before", "command"),
    [
        (b"", b"MAIL FROM:<a@b>"),
        (b"", b"RCPT TO:<a@b>"),
        (b"", b"DATA"),
        (b"", b"AUTH PLAIN"),
        (b"EHLO c\r\n", b"RCPT TO:<a@b>"),
        (b"EHLO c\r\n", b"DATA"),
        (b"EHLO c\r\nMAIL FROM:<a@b>\r\n", b"MAIL FROM:<a@b>"),
        (b"EHLO c\r\nMAIL FROM:<a@b>\r\n", b"DATA"),
        (b"EHLO c\r\nMAIL FROM:<a@b>\r\n", b"STARTTLS"),
        (b"EHLO c\r\n" + TRANSACTION, b"MAIL FROM:<a@b>"),
        (b"EHLO c\r\n" + TRANSACTION, b"AUTH PLAIN"),
    ],
)
def test_command_out_of_order_is_503_and_changes_nothing(before: bytes, command: bytes) -> None:
    """RFC 5321 section 4.1.4: the session then continues as one that never received the command."""
    reply = smtp.Reply(503, "5.5.1", "bad sequence of commands" if before else EHLO_FIRST)
    before = before or b"NOOP\r\n"
    for after in AFTER:
        session, other = serve(before), serve(before)
        session.forget().receive(command + b"\r\n")
        assert session.lines == [str(reply)]
        assert session.events == [
            smtp.CommandRejected(verb=command.split()[0].decode("ascii"), line=command, reply=reply)
        ]
        session.forget().receive(after)
        other.forget().receive(after)
        assert (session.data, session.events) == (other.data, other.events)


@pytest.mark.parametrize("command", [b"MAIL FROM:<a@b>", b"AUTH PLAIN AHRlc3QAMTIzNA=="])
def test_reply_to_a_command_after_starttls_says_that_ehlo_is_missing(command: bytes) -> None:
    """RFC 3207 section 4.2: the server has discarded the first EHLO.  Many clients do not send another."""
    session = serve(b"EHLO c\r\n", b"STARTTLS\r\n", settings=smtp.ServerSettings(starttls=True)).forget()
    assert session.receive(command + b"\r\n").lines == [f"503 5.5.1 {EHLO_FIRST}"]
    assert session.receive(b"EHLO c\r\nMAIL FROM:<a@b>\r\n").codes[-1] == 250


@pytest.mark.parametrize("before", [b"HELO c\r\n", b"EHLO c\r\nHELO c\r\n"])
def test_login_after_helo_is_allowed(before: bytes) -> None:
    """Printers and cameras send AUTH after HELO, which lists no mechanism; some send EHLO and then HELO."""
    session = serve(before).receive(b"AUTH LOGIN\r\n").receive(b"dGVzdA==\r\n").receive(b"MTIzNA==\r\n")
    assert session.codes[-3:] == [334, 334, 235]
    assert session.of(sasl.Authenticated)


def test_reply_of_lmtp_names_lhlo() -> None:
    session = serve(settings=smtp.ServerSettings(lmtp=True)).forget()
    assert session.receive(b"MAIL FROM:<a@b>\r\n").lines == ["503 5.5.1 send LHLO first, also after STARTTLS"]


@pytest.mark.parametrize("hello", [b"EHLO c", b"HELO c"])
def test_ehlo_and_helo_reset_the_transaction(hello: bytes) -> None:
    """RFC 5321 section 4.1.4: as RSET would."""
    session = ready(TRANSACTION + hello + b"\r\nRCPT TO:<x@y>\r\nMAIL FROM:<a@b>\r\nRCPT TO:<e@f>\r\nDATA\r\n.\r\n")
    assert session.codes == [250, 250, 250, 503, 250, 250, 354, 250]
    assert session.of(smtp.MessageComplete)[0].recipients == (smtp.Mailbox("e", "f"),)


def test_rset_resets_the_transaction_and_keeps_the_ehlo() -> None:
    """RFC 5321 section 4.1.1.5; it is also allowed without a transaction."""
    assert serve(b"RSET\r\n").codes == [220, 250]
    session = ready(b"RSET\r\nMAIL FROM:<a@b>\r\nRSET\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRSET\r\nDATA\r\n")
    assert session.codes == [250, 250, 250, 250, 250, 250, 503]


@pytest.mark.parametrize("before", [b"", b"EHLO c\r\n", b"EHLO c\r\nMAIL FROM:<a@b>\r\n", b"EHLO c\r\n" + TRANSACTION])
def test_noop_vrfy_and_help_are_allowed_at_any_time(before: bytes) -> None:
    """RFC 5321 section 4.1.4; they change nothing."""
    session = serve(before or b"NOOP\r\n").forget().receive(b"NOOP\r\nNOOP x y\r\nVRFY alice\r\nHELP\r\nHELP MAIL\r\n")
    assert session.codes == [250, 250, 252, 214, 214]
    assert session.events == [
        smtp.Noop(),
        smtp.Noop(argument="x y"),
        smtp.Vrfy(argument="alice"),
        smtp.Help(),
        smtp.Help(argument="MAIL"),
    ]


def test_help_reply_lists_the_supported_commands() -> None:
    """RFC 5321 section 4.1.1.8."""
    plain = "214 2.0.0 EHLO HELO STARTTLS AUTH MAIL RCPT DATA RSET NOOP VRFY HELP QUIT, see RFC 5321"
    assert ready(b"HELP\r\n").lines == [plain]
    lmtp = smtp.ServerSettings(lmtp=True, chunking=True)
    assert serve(b"HELP\r\n", settings=lmtp).lines[1:] == [
        "214 2.0.0 LHLO MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT, see RFC 5321"
    ]


@pytest.mark.parametrize("tls", [None, Tls(version="TLSv1.3")])
@pytest.mark.parametrize("starttls", [False, True])
@pytest.mark.parametrize("clear", [frozenset[str](), frozenset({"PLAIN"})])
def test_help_reply_lists_starttls_and_auth_where_ehlo_offers_them(
    tls: Tls | None, starttls: bool, clear: frozenset[str]
) -> None:
    """A client that follows the list gets no 502."""
    settings = smtp.ServerSettings(starttls=starttls, mechanisms_without_tls=clear)
    session = serve(b"EHLO c\r\nHELP\r\n", settings=settings, tls=tls)
    *offers, help_reply = session.lines[1:]
    offered = {line[4:].split()[0] for line in offers}
    assert offered & {"STARTTLS", "AUTH"} == set(help_reply.split()) & {"STARTTLS", "AUTH"}


def test_verbs_and_keywords_are_case_insensitive() -> None:
    """RFC 5321 section 2.4; local parts keep theirs."""
    session = serve(
        b"ehlo c\r\nmAiL fRoM:<Alice@Example.Test> size=10 body=8bitmime auth=<>\r\n"
        b"rcpt to:<Bob@x>\r\ndata\r\n.\r\nquit\r\n"
    )
    assert session.codes == [220, 250, 250, 250, 354, 250, 221]
    assert session.of(smtp.Mail) == [
        smtp.Mail(reverse_path=smtp.Mailbox("Alice", "Example.Test"), size=10, body=smtp.Body.EIGHT_BIT_MIME, auth="<>")
    ]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"MAIL FROM:<>", smtp.Mail(reverse_path=None)),  # section 4.5.5
        (b"MAIL FROM:<a@b> SIZE=0", smtp.Mail(reverse_path=smtp.Mailbox("a", "b"), size=0)),
        (b"MAIL FROM:<a@b> AUTH=e+3Dmc2@x", smtp.Mail(reverse_path=smtp.Mailbox("a", "b"), auth="e=mc2@x")),
        (b"MAIL FROM:<@r:a@b>", smtp.Mail(reverse_path=smtp.Mailbox("a", "b"), source_route=("r",))),  # appendix C
        (b'MAIL FROM:<"a> b"@c>', smtp.Mail(reverse_path=smtp.Mailbox("a> b", "c"))),  # section 4.1.2
        (b'MAIL FROM:<"a\\"\\\\"@c>', smtp.Mail(reverse_path=smtp.Mailbox('a"\\', "c"))),
        (b"MAIL FROM:<a@[192.0.2.1]>", smtp.Mail(reverse_path=smtp.Mailbox("a", "[192.0.2.1]"))),  # section 4.1.3
        (b"MAIL FROM:<a@[IPv6:2001:db8::1]>", smtp.Mail(reverse_path=smtp.Mailbox("a", "[IPv6:2001:db8::1]"))),
        (b"MAIL FROM:<a@[x-tag:any]>", smtp.Mail(reverse_path=smtp.Mailbox("a", "[x-tag:any]"))),
    ],
)
def test_reverse_path_forms_are_parsed(line: bytes, command: smtp.Mail) -> None:
    """RFC 5321 section 4.1.2."""
    assert ready(line + b"\r\n").events == [command]


@pytest.mark.parametrize(
    ("path", "command"),
    [
        (b"<Postmaster>", smtp.Rcpt(forward_path=smtp.Mailbox("Postmaster", ""))),  # section 4.5.1
        (b"<pOSTmaster>", smtp.Rcpt(forward_path=smtp.Mailbox("pOSTmaster", ""))),
        (b"<@r,@[192.0.2.1]:a@b>", smtp.Rcpt(forward_path=smtp.Mailbox("a", "b"), source_route=("r", "[192.0.2.1]"))),
        (b'<""@b>', smtp.Rcpt(forward_path=smtp.Mailbox("", "b"))),
    ],
)
def test_forward_path_forms_are_parsed(path: bytes, command: smtp.Rcpt) -> None:
    """RFC 5321 section 4.1.2; source routes are removed from the path and reported."""
    assert ready(b"MAIL FROM:<>\r\nRCPT TO:" + path + b"\r\n").events[1:] == [command]


def test_path_over_256_bytes_is_501() -> None:
    """RFC 5321 section 4.5.3.1.3: the angle brackets count, a source route does not."""
    domain = ".".join(["d" * 50] * 5)[:252].encode("ascii")
    domain += b"d" * (252 - len(domain))
    assert ready(b"MAIL FROM:<a@%b>\r\n" % domain).codes == [250]
    assert ready(b"MAIL FROM:<@relay.example:a@%b>\r\n" % domain).codes == [250]
    assert ready(b"MAIL FROM:<aa@%b>\r\n" % domain).codes == [501]


def test_domain_over_255_bytes_is_501() -> None:
    """RFC 5321 section 4.5.3.1.2."""
    assert serve(b"EHLO %b\r\n" % (b"d" * 255)).codes == [220, 250]
    assert serve(b"EHLO %b\r\n" % (b"d" * 256)).codes == [220, 501]


@pytest.mark.parametrize(
    "line",
    [
        b"EHLO",
        b"EHLO " + b"x" * 256,
        b"HELO",
        b"MAIL",
        b"MAIL FROM:",
        b"MAIL FROM:<a@b",
        b"MAIL FROM:<a>",
        b"MAIL FROM:<a@b>SIZE=1",
        b"MAIL FROM:<a@b> SIZE",
        b"MAIL FROM:<a@b> SIZE=x",
        b"MAIL FROM:<a@b> SIZE=-1",
        b"MAIL FROM:<a@b> SIZE=123456789012345678901",
        b"MAIL FROM:<a@b> SIZE=1 SIZE=1",
        b"MAIL FROM:<a@b> X=1 x=1",
        b"MAIL FROM:<a@b> BODY=9BIT",
        b"MAIL FROM:<a@b> AUTH=a+0Ab",
        b"MAIL FROM:<a@b> AUTH=+3d",
        b"MAIL FROM:<a@b> =1",
        b"MAIL FROM:<a@-b>",
        b"MAIL FROM:<a@[1.2.3.4.5]>",
        b"MAIL FROM:<Postmaster>",
        b"AUTH",
        b"VRFY",
        b"DATA now",
        b"RSET now",
        b"QUIT now",
        b"STARTTLS now",
    ],
)
def test_a_bad_argument_is_501(line: bytes) -> None:
    """RFC 5321 section 4.2.4; STARTTLS: RFC 3207 section 4."""
    session = ready(line + b"\r\n")
    assert session.codes == [501]
    assert [event.verb for event in session.events] == [line.split()[0].decode("ascii")]


@pytest.mark.parametrize("path", [b"<>", b"a@b>", b"<a@b> X Y Y", b"<a@b>x", b"", b'<"Postmaster">', b"<@r:>"])
def test_a_bad_forward_path_is_501(path: bytes) -> None:
    """RFC 5321 section 4.1.1.3."""
    assert ready(b"MAIL FROM:<>\r\nRCPT TO:" + path + b"\r\n").codes == [250, 501]


@pytest.mark.parametrize(
    "line", [b"MAIL FROM:<a@b> RET=FULL", b"MAIL FROM:<a@b> SMTPUTF8", b"MAIL FROM:<a@b> SIZE=1 X"]
)
def test_an_unknown_parameter_is_555(line: bytes) -> None:
    """RFC 5321 section 4.1.1.11."""
    assert ready(line + b"\r\n").codes == [555]


def test_an_unknown_parameter_of_rcpt_is_555() -> None:
    """RFC 5321 section 4.1.1.11."""
    assert ready(b"MAIL FROM:<>\r\nRCPT TO:<a@b> NOTIFY=NEVER\r\n").codes == [250, 555]


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        (smtp.ServerSettings(eight_bit_mime=False), b"BODY=8BITMIME"),
        (smtp.ServerSettings(mechanisms=smtp.ServerSettings().mechanisms.only()), b"AUTH=<>"),
    ],
)
def test_a_parameter_that_was_not_offered_is_555(settings: smtp.ServerSettings, parameter: bytes) -> None:
    """RFC 5321 section 4.1.1.11."""
    assert ready(b"MAIL FROM:<a@b> " + parameter + b"\r\n", settings=settings).codes == [555]


def test_mail_auth_parameter_is_accepted_before_tls_if_auth_requires_tls() -> None:
    """RFC 4954 section 5: if AUTH is announced at all, also from unauthenticated clients."""
    assert ready(b"MAIL FROM:<a@b> AUTH=<>\r\n", settings=smtp.ServerSettings(starttls=True)).codes == [250]


def test_a_declared_size_over_the_limit_is_552() -> None:
    """RFC 1870 section 6.1."""
    settings = smtp.ServerSettings(max_message_size=70_000)
    assert ready(b"MAIL FROM:<> SIZE=70000\r\n", settings=settings).lines == ["250 2.1.0 sender ok"]
    session = ready(b"MAIL FROM:<> SIZE=70001\r\nRCPT TO:<a@b>\r\n", settings=settings)
    assert session.codes == [552, 503]


@pytest.mark.parametrize("verb", [b"EXPN list", b"TURN", b"ETRN x", b"SEND x", b"SOML x", b"SAML x", b"BDAT 3"])
def test_known_but_unsupported_commands_are_502(verb: bytes) -> None:
    """RFC 5321 section 4.2.4."""
    assert ready(verb + b"\r\n").codes == [502]


@pytest.mark.parametrize("line", [b"", b"FOO", b"MAILFROM:<a@b>", b"GETS", b" NOOP"])
def test_an_unknown_command_is_500(line: bytes) -> None:
    """RFC 5321 section 4.2.4."""
    session = ready(line + b"\r\n")
    assert session.codes == [500]
    assert session.events == [
        smtp.CommandRejected(verb="", line=line, reply=smtp.Reply(500, "5.5.1", "command not recognized"))
    ]


@pytest.mark.parametrize(
    "line", [b"NO\rOP", b"NOOP\nNOOP", b"NOOP a\0", b"NOOP \xc3\xa9", b"NOOP\x7f", b"NOOP\r", b"\nNOOP"]
)
def test_bare_cr_lf_nul_and_invalid_bytes_are_500_and_do_not_end_the_line(line: bytes) -> None:
    """RFC 5321 sections 2.3.8 and 2.4."""
    session = ready(line + b"\r\nNOOP\r\n")
    assert session.codes == [500, 250]
    assert session.of(smtp.CommandRejected)[0].line == line


def test_overlong_line_gets_one_500_reply_in_order() -> None:
    """RFC 5321 section 4.5.3.1.4: here 2,048 bytes with CRLF."""
    fits = b"NOOP " + b"x" * 2_041 + b"\r\n"
    assert len(fits) == 2_048
    session = ready(fits + b"NOOP " + b"x" * 2_042 + b"\r\nVRFY x\r\n")
    assert session.codes == [250, 500, 252]
    assert session.of(smtp.CommandRejected) == [
        smtp.CommandRejected(verb="", line=b"", reply=smtp.Reply(500, "5.5.2", "line too long"))
    ]
    inside = ready(b"x" * 3_000, b"NOOP\r\n", b"VRFY x\r\n")  # the rest of the line is not a command
    assert inside.codes == [500, 252]
    dribbled = ready(*[b"x" * 500] * 20, b"\r", b"\nVRFY x\r\n")
    assert dribbled.codes == [500, 252]


def test_unterminated_line_keeps_the_input_buffer_bounded() -> None:
    """architecture.md, invariant 4."""
    session = ready()
    for _ in range(50):
        session.receive(b"x" * 4_000)
        assert len(session.machine._input) <= 2_048
    assert session.codes == []


def test_recipients_over_the_limit_are_452() -> None:
    """RFC 5321 section 4.5.3.1.10: refused recipients do not count, and the accepted ones remain."""
    settings = smtp.ServerSettings(max_recipients=100)
    verdicts: list[object] = [smtp.Reply(550, "5.1.1", "no")]
    session = ready(
        b"MAIL FROM:<>\r\n" + b"RCPT TO:<a@b>\r\n" * 102 + b"DATA\r\n.\r\n",
        settings=settings,
        answers={smtp.Rcpt: verdicts},
    )
    assert session.codes == [250, 550, *[250] * 100, 452, 354, 250]
    assert len(session.of(smtp.MessageComplete)[0].recipients) == 100


def test_reaching_max_errors_ends_the_session_with_421() -> None:
    """A few errors, then 421 and close."""
    settings = smtp.ServerSettings(max_errors=3)
    session = ready(b"FOO\r\nDATA\r\nNOOP\r\nMAIL\r\nNOOP\r\n", settings=settings)
    assert session.codes == [500, 503, 250, 501, 421]
    assert session.closed is not None
    assert session.closed.reason is CloseReason.TOO_MANY_ERRORS
    assert len(session.of(smtp.Noop)) == 1


def test_transactions_over_the_limit_end_the_session_with_421() -> None:
    settings = smtp.ServerSettings(max_transactions=1)
    session = ready(b"MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<x@y>\r\nNOOP\r\n", settings=settings)
    assert session.codes == [250, 250, 421]
    assert session.closed is not None
    assert session.of(smtp.CommandRejected)[0].line == b"MAIL FROM:<x@y>"


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1", b"post / http/1.0", b"CONNECT a:25 HTTP/1.1", b"PRI * HTTP/2.0"])
def test_http_request_ends_the_session_and_executes_no_command(first: bytes) -> None:
    """A web page can make a browser send SMTP commands in the body of a request: none is executed."""
    for pieces in ([first + b"\r\nEHLO c\r\n"], [first[:2], first[2:] + b"\r\nEHLO c\r\n"]):
        session = serve(*pieces)
        assert session.lines[1:] == ["421 4.7.0 this is an SMTP server, closing connection"]
        assert [event.line for event in session.of(smtp.CommandRejected)] == [first]
        assert session.of(smtp.Hello) == []
        assert session.closed is not None
        assert session.closed.reason is CloseReason.TOO_MANY_ERRORS


def test_tls_client_hello_as_first_input_ends_the_session_immediately() -> None:
    """RFC 8446 section 5.1: a ClientHello has no CRLF to wait for."""
    for pieces in ([b"\x16\x03\x01\x02\0\x01\r\nEHLO c\r\n"], [b"\x16", b""]):
        session = serve(*pieces)
        assert session.codes == [220, 421]
        assert session.closed is not None
        assert session.closed.reason is CloseReason.TOO_MANY_ERRORS
    assert ready(b"\x16\r\nNOOP\r\n").codes == [500, 250]


@pytest.mark.parametrize("line", [b"NOOP", b"RSET", b"VRFY x", b"HELP", b"EHLO c", b"HELO c"])
def test_junk_commands_over_the_limit_end_the_session_with_421(line: bytes) -> None:
    """Each transaction allows two more: RSET and EHLO between messages are legitimate."""
    settings = smtp.ServerSettings(max_junk_commands=3)
    session = ready((line + b"\r\n") * 3, settings=settings)  # the first was EHLO
    assert session.codes[2] == 421
    assert session.closed is not None
    assert session.closed.reason is CloseReason.TOO_MANY_ERRORS
    mail = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n" + (line + b"\r\n") * 2
    assert 421 not in ready(mail * 20 + b"QUIT\r\n", settings=settings).codes


@pytest.mark.parametrize("line", [b"NOOP", b"noop", b"RSET", b"NOOP x", b"VRFY x", b"HELP", b"EHLO c"])
@pytest.mark.parametrize("first", [b"NOOP\r\n", b"EHLO c\r\n"])
def test_the_event_of_a_junk_command_over_the_limit_has_its_line(line: bytes, first: bytes) -> None:
    """A line that is parsed by the faster way is reported like any other."""
    settings = smtp.ServerSettings(max_junk_commands=1)
    session = serve(first + line + b"\r\n", settings=settings)
    assert session.codes[-1] == 421
    assert [(event.verb, event.line) for event in session.of(smtp.CommandRejected)] == [
        (line.split()[0].decode().upper(), line)
    ]


@pytest.mark.parametrize(
    ("before", "line", "kind", "code"),
    [
        (b"", b"MAIL FROM:<a@b>", smtp.Mail, 450),
        (b"MAIL FROM:<>\r\n", b"RCPT TO:<a@b>", smtp.Rcpt, 550),
        (b"", b"STARTTLS", smtp.StartTls, 454),
        (b"", b"AUTH PLAIN AGEAYg==", sasl.CheckPassword, 454),
    ],
)
def test_commands_rejected_by_the_application_count_as_junk_commands(
    before: bytes, line: bytes, kind: type[object], code: int
) -> None:
    """A client that guesses names, or a store that fails, could otherwise continue; 421 follows the last reply."""
    settings = attrs.evolve(IN_CLEAR, max_junk_commands=20)
    refusal = sasl.Refusal.TEMPORARY if kind is sasl.CheckPassword else smtp.Reply(code, "", "no")
    session = ready(before + (line + b"\r\n") * 50, settings=settings, answers={kind: lambda _: refusal})
    refused = 22 if before else 20  # a transaction allows two more
    assert session.codes[len(before) > 0 :] == [*[code] * refused, 421]
    assert session.closed is not None
    assert session.closed.reason is CloseReason.TOO_MANY_ERRORS


def test_recipients_over_the_limit_count_as_junk_commands() -> None:
    """RFC 5321 section 4.5.3.1.10: 452 is not an error of the client, but it is limited, too."""
    settings = smtp.ServerSettings(max_recipients=100, max_junk_commands=20)
    session = ready(b"MAIL FROM:<>\r\n" + b"RCPT TO:<a@b>\r\n" * 200, settings=settings)
    assert session.codes == [*[250] * 101, *[452] * 22, 421]


@pytest.mark.parametrize(
    "least",
    [
        {"max_recipients": 99},  # RFC 5321 section 4.5.3.1.8
        {"max_message_size": 65_535},  # section 4.5.3.1.7
        {"max_command_line": 1_023},  # section 4.5.3.1.4, and extensions
        {"max_text_line": 999},  # section 4.5.3.1.6
        {"max_failed_logins": 2},  # RFC 4954 section 9
    ],
)
def test_limits_below_the_rfc_minimum_are_rejected(least: dict[str, Any]) -> None:
    """RFC 5321 section 4.5.3.1."""
    with pytest.raises(LocalProtocolError, match=next(iter(least))):
        smtp.ServerSettings(**least)


def test_announced_limits_are_enforced() -> None:
    """RFC 9422 section 4: the client may have old values; over the limits it gets 452, and 421 for transactions."""
    settings = smtp.ServerSettings(limits=True, max_recipients=100, max_transactions=1)
    session = ready(b"MAIL FROM:<>\r\n" + b"RCPT TO:<a@b>\r\n" * 101 + b"RSET\r\nMAIL FROM:<>\r\n", settings=settings)
    assert session.codes == [*[250] * 101, 452, 250, 421]


@pytest.mark.parametrize("name", [b"[127.0.0.1]", b"[IPv6:::1]", b"client.example", b"under_score.example", b"x"])
def test_ehlo_accepts_a_domain_or_an_address_literal(name: bytes) -> None:
    """RFC 5321 section 4.1.1.1; real clients send literals and underscores."""
    session = serve(b"ehlo " + name + b"\r\n")
    assert session.of(smtp.Hello) == [smtp.Hello(domain=name.decode("ascii"))]
    assert session.codes == [220, 250]


def test_quit_ends_the_session_and_later_input_is_ignored() -> None:
    """RFC 5321 section 4.1.1.10."""
    session = ready(b"QUIT\r\nNOOP\r\n")
    assert session.codes == [221]
    assert session.events == [smtp.Quit()]
    assert session.closed is not None
    assert session.closed.reason is CloseReason.QUIT
    assert len(session.machine._input) == 0
    session.machine.receive_data(b"NOOP\r\n")
    assert session.machine.next_event() == session.closed
    assert session.machine.next_event() == session.closed


@pytest.mark.parametrize("line", [b"mail from:<A@B> size=007", b"data", b"rcpt to:<a@b>"])
def test_rejected_line_is_reported_unchanged_even_if_split(line: bytes) -> None:
    """architecture.md, invariant 8."""
    whole = serve(line + b"\r\n")
    assert whole.of(smtp.CommandRejected)[0].line == line
    assert serve(line[:3], line[3:] + b"\r\n").events == whole.events


def test_ehlo_reply_lists_the_offered_extensions() -> None:
    """RFC 5321 section 4.1.1.1; HELO is answered without extensions."""
    assert serve(b"EHLO c\r\n").lines[1:] == [
        "250-localhost",
        "250-PIPELINING",
        "250-SIZE 26214400",
        "250-8BITMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-STARTTLS",
        "250 AUTH PLAIN LOGIN CRAM-MD5",
    ]
    bare = smtp.ServerSettings(pipelining=False, eight_bit_mime=False, enhanced_status_codes=False)
    assert serve(b"EHLO c\r\n", settings=bare).lines[1:] == ["250-localhost", "250 SIZE 26214400"]
    assert serve(b"HELO c\r\n").lines[1:] == ["250 localhost"]


def test_replies_have_no_enhanced_status_code_if_disabled() -> None:
    """RFC 2034 section 3."""
    settings = smtp.ServerSettings(enhanced_status_codes=False)
    session = ready(b"NOOP\r\nMAIL FROM:<a@b>\r\nFOO\r\n", settings=settings)
    assert session.lines == ["250 ok", "250 sender ok", "500 command not recognized"]


@pytest.mark.parametrize("host", ["", "a b", "a\r\nb", "[1.2.3]", "d" * 256])
def test_invalid_host_name_is_rejected(host: str) -> None:
    """RFC 5321 section 4.1.2."""
    with pytest.raises(LocalProtocolError):
        smtp.ServerSettings(host_name=host)


def test_server_has_the_syntax_of_the_run(request: pytest.FixtureRequest) -> None:
    """The tests of this module run twice (tests/both_modes.py)."""
    strict = request.node.callspec.params["syntax"] == "strict"
    assert ready(b"MAIL FROM: <a@b>\r\n").codes == [501 if strict else 250]
