"""The client setting for content with bare LF, and parameters that the server did not offer (RFC 5321)."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mailauth import LocalProtocolError, MessageChunk, smtp
from tests.smtp.drive import TLS, Session, each_cut, greeted

MAIL = smtp.Mail(reverse_path=None)
RCPT = smtp.Rcpt(forward_path=smtp.Mailbox("c", "d"))
LF = smtp.ClientSettings(lf_to_crlf=True)


def writing(settings: smtp.ClientSettings | None = LF) -> Session:
    session = greeted("PIPELINING", settings=settings).send(MAIL, RCPT, smtp.Data())
    return session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n").forget()


def test_bare_lf_is_sent_as_crlf_only_with_lf_to_crlf() -> None:
    """RFC 5321 section 2.3.8, at any split: CRLF stays CRLF, and a dot after an LF is stuffed."""
    content = b"\none\n.two\r\n\n.\r\nthree"
    for pieces in each_cut(content):
        session = writing().send(*(MessageChunk(data=piece) for piece in pieces), smtp.MessageComplete())
        assert session.data == b"\r\none\r\n..two\r\n\r\n..\r\nthree\r\n.\r\n"
    with pytest.raises(LocalProtocolError):
        writing(None).client.send(MessageChunk(data=content))


@pytest.mark.parametrize("bad", [b"a\rb", b"a\0b", b"\r\r\n", b"a\n\rb"])
def test_bare_cr_and_nul_are_rejected_with_lf_to_crlf(bad: bytes) -> None:
    """RFC 5321 section 2.3.8; valid content may follow."""
    session = writing().send(MessageChunk(data=b"good\n"))
    with pytest.raises(LocalProtocolError):
        session.client.send(MessageChunk(data=bad))
    session.send(MessageChunk(data=b"more\n"), smtp.MessageComplete())
    assert session.data == b"good\r\nmore\r\n.\r\n"


@given(
    st.lists(st.sampled_from([b"\n", b"\r\n", b".", b"text"]), max_size=12), st.lists(st.integers(0, 40), max_size=4)
)
def test_lf_conversion_is_independent_of_splitting(words: list[bytes], places: list[int]) -> None:
    """architecture.md, invariant 8."""
    content = b"".join(words)
    cuts = sorted({0, *(place for place in places if place < len(content))})
    session = writing()
    for start, end in zip(cuts, [*cuts[1:], len(content)], strict=True):
        session.send(MessageChunk(data=content[start:end]))
    whole = writing().send(MessageChunk(data=content))
    assert session.data == whole.data
    assert b"\n" not in whole.data.replace(b"\r\n", b"")


@pytest.mark.parametrize(
    ("mail", "offer", "word"),
    [
        (smtp.Mail(reverse_path=None, size=5), ("8BITMIME", "AUTH PLAIN"), "SIZE"),
        (smtp.Mail(reverse_path=None, body=smtp.Body.EIGHT_BIT_MIME), ("SIZE", "CHUNKING"), "8BITMIME"),
        (smtp.Mail(reverse_path=None, body=smtp.Body.SEVEN_BIT), ("SIZE",), "8BITMIME"),
        (smtp.Mail(reverse_path=None, body=smtp.Body.BINARY_MIME), ("8BITMIME", "CHUNKING"), "BINARYMIME"),
        (smtp.Mail(reverse_path=None, body=smtp.Body.BINARY_MIME), ("8BITMIME", "BINARYMIME"), "CHUNKING"),
        (smtp.Mail(reverse_path=None, auth="<>"), ("SIZE", "8BITMIME"), "AUTH"),
    ],
)
def test_parameter_not_offered_raises_and_names_the_extension(
    mail: smtp.Mail, offer: tuple[str, ...], word: str
) -> None:
    """RFC 5321 section 4.1.1.11, RFC 1870, 6152, 3030 and 4954: nothing is sent."""
    session = greeted("PIPELINING", *offer)
    with pytest.raises(LocalProtocolError, match=f"does not offer {word}"):
        session.client.send(mail)
    assert session.pull().data == b""
    assert session.send(MAIL).data == b"MAIL FROM:<>\r\n"


def test_requiretls_is_not_sent_without_tls() -> None:
    """RFC 8689 section 2: it may be offered inside TLS only, so an offer in clear text is not trusted."""
    mail = smtp.Mail(reverse_path=None, require_tls=True)
    session = greeted("REQUIRETLS")
    with pytest.raises(LocalProtocolError, match="REQUIRETLS"):
        session.client.send(mail)
    assert session.pull().data == b""
    assert greeted("REQUIRETLS", tls=TLS).send(mail).data == b"MAIL FROM:<> REQUIRETLS\r\n"


def test_parameters_that_are_offered_are_sent() -> None:
    """RFC 5321 section 4.1.1.11."""
    session = greeted("SIZE 1000", "8BITMIME", "AUTH PLAIN", "CHUNKING", "BINARYMIME")
    session.send(smtp.Mail(reverse_path=None, size=1_000, body=smtp.Body.BINARY_MIME, auth="<>"))
    assert session.data == b"MAIL FROM:<> SIZE=1000 BODY=BINARYMIME AUTH=<>\r\n"


@pytest.mark.parametrize(
    ("offer", "allowed"), [("SIZE 1000", False), ("SIZE 0", True), ("SIZE", True), ("SIZE x", True)]
)
def test_message_larger_than_the_advertised_size_raises(offer: str, allowed: bool) -> None:
    """RFC 1870 section 4: 0 or no number means that no limit is announced."""
    session = greeted(offer)
    mail = smtp.Mail(reverse_path=None, size=1_001)
    if allowed:
        assert session.send(mail).data == b"MAIL FROM:<> SIZE=1001\r\n"
    else:
        with pytest.raises(LocalProtocolError, match="at most 1000 bytes"):
            session.client.send(mail)
