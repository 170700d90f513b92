"""The server's rules for parameters of extensions: DSN, REQUIRETLS, LIMITS, and those of the application."""

from __future__ import annotations

from typing import Any

import pytest

from mailauth import LocalProtocolError, smtp
from mailauth.smtp import Notify
from tests.smtp.drive import TLS, ready, serve

DSN = smtp.ServerSettings(dsn=True)
A = smtp.Mailbox("a", "b")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"RET=FULL", smtp.Mail(reverse_path=A, ret=smtp.Ret.FULL)),
        (b"ret=hdrs ENVID=QQ314159", smtp.Mail(reverse_path=A, ret=smtp.Ret.HEADERS, envelope_id="QQ314159")),
        (b"ENVID=a+20b+2B", smtp.Mail(reverse_path=A, envelope_id="a b+")),
    ],
)
def test_dsn_parameters_of_mail_are_parsed_only_if_enabled(line: bytes, command: smtp.Mail) -> None:
    """RFC 3461 sections 4.3 and 4.4."""
    assert ready(b"MAIL FROM:<a@b> " + line + b"\r\n", settings=DSN).events == [command]
    assert ready(b"MAIL FROM:<a@b> " + line + b"\r\n").codes == [555]


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"NOTIFY=NEVER", smtp.Rcpt(forward_path=A, notify=frozenset({Notify.NEVER}))),
        (b"notify=delay,SUCCESS", smtp.Rcpt(forward_path=A, notify=frozenset({Notify.SUCCESS, Notify.DELAY}))),
        (
            b"ORCPT=rfc822;Bob+2Bx@ivory.example",
            smtp.Rcpt(forward_path=A, original_recipient=smtp.OriginalRecipient("rfc822", "Bob+x@ivory.example")),
        ),
    ],
)
def test_dsn_parameters_of_rcpt_are_parsed_only_if_enabled(line: bytes, command: smtp.Rcpt) -> None:
    """RFC 3461 sections 4.1 and 4.2."""
    assert ready(b"MAIL FROM:<>\r\nRCPT TO:<a@b> " + line + b"\r\n", settings=DSN).events[1:] == [command]
    assert ready(b"MAIL FROM:<>\r\nRCPT TO:<a@b> " + line + b"\r\n").codes == [250, 555]


@pytest.mark.parametrize("parameter", [b"RET", b"RET=ALL", b"RET=FULL RET=FULL", b"ENVID=" + b"x" * 101, b"ENVID=+2b"])
def test_bad_dsn_parameters_of_mail_are_501(parameter: bytes) -> None:
    """RFC 3461 sections 4.3 and 4.4; RFC 5321 section 4.2.4."""
    assert ready(b"MAIL FROM:<> " + parameter + b"\r\n", settings=DSN).codes == [501]


@pytest.mark.parametrize(
    "parameter",
    [
        b"NOTIFY",
        b"NOTIFY=NEVER,SUCCESS",
        b"NOTIFY=SOON",
        b"NOTIFY=SUCCESS,",
        b"ORCPT=a@b",
        b"ORCPT=;a@b",
        b"ORCPT=rfc822;",
        b"ORCPT=rfc822;" + b"x" * 500,
        b"ORCPT=rfc822;a+0Ab",
    ],
)
def test_bad_dsn_parameters_of_rcpt_are_501(parameter: bytes) -> None:
    """RFC 3461 sections 4.1 and 4.2."""
    assert ready(b"MAIL FROM:<>\r\nRCPT TO:<a@b> " + parameter + b"\r\n", settings=DSN).codes == [250, 501]


@pytest.mark.parametrize(
    "recipient", [("", "a@b"), ("rfc 822", "a@b"), ("rfc822", ""), ("rfc822", "a\r\nb"), ("rfc822", "x" * 500)]
)
def test_invalid_original_recipient_is_rejected(recipient: tuple[str, str]) -> None:
    """RFC 3461 section 4.2."""
    with pytest.raises(LocalProtocolError):
        smtp.OriginalRecipient(*recipient)


@pytest.mark.parametrize("envelope_id", ["x" * 101, "+" * 34, ""])
def test_invalid_envelope_id_is_rejected(envelope_id: str) -> None:
    """RFC 3461 section 4.4."""
    with pytest.raises(LocalProtocolError, match="envelope_id"):
        smtp.Mail(reverse_path=None, envelope_id=envelope_id)


