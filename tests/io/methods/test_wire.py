"""Searching a record of network traffic: what is readable, in which form, and what TLS or a digest hides."""

from __future__ import annotations

import base64
import hashlib
import hmac

import pytest

from mailauth_io.methods.wire import Conversation, Seen, all_in_tls, decoded_tokens, look_for, look_for_secret

CLIENT_HELLO = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"
SERVER_HELLO = b"\x16\x03\x03\x00\x05\x02\x00\x00\x01\x00"
APPLICATION_DATA = b"\x17\x03\x03\x00\x04\x9a\xf3\x00\x81"


def said(from_client: bytes, from_server: bytes = b"") -> list[Conversation]:
    return [Conversation(from_client=from_client, from_server=from_server)]


def token(data: bytes) -> bytes:
    return base64.b64encode(data)


def test_plaintext_from_client_is_clear() -> None:
    assert look_for(b"alice", said(b"USER alice\r\n")) is Seen.CLEAR


def test_plaintext_from_server_is_clear() -> None:
    assert look_for(b"alice", said(b"", b"+OK welcome alice\r\n")) is Seen.CLEAR


def test_search_is_case_insensitive() -> None:
    assert look_for(b"alice", said(b"user ALICE\r\n")) is Seen.CLEAR


def test_plaintext_password_with_space_is_clear() -> None:
    assert look_for(b"open sesame", said(b"PASS open sesame\r\n")) is Seen.CLEAR


@pytest.mark.parametrize("before", [b"", b"a", b"bc", b"def"])
@pytest.mark.parametrize("after", [b"", b"z", b"yx", b"wvu"])
def test_value_in_base64_is_found_at_every_alignment(before: bytes, after: bytes) -> None:
    line = b"334 " + token(before + b"alice" + after) + b"\r\n"
    assert look_for(b"alice", said(line)) is Seen.BASE64


@pytest.mark.parametrize("glued", [b"", b"A", b"AB", b"ABC", b"ABCD"])
def test_base64_token_is_found_at_any_offset(glued: bytes) -> None:
    assert look_for(b"open sesame", said(glued + token(b"\0alice\0open sesame") + b"\r\n")) is Seen.BASE64


def test_each_field_of_a_plain_response_is_found_in_base64() -> None:
    """RFC 4616 section 2: the fields are separated by NUL."""
    record = said(b"AUTH PLAIN " + token(b"\0alice\0open sesame") + b"\r\n")
    assert look_for(b"alice", record) is Seen.BASE64
    assert look_for_secret(b"open sesame", record) is Seen.BASE64


def test_base64_without_padding_is_decoded() -> None:
    assert look_for(b"alice", said(token(b"alice").rstrip(b"=") + b"\r\n")) is Seen.BASE64


def test_plaintext_takes_precedence_over_base64() -> None:
    assert look_for(b"alice", said(token(b"alice") + b"\r\nMAIL FROM:<alice@x>\r\n")) is Seen.CLEAR


def test_one_plaintext_conversation_among_tls_is_clear() -> None:
    hidden = Conversation(from_client=CLIENT_HELLO + APPLICATION_DATA, from_server=SERVER_HELLO)
    assert look_for(b"alice", [hidden, *said(b"USER alice\r\n"), hidden]) is Seen.CLEAR


def test_absent_value_is_tls_only_if_the_whole_record_is_tls() -> None:
    hidden = Conversation(from_client=CLIENT_HELLO + APPLICATION_DATA, from_server=SERVER_HELLO)
    other = said(b"QUIT\r\n", b"+OK\r\n")
    assert look_for(b"alice", [hidden]) is Seen.TLS
    for record in (other, [hidden, *other], [*other, hidden]):
        assert look_for(b"alice", record) is Seen.NOT_SEEN


