"""AUTH on the server (RFC 4954), and what is refused before a login."""

from __future__ import annotations

import pytest

from mailauth import ACCEPT, CloseReason, Tls, sasl, smtp
from tests.smtp.drive import IN_CLEAR, LEFT_OPEN, TLS, ready, serve

PLAIN = b"AUTH PLAIN " + sasl.encode_base64(b"\0test\0001234") + b"\r\n"
WRONG = b"AUTH PLAIN " + sasl.encode_base64(b"\0test\0wrong") + b"\r\n"


def b64(data: bytes) -> bytes:
    return sasl.encode_base64(data) + b"\r\n"


def test_authenticated_is_reported_before_the_235_reply_is_sent() -> None:
    """RFC 4954 section 4; the notice comes first, so that a grant exists before the 235 is sent."""
    session = ready(PLAIN)
    assert session.lines == ["235 2.7.0 authentication succeeded"]
    assert session.of(sasl.AuthenticationStarted, sasl.Authenticated) == [
        sasl.AuthenticationStarted(mechanism="PLAIN"),
        sasl.Authenticated(mechanism="PLAIN", identity="test"),
    ]
    told = session.log.index(sasl.Authenticated(mechanism="PLAIN", identity="test"))
    assert session.log[told + 1].data.startswith(b"235 ")
    assert session.server.identity == "test"


def test_login_mechanism_sends_its_two_prompts() -> None:
    """draft-murchison-sasl-login: two prompts."""
    session = ready(b"AUTH LOGIN\r\n", b64(b"test"), b64(b"1234"))
    assert session.lines == ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 2.7.0 authentication succeeded"]


def test_mechanism_names_are_case_insensitive() -> None:
    """RFC 4954 section 4."""
    assert ready(PLAIN.replace(b"PLAIN", b"pLaIn")).codes == [235]


def test_auth_is_503_after_a_login_and_inside_a_transaction() -> None:
    """RFC 4954 section 4: 503."""
    assert ready(PLAIN + PLAIN).lines[-1] == "503 5.5.1 already authenticated"
    assert ready(b"MAIL FROM:<>\r\n" + PLAIN).codes == [250, 503]
    assert ready(b"MAIL FROM:<>\r\nRSET\r\n" + PLAIN).codes == [250, 250, 235]


def test_a_mechanism_that_is_not_offered_is_504() -> None:
    """RFC 4954 section 4."""
    session = ready(b"AUTH SCRAM-FOO\r\n")
    assert session.codes == [504]
    assert session.events[0].line == b"AUTH SCRAM-FOO"


def test_only_listed_mechanisms_are_offered_and_accepted_without_tls() -> None:
    """RFC 4954 section 4: what is not offered is also refused, before any 334."""
    settings = smtp.ServerSettings(starttls=True)
    session = serve(b"EHLO c\r\n", PLAIN, b"AUTH LOGIN\r\nAUTH CRAM-MD5\r\n", settings=settings)
    assert not any("AUTH" in line for line in session.lines)
    assert session.codes == [220, 250, 504, 504, 504]
    assert session.of(sasl.AuthenticationStarted, sasl.CheckPassword) == []
    one = smtp.ServerSettings(mechanisms_without_tls=frozenset({"CRAM-MD5"}))
    session = serve(b"EHLO c\r\n", PLAIN, b"AUTH CRAM-MD5\r\n", settings=one)
    assert session.lines[-3] == "250 AUTH CRAM-MD5"
    assert session.codes == [220, 250, 504, 334]


def test_mechanism_that_requires_tls_is_504_without_it() -> None:
    """RFC 4954 section 4, which lists 538 only for historical purposes (section 6)."""
    settings = smtp.ServerSettings(starttls=True, mechanisms_without_tls=frozenset({"CRAM-MD5"}))
    session = serve(b"EHLO c\r\nAUTH PLAIN AHRlc3QAMTIzNA==\r\nAUTH UNKNOWN\r\n", settings=settings)
    assert session.lines[-2:] == [
        "504 5.5.4 encryption required for this mechanism",
        "504 5.5.4 authentication mechanism not supported",
    ]
    assert [event.line for event in session.of(smtp.CommandRejected)] == [b"AUTH PLAIN", b"AUTH UNKNOWN"]


def test_auth_without_any_mechanism_is_502() -> None:
    """RFC 5321 section 4.2.4."""
    settings = smtp.ServerSettings(mechanisms=sasl.Mechanisms({}))
    assert serve(b"EHLO c\r\nAUTH PLAIN\r\n", settings=settings).codes == [220, 250, 502]