@pytest.mark.parametrize("notify", [frozenset(), frozenset({Notify.NEVER, Notify.DELAY}), frozenset({"NEVER"})])
def test_invalid_notify_is_rejected(notify: frozenset[Any]) -> None:
    """RFC 3461 section 4.1."""
    with pytest.raises(LocalProtocolError, match="notify"):
        smtp.Rcpt(forward_path=A, notify=notify)


def test_dsn_and_limits_are_in_the_ehlo_reply_if_enabled() -> None:
    """RFC 3461 section 3; RFC 9422 section 2."""
    settings = smtp.ServerSettings(dsn=True, limits=True, max_transactions=20, max_recipients=100)
    lines = serve(b"EHLO c\r\n", settings=settings).lines
    assert lines[-2:] == ["250-DSN", "250 LIMITS MAILMAX=20 RCPTMAX=100"]


def test_requiretls_is_offered_and_accepted_only_inside_tls() -> None:
    """RFC 8689 section 2."""
    settings = smtp.ServerSettings(requiretls=True)
    line = b"MAIL FROM:<a@b> REQUIRETLS\r\n"
    inside = serve(b"EHLO c\r\n" + line, settings=settings, tls=TLS)
    assert "250-REQUIRETLS" in inside.lines
    assert inside.of(smtp.Mail) == [smtp.Mail(reverse_path=A, require_tls=True)]
    in_clear = serve(b"EHLO c\r\n" + line, settings=settings)
    assert not any("REQUIRETLS" in text for text in in_clear.lines[:-1])
    assert in_clear.codes[-1] == 555
    assert ready(line, tls=TLS).codes == [555]
    assert ready(b"MAIL FROM:<a@b> REQUIRETLS=1\r\n", settings=settings, tls=TLS).codes == [501]


def test_extra_parameters_are_reported_with_unchanged_values() -> None:
    """RFC 5321 section 2.2.1: for an application that supports more extensions than this library."""
    settings = smtp.ServerSettings(extra_parameters=frozenset({"MT-PRIORITY", "X-FLAG"}))
    session = ready(
        b"MAIL FROM:<a@b> mt-priority=-3 X-FLAG\r\nRCPT TO:<a@b> X-FLAG=Yes\r\nRCPT TO:<a@b> X-OTHER\r\n",
        settings=settings,
    )
    assert session.events[:2] == [
        smtp.Mail(reverse_path=A, parameters={"MT-PRIORITY": "-3", "X-FLAG": None}),
        smtp.Rcpt(forward_path=A, parameters={"X-FLAG": "Yes"}),
    ]
    assert session.codes == [250, 250, 555]


def test_extra_extensions_are_listed_in_the_ehlo_reply() -> None:
    """RFC 5321 section 4.1.1.1: with their parameters, in clear text and inside TLS, in reply to EHLO only."""
    settings = smtp.ServerSettings(
        extra_extensions=("MT-PRIORITY MIXER", "XFLAG"), extra_parameters=frozenset({"MT-PRIORITY"})
    )
    line = b"MAIL FROM:<a@b> MT-PRIORITY=3\r\n"
    for tls in (None, TLS):
        session = serve(b"EHLO c\r\n" + line, settings=settings, tls=tls)
        assert session.lines[-3:-1] == ["250-MT-PRIORITY MIXER", "250 XFLAG"]
        assert session.codes[-1] == 250
    assert serve(b"HELO c\r\n", settings=settings).lines[1:] == ["250 localhost"]


@pytest.mark.parametrize(
    "lines",
    [
        ("",),
        ("x-lower",),
        ("-X",),
        ("X=1",),
        ("X  two",),
        ("X ",),
        ("X a\tb",),
        ("X\r\nY",),
        ("X \N{LATIN SMALL LETTER E WITH ACUTE}",),
        ("X " + "y" * 505,),
        ("SIZE 3",),
        ("AUTH GSSAPI",),
        ("CHUNKING",),
        ("X 1", "X 2"),
    ],
)
def test_invalid_or_reserved_extra_extensions_are_rejected(lines: tuple[str, ...]) -> None:
    """RFC 5321 section 4.1.1.1: an extension with its own setting cannot be listed."""
    with pytest.raises(LocalProtocolError):
        smtp.ServerSettings(extra_extensions=lines)