def test_apop_digest_is_recognized() -> None:
    """The example of RFC 1939 section 7."""
    record = said(
        b"APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\n",
        b"+OK POP3 server ready <1896.697170952@dbc.mtview.ca.us>\r\n",
    )
    assert look_for_secret(b"tanstaaf", record) is Seen.DIGEST
    assert look_for_secret(b"another", record) is Seen.NOT_SEEN


def test_cram_md5_digest_is_recognized() -> None:
    """The example of RFC 2195 section 2."""
    record = said(
        token(b"tim b913a602c7eda7a495b4e6e7334d3890") + b"\r\n",
        b"334 " + token(b"<1896.697170952@postoffice.reston.mci.net>") + b"\r\n",
    )
    assert look_for_secret(b"tanstaaftanstaaf", record) is Seen.DIGEST


def test_digest_for_challenge_of_another_conversation_is_not_seen() -> None:
    challenge = b"<1@x>"
    digest = hmac.new(b"open sesame", challenge, "md5").hexdigest().encode()
    record = [*said(b"", b"+OK " + challenge + b"\r\n"), *said(b"APOP alice " + digest + b"\r\n")]
    assert look_for_secret(b"open sesame", record) is Seen.NOT_SEEN


def test_plaintext_password_takes_precedence_over_its_digest() -> None:
    challenge = b"<1@x>"
    digest = hashlib.md5(challenge + b"open sesame").hexdigest().encode()
    record = said(b"APOP alice " + digest + b"\r\nPASS open sesame\r\n", b"+OK " + challenge + b"\r\n")
    assert look_for_secret(b"open sesame", record) is Seen.CLEAR


def test_implicit_tls_is_recognized() -> None:
    record = [Conversation(from_client=CLIENT_HELLO + APPLICATION_DATA, from_server=SERVER_HELLO + APPLICATION_DATA)]
    assert look_for(b"alice", record) is Seen.TLS


def test_data_after_starttls_upgrade_is_tls() -> None:
    record = [
        Conversation(
            from_client=b"EHLO c\r\nSTARTTLS\r\n" + CLIENT_HELLO + APPLICATION_DATA,
            from_server=b"220 s\r\n250 STARTTLS\r\n220 go\r\n" + SERVER_HELLO,
        )
    ]
    assert look_for(b"alice", record) is Seen.TLS


def test_plaintext_before_starttls_upgrade_is_clear() -> None:
    record = [Conversation(from_client=b"EHLO alice\r\nSTARTTLS\r\n" + CLIENT_HELLO, from_server=SERVER_HELLO)]
    assert look_for(b"alice", record) is Seen.CLEAR


def test_plaintext_after_handshake_is_not_all_in_tls() -> None:
    timing_warning = CLIENT_HELLO + APPLICATION_DATA + b"MAIL FROM:<x@y>\r\n"
    assert not all_in_tls([Conversation(from_client=timing_warning, from_server=SERVER_HELLO)])


def test_one_plaintext_conversation_is_not_all_in_tls() -> None:
    hidden = Conversation(from_client=CLIENT_HELLO + APPLICATION_DATA, from_server=SERVER_HELLO)
    assert all_in_tls([hidden])
    assert not all_in_tls([hidden, *said(b"EHLO c\r\n", b"220 s\r\n")])


def test_handshake_without_application_data_is_not_all_in_tls() -> None:
    assert not all_in_tls([Conversation(from_client=CLIENT_HELLO, from_server=SERVER_HELLO)])
    assert not all_in_tls([])


def test_truncated_last_record_is_still_tls() -> None:
    cut = CLIENT_HELLO + APPLICATION_DATA + APPLICATION_DATA[:3]
    assert all_in_tls([Conversation(from_client=cut, from_server=SERVER_HELLO)])


def test_arbitrary_bytes_raise_no_exception() -> None:
    for data in (bytes(range(256)) * 3, b"A", b"AAAAA", b"=", b"====", b"\x16\x03\x01", b"\r\n" + CLIENT_HELLO[:6]):
        list(decoded_tokens(data))
        look_for_secret(b"x", said(data, data))