def test_inside_tls_all_mechanisms_are_offered() -> None:
    """RFC 4954 section 4: PLAIN over TLS is mandatory."""
    session = serve(b"EHLO c\r\n" + PLAIN, settings=smtp.ServerSettings(), tls=TLS)
    assert "250 AUTH PLAIN LOGIN CRAM-MD5" in session.lines
    assert session.codes == [220, 250, 235]
    assert session.of(sasl.CheckPassword)[0].tls


BINDING = {"tls-server-end-point": b"x"}
CERTIFICATE = {"serialNumber": "01"}


@pytest.mark.parametrize(
    ("tls", "offered"),
    [
        (None, "PLAIN"),
        (Tls(version="TLSv1.3"), "PLAIN LOGIN"),
        (Tls(version="TLSv1.3", channel_bindings=BINDING), "SCRAM-SHA-256-PLUS PLAIN LOGIN"),
        (Tls(version="TLSv1.3", peer_certificate=CERTIFICATE), "EXTERNAL PLAIN LOGIN"),
        (
            Tls(version="TLSv1.3", channel_bindings=BINDING, peer_certificate=CERTIFICATE),
            "SCRAM-SHA-256-PLUS EXTERNAL PLAIN LOGIN",
        ),
    ],
)
def test_ehlo_reply_is_cached_for_each_kind_of_connection(tls: Tls | None, offered: str) -> None:
    """A client may repeat EHLO; each kind of connection with the same settings has its own reply."""
    settings = smtp.ServerSettings(
        mechanisms=sasl.ALL_MECHANISMS.only("SCRAM-SHA-256-PLUS", "EXTERNAL", "PLAIN", "LOGIN"),
        mechanisms_without_tls=frozenset({"PLAIN"}),
        scram_decoy=sasl.ScramDecoy(key=bytes(16)),
        starttls=True,
    )
    for other in (None, Tls(version="TLSv1.3", channel_bindings=BINDING, peer_certificate=CERTIFICATE), tls):
        settings.hello_reply(other)
    reply = settings.hello_reply(tls)
    assert f"AUTH {offered}\r\n".encode() in reply
    assert (b"STARTTLS\r\n" in reply) == (tls is None)
    assert settings.hello_reply(tls) is reply
    assert settings.offered(tls) == tuple(offered.split(" "))


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"AUTH PLAIN =\r\n", "501 5.5.2 malformed authentication response"),
        (b"AUTH LOGIN =\r\n", "501 5.5.2 malformed authentication response"),
        (b"AUTH CRAM-MD5 dGVzdA==\r\n", "501 5.5.4 initial response not allowed with this mechanism"),
        (b"AUTH CRAM-MD5 =\r\n", "501 5.5.4 initial response not allowed with this mechanism"),
        (b"AUTH PLAIN *\r\n", "501 5.5.2 invalid base64 in response"),
        (b"AUTH PLAIN\r\n*\r\n", "501 5.7.0 authentication cancelled"),
        (b"AUTH PLAIN\r\n=\r\n", "501 5.5.2 invalid base64 in response"),
        (b"AUTH PLAIN\r\nAHRlc3Q=ADEyMzQ=\r\n", "501 5.5.2 invalid base64 in response"),
        (b"AUTH PLAIN\r\nAHRlc3QAMTIzNA\r\n", "501 5.5.2 invalid base64 in response"),
        (b"AUTH PLAIN\r\n AHRlc3QAMTIzNA==\r\n", "501 5.5.2 invalid base64 in response"),
        (b"AUTH PLAIN\r\nAHRlc3Q\nAMTIzNA==\r\n", "501 5.5.2 invalid base64 in response"),
        (b"AUTH PLAIN AHRlc3QAMTIzNA== x\r\n", "501 5.5.2 invalid base64 in response"),
        (b"AUTH PLAIN\r\n\r\n", "501 5.5.2 malformed authentication response"),
    ],
)
def test_malformed_or_cancelled_exchange_is_501_and_ended(data: bytes, reply: str) -> None:
    """RFC 4954 section 4: only base64 is allowed."""
    session = ready(data + b"NOOP\r\n")
    assert session.lines[-2:] == [reply, "250 2.0.0 ok"]
    failed = session.of(sasl.AuthenticationFailed)
    assert len(failed) == 1
    assert isinstance(failed[0].reason, sasl.Fault)
    assert session.of(sasl.CheckPassword) == []


def test_response_over_12288_bytes_is_500() -> None:
    """RFC 4954 section 4: longer is 500 5.5.6."""
    most = ready(b"AUTH PLAIN\r\n", b"x" * 12_288 + b"\r\n")
    assert most.codes == [334, 501]
    more = ready(b"AUTH PLAIN\r\n", *[b"x" * 1_000] * 14, b"\r\nNOOP\r\n")
    assert more.lines[1:] == ["500 5.5.6 authentication exchange line is too long", "250 2.0.0 ok"]
    assert more.of(sasl.AuthenticationFailed)[0].reason is sasl.Fault.TOO_LONG


def test_reply_535_is_identical_for_every_cause() -> None:
    """RFC 4954 section 6, architecture.md, invariant 6."""
    acting = b"AUTH PLAIN " + b64(b"bob\0test\0001234")
    digest = b"AUTH CRAM-MD5\r\n" + b64(b"nobody " + b"0" * 32)
    wrong_digest = b"AUTH CRAM-MD5\r\n" + b64(b"tim " + b"0" * 32)
    unknown = b"AUTH PLAIN " + b64(b"\0nobody\0001234")
    causes = {ready(data).lines[-1] for data in (WRONG, unknown, acting, digest, wrong_digest)}
    assert causes == {"535 5.7.8 authentication credentials invalid"}


@pytest.mark.parametrize(
    ("refusal", "reply"),
    [
        (sasl.Refusal.TEMPORARY, "454 4.7.0 temporary authentication failure"),
        (sasl.Refusal.TRANSITION_NEEDED, "432 4.7.12 password transition needed"),
        (sasl.Refusal.TOO_WEAK, "534 5.7.9 authentication mechanism is too weak"),
    ],
)
def test_other_rejections_have_their_own_reply_codes(refusal: sasl.Refusal, reply: str) -> None:
    """RFC 4954 section 6."""
    assert ready(PLAIN, answers={sasl.CheckPassword: refusal}).lines == [reply]


def test_third_failed_login_ends_the_session_with_421() -> None:
    """RFC 4954 section 9: not before three."""
    session = ready(WRONG * 3 + PLAIN)
    assert session.codes == [535, 535, 535, 421]
    assert session.closed is not None
    assert session.closed.reason is CloseReason.TOO_MANY_ERRORS
    assert ready(WRONG * 2 + PLAIN).codes == [535, 535, 235]


def test_temporary_failures_do_not_count_as_failed_logins() -> None:
    """RFC 4954 section 6: 454 allows the client to try again."""
    verdicts: list[object] = [sasl.Refusal.TEMPORARY] * 5
    assert ready(PLAIN * 6, answers={sasl.CheckPassword: verdicts}).codes == [454] * 5 + [235]


def test_cancelled_exchanges_count_as_errors() -> None:
    settings = smtp.ServerSettings(mechanisms_without_tls=IN_CLEAR.mechanisms_without_tls, max_errors=3)
    session = ready(b"AUTH PLAIN\r\n*\r\n" * 3, settings=settings)
    assert session.codes == [334, 501, 334, 501, 334, 501, 421]


def test_different_authorization_identity_requires_authorization() -> None:
    """RFC 4422 section 3.4.1."""
    session = ready(b"AUTH PLAIN " + b64(b"bob\0test\0001234"), answers={sasl.Authorize: ACCEPT})
    assert session.server.identity == "bob"
    assert len(session.of(sasl.Authorize)) == 1


def test_data_after_auth_is_not_processed_until_the_question_is_answered() -> None:
    """RFC 4954 section 4: they are the response if one is due, and the next command if not."""
    session = ready(PLAIN + b"NOOP\r\n", answers={sasl.CheckPassword: LEFT_OPEN})
    assert session.data == b""
    session.answer(ACCEPT)
    assert session.codes == [235, 250]


def test_authentication_required_rejects_mail_until_a_login() -> None:
    """RFC 6409 section 4.3: 530."""
    settings = smtp.ServerSettings(authentication_required=True, mechanisms_without_tls=IN_CLEAR.mechanisms_without_tls)
    session = ready(b"MAIL FROM:<>\r\n" + PLAIN + b"MAIL FROM:<>\r\n", settings=settings)
    assert session.lines == [
        "530 5.7.0 authentication required",
        "235 2.7.0 authentication succeeded",
        "250 2.1.0 sender ok",
    ]


def test_login_persists_across_ehlo_rset_and_transactions() -> None:
    """RFC 4954 section 4; only STARTTLS ends it."""
    session = ready(PLAIN + b"EHLO c\r\nRSET\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n.\r\n")
    assert session.server.identity == "test"


def test_rejected_auth_line_is_reported_without_its_initial_response() -> None:
    """architecture.md, invariant 6."""
    session = ready(b"MAIL FROM:<>\r\n" + PLAIN + b"AUTH FOO c2VjcmV0\r\nAUTH P/IN c2VjcmV0\r\n")
    assert [event.line for event in session.of(smtp.CommandRejected)] == [b"AUTH PLAIN", b"AUTH FOO", b"AUTH"]
