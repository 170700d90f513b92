"""Non-ASCII mailboxes, on both sides (RFC 6531), and the address type utf-8 of DSN (RFC 6533)."""

from __future__ import annotations

import attrs
import pytest

from mailauth import Command, LocalProtocolError, MessageChunk, smtp
from tests.smtp.drive import ENTROPY, IN_CLEAR, TLS, Session, converse, greeted, ready, serve

UTF8 = attrs.evolve(IN_CLEAR, smtputf8=True, dsn=True)
PELE = smtp.Mailbox("pelé", "bücher.example")
MAIL = "MAIL FROM:<pelé@bücher.example> SMTPUTF8\r\n".encode()
RCPT = "RCPT TO:<用户@例え.テスト>\r\n".encode()
USER = smtp.Mailbox("用户", "例え.テスト")


def test_smtputf8_is_offered_only_if_enabled() -> None:
    """RFC 6531 section 3.1: without a parameter; the greeting and the EHLO reply stay ASCII (section 3.7.1)."""
    for tls in (None, TLS):
        assert "250-SMTPUTF8" in serve(b"EHLO c\r\n", settings=UTF8, tls=tls).lines
    assert not any("UTF8" in line for line in serve(b"EHLO c\r\n").lines)
    with pytest.raises(LocalProtocolError):
        smtp.ServerSettings(host_name="bücher.example", smtputf8=True)


def test_smtputf8_setting_requires_8bitmime() -> None:
    """RFC 6531 section 3.1 point 8."""
    with pytest.raises(LocalProtocolError, match="eight_bit_mime"):
        smtp.ServerSettings(smtputf8=True, eight_bit_mime=False)


def test_smtputf8_transaction_accepts_non_ascii_mailboxes() -> None:
    """RFC 6531 section 3.2: the mailboxes are reported as written."""
    session = ready(MAIL + RCPT + b"RCPT TO:<a@b>\r\nDATA\r\n.\r\n", settings=UTF8)
    assert session.codes == [250, 250, 250, 354, 250]
    assert session.events[:2] == [
        smtp.Mail(reverse_path=PELE, smtputf8=True),
        smtp.Rcpt(forward_path=USER),
    ]
    assert session.of(smtp.MessageComplete)[0].recipients == (USER, smtp.Mailbox("a", "b"))
    ascii_alone = ready(b"mail from:<a@b> smtputf8\r\n" + RCPT, settings=UTF8)
    assert ascii_alone.codes == [250, 250]
    assert ascii_alone.events[0] == smtp.Mail(reverse_path=smtp.Mailbox("a", "b"), smtputf8=True)


@pytest.mark.parametrize(
    ("path", "mailbox", "route"),
    [
        ('"pelé b"@c.d', smtp.Mailbox("pelé b", "c.d"), ()),
        ('"é\\"\\\\"@c', smtp.Mailbox('é"\\', "c"), ()),
        ("é.ü@xn--bcher-kva.example", smtp.Mailbox("é.ü", "xn--bcher-kva.example"), ()),
        ("a@bücher-läden.example", smtp.Mailbox("a", "bücher-läden.example"), ()),
        ("@bücher.example,@r:a@b", smtp.Mailbox("a", "b"), ("bücher.example", "r")),
        ("e\N{COMBINING ACUTE ACCENT}@b", smtp.Mailbox("e\N{COMBINING ACUTE ACCENT}", "b"), ()),
        ("\N{ZERO WIDTH JOINER}@b", smtp.Mailbox("\N{ZERO WIDTH JOINER}", "b"), ()),
        ("\N{GRINNING FACE}@b", smtp.Mailbox("\N{GRINNING FACE}", "b"), ()),
    ],
)
def test_non_ascii_mailbox_forms_are_parsed(path: str, mailbox: smtp.Mailbox, route: tuple[str, ...]) -> None:
    """RFC 6531 section 3.3: atoms, quoted strings and labels; nothing is normalized."""
    session = ready(f"MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<{path}>\r\n".encode(), settings=UTF8)
    assert session.events[1:] == [smtp.Rcpt(forward_path=mailbox, source_route=route)]


def test_non_ascii_mailbox_without_smtputf8_is_rejected() -> None:
    """RFC 6531 section 3.5: 550 to MAIL, 553 to RCPT; SMTPUTF8 applies to one transaction."""
    session = ready(MAIL.replace(b" SMTPUTF8", b""), settings=UTF8)
    assert session.lines == ["550 5.6.7 non-ASCII sender address requires SMTPUTF8"]
    session = ready(b"MAIL FROM:<a@b>\r\n" + RCPT, settings=UTF8)
    assert session.lines[1:] == ["553 5.6.7 non-ASCII recipient address requires SMTPUTF8 in MAIL"]
    for ending in (b"RSET\r\n", b"EHLO c\r\n", b"RCPT TO:<a@b>\r\nDATA\r\n.\r\n"):
        session = ready(MAIL + ending, settings=UTF8).forget().receive(b"MAIL FROM:<a@b>\r\n" + RCPT)
        assert session.codes == [250, 553]
    refused = ready(MAIL, settings=UTF8, answers={smtp.Mail: [smtp.Reply(450, "4.2.0", "no")]})
    assert refused.receive(b"MAIL FROM:<a@b>\r\n" + RCPT).codes == [450, 250, 553]
    assert ready(RCPT, settings=UTF8).codes == [503]


def test_smtputf8_with_a_value_or_not_offered_is_rejected() -> None:
    """RFC 6531 section 3.4; RFC 5321 section 4.1.1.11."""
    assert ready(b"MAIL FROM:<a@b> SMTPUTF8=1\r\n", settings=UTF8).codes == [501]
    assert ready(b"MAIL FROM:<a@b> SMTPUTF8\r\n").codes == [555]
    assert ready(MAIL).codes == [500]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\xc3",
        b"\xc0\xaf",  # overlong
        b"\xed\xa0\x80",  # a surrogate
        b"\xf4\x90\x80\x80",  # over U+10FFFF
        b"\xc2\x85",  # NEL, of C1
        b"\xc2\x9f",
        b"\xe2\x80\xa8",  # U+2028 and U+2029: line ends for some programs
        b"\xe2\x80\xa9",
        b"\0",
        b"\x7f",
        b"\r",
        b"\n",
    ],
)
def test_invalid_utf_8_and_control_characters_are_500(data: bytes) -> None:
    """RFC 6532 section 3.1; RFC 3629 section 3."""
    for line in (b'MAIL FROM:<"%b"@b> SMTPUTF8', b"VRFY x%by"):
        session = ready(line % data + b"\r\nNOOP\r\n", settings=UTF8)
        assert session.codes == [500, 250]
        assert session.of(smtp.CommandRejected)[0].line == line % data


@pytest.mark.parametrize(
    "path",
    [
        "a@bücher。example",  # the three other dots of RFC 3490 section 3.1
        "a@b\N{FULLWIDTH FULL STOP}c",
        "a@b\N{HALFWIDTH IDEOGRAPHIC FULL STOP}c",
        "a@-ü",
        "a@ü-",
        "a@ü..b",
        "é a@b",
        '"\\é"@b',  # a quoted pair must be ASCII
        "a@[ü]",
        "Ü",
        "\N{FULLWIDTH LESS-THAN SIGN}a@b\N{FULLWIDTH GREATER-THAN SIGN}@c>",
    ],
)
def test_invalid_non_ascii_mailbox_is_501(path: str) -> None:
    """RFC 6531 section 3.3."""
    assert ready(f"MAIL FROM:<> SMTPUTF8\r\nRCPT TO:<{path}>\r\n".encode(), settings=UTF8).codes == [250, 501]


@pytest.mark.parametrize("line", ["NOOP é", "HELP é", "é", "R\N{LATIN SMALL LETTER LONG S}ET"])
def test_non_ascii_in_other_commands_is_500(line: str) -> None:
    """RFC 6531 sections 3.2 and 3.7.1; no character becomes ASCII by case folding."""
    assert ready(f"{line}\r\n".encode(), settings=UTF8).codes == [500]
    folded = "MA\N{LATIN SMALL LETTER DOTLESS I}L FROM:<>\r\n"
    assert ready(folded.encode(), settings=UTF8).codes == [500]


@pytest.mark.parametrize("value", ["BODY=8BITM\N{LATIN SMALL LETTER DOTLESS I}ME", "AUTH=é", "ENVID=é", "SIZE=²", "É"])
def test_non_ascii_in_other_parameters_is_501(value: str) -> None:
    """RFC 6531 section 3.3 extends the grammar of values, not these parameters."""
    assert ready(f"MAIL FROM:<> SMTPUTF8 {value}\r\n".encode(), settings=UTF8).codes == [501]


def test_extra_parameter_accepts_a_non_ascii_value_with_smtputf8() -> None:
    """RFC 6531 section 3.3: esmtp-value."""
    settings = attrs.evolve(UTF8, extra_parameters=frozenset({"X-NAME"}))
    session = ready("MAIL FROM:<> SMTPUTF8 X-NAME=é\r\n".encode(), settings=settings)
    assert session.events == [smtp.Mail(reverse_path=None, smtputf8=True, parameters={"X-NAME": "é"})]
    assert ready("MAIL FROM:<> X-NAME=é\r\n".encode(), settings=settings).codes == [550]


def test_length_limits_count_bytes_not_characters() -> None:
    """RFC 6531 section 3.3, RFC 5321 section 4.5.3.1."""
    begin = b"MAIL FROM:<> SMTPUTF8\r\n"
    for local_part, domain, code in (
        ("é" * 32, "b", 250),
        ("é" * 126 + "a", "b", 501),
        ("a", "é" * 126, 250),  # a path of 256 bytes
        ("a", "é" * 126 + "b", 501),
    ):
        assert ready(begin + f"RCPT TO:<{local_part}@{domain}>\r\n".encode(), settings=UTF8).codes == [250, code]
    with pytest.raises(LocalProtocolError):
        smtp.Mailbox("é" * 126 + "a", "b")
    with pytest.raises(LocalProtocolError):
        smtp.Mailbox("a", "é" * 128)


@pytest.mark.parametrize("part", ["\ud800", "a\x85b", "\u2028", "\x9f", "a\nb"])
def test_mailbox_rejects_line_ends_control_characters_and_surrogates(part: str) -> None:
    """CRLF injection."""
    for parts in ((part, "b"), ("a", part)):
        with pytest.raises(LocalProtocolError):
            smtp.Mailbox(*parts)


def test_non_ascii_mailboxes_are_compared_without_normalization() -> None:
    """RFC 6531 section 3.2: case and normalization are left to the receiving host."""
    composed, decomposed = smtp.Mailbox("é", "b"), smtp.Mailbox("e\N{COMBINING ACUTE ACCENT}", "b")
    assert composed != decomposed
    assert smtp.Mailbox("a", "bücher.example") != smtp.Mailbox("a", "xn--bcher-kva.example")
    assert str(PELE) == "pelé@bücher.example"
    assert smtp.Mailbox.parse("pelé@bücher.example") == PELE


def test_vrfy_accepts_smtputf8_and_the_reply_is_ascii() -> None:
    """RFC 6531 section 3.7.4.2."""
    session = ready("VRFY pelé\r\nVRFY pelé b smtputf8\r\nVRFY SMTPUTF8\r\n".encode(), settings=UTF8)
    assert session.codes == [252, 252, 252]
    assert session.data.isascii()
    assert session.events == [
        smtp.Vrfy(argument="pelé"),
        smtp.Vrfy(argument="pelé b", smtputf8=True),
        smtp.Vrfy(argument="SMTPUTF8"),
    ]
    assert ready(b"VRFY a SMTPUTF8\r\n").codes == [555]


@pytest.mark.parametrize(
    ("value", "recipient"),
    [
        ("utf-8;pel\\x{E9}@b", smtp.OriginalRecipient("utf-8", "pelé@b")),
        (
            "UTF-8;a\\x{2B}b\\x{3D}\\x{5C}\\x{20}@\\x{1F600}",
            smtp.OriginalRecipient("UTF-8", "a+b=\\ @\N{GRINNING FACE}"),
        ),
        ("utf-8;a/b@c", smtp.OriginalRecipient("utf-8", "a/b@c")),
    ],
)
def test_orcpt_address_type_utf_8_is_decoded(value: str, recipient: smtp.OriginalRecipient) -> None:
    """RFC 6533 section 3: if DSN is on; in its ASCII form also without SMTPUTF8."""
    line = f"RCPT TO:<a@b> ORCPT={value}\r\n".encode()
    assert ready(b"MAIL FROM:<>\r\n" + line, settings=UTF8).events[1].original_recipient == recipient
    dsn = smtp.ServerSettings(dsn=True)
    assert ready(b"MAIL FROM:<>\r\n" + line, settings=dsn).events[1].original_recipient == recipient
    assert ready(b"MAIL FROM:<>\r\n" + line).codes == [250, 555]
    assert smtp.Rcpt(forward_path=smtp.Mailbox("a", "b"), original_recipient=recipient).to_wire() == line


def test_orcpt_with_raw_utf_8_is_accepted_only_with_smtputf8() -> None:
    """RFC 6533 section 3: utf-8-addr-unitext."""
    line = "RCPT TO:<a@b> ORCPT=utf-8;pelé@b\r\n".encode()
    session = ready(b"MAIL FROM:<> SMTPUTF8\r\n" + line, settings=UTF8)
    assert session.events[1].original_recipient == smtp.OriginalRecipient("utf-8", "pelé@b")
    assert ready(b"MAIL FROM:<>\r\n" + line, settings=UTF8).codes == [250, 553]


@pytest.mark.parametrize(
    "value",
    [
        "utf-8;a\\b",
        "utf-8;\\x{41}",
        "utf-8;\\x{0E9}",
        "utf-8;\\x{e9}",
        "utf-8;\\x{D800}",
        "utf-8;\\x{110000}",
        "utf-8;\\x{85}",
        "utf-8;\\x{0A}",
        "utf-8;a+2Bb",
        "utf-8;",
        "rfc822;é",
        "é;a",
    ],
)
def test_invalid_orcpt_with_smtputf8_is_501(value: str) -> None:
    """RFC 6533 section 3, RFC 3461 section 4.2."""
    line = f"RCPT TO:<a@b> ORCPT={value}\r\n".encode()
    assert ready(b"MAIL FROM:<> SMTPUTF8\r\n" + line, settings=UTF8).codes == [250, 501]


# The client

BEYOND = smtp.Mail(reverse_path=PELE, smtputf8=True)
PLAIN = smtp.Mail(reverse_path=smtp.Mailbox("a", "b"))


@pytest.mark.parametrize(
    "command",
    [
        BEYOND,
        smtp.Mail(reverse_path=None, smtputf8=True),
        smtp.Vrfy(argument="pelé"),
        smtp.Vrfy(argument="a", smtputf8=True),
    ],
)
def test_client_sends_neither_smtputf8_nor_non_ascii_if_not_offered(command: Command) -> None:
    """RFC 6531 section 3.2: the error names what is missing, and the session continues."""
    session = greeted("8BITMIME")
    with pytest.raises(LocalProtocolError, match="SMTPUTF8"):
        session.client.send(command)
    assert session.pull().sends == []
    assert session.send(PLAIN).data == b"MAIL FROM:<a@b>\r\n"
    with pytest.raises(LocalProtocolError, match="SMTPUTF8"):
        session.client.send(smtp.Rcpt(forward_path=USER))


def test_client_requires_explicit_smtputf8_for_non_ascii_mailboxes() -> None:
    """RFC 6531 section 3.4: only the client knows the recipients and headers that follow."""
    session = greeted("SMTPUTF8", "PIPELINING")
    with pytest.raises(LocalProtocolError, match="smtputf8=True"):
        session.client.send(smtp.Mail(reverse_path=PELE))
    session.send(PLAIN)
    with pytest.raises(LocalProtocolError, match="smtputf8=True"):
        session.client.send(smtp.Rcpt(forward_path=USER))
    session.send(smtp.Rset()).forget()
    session.send(BEYOND, smtp.Rcpt(forward_path=USER), smtp.Rset(), PLAIN)
    assert session.data == MAIL + RCPT + b"RSET\r\nMAIL FROM:<a@b>\r\n"


def test_ambiguous_or_invalid_vrfy_argument_is_rejected() -> None:
    """RFC 6531 section 3.7.4.2."""
    for argument in ("a SMTPUTF8", "a smtputf8", "a\x85", "\ud800", " "):
        with pytest.raises(LocalProtocolError):
            smtp.Vrfy(argument=argument)
    assert smtp.Vrfy(argument="a SMTPUTF8", smtputf8=True).to_wire() == b"VRFY a SMTPUTF8 SMTPUTF8\r\n"


@pytest.mark.parametrize("lmtp", [False, True])
def test_client_and_server_exchange_a_non_ascii_transaction(lmtp: bool) -> None:
    """Client and server connected; the messages are the same bytes."""
    server = Session(smtp.ServerConnection(attrs.evolve(UTF8, lmtp=lmtp), entropy=ENTROPY)).pull()
    client = Session(smtp.ClientConnection()).pull().receive(server.data)

    def say(*commands: Command) -> None:
        for command in commands:
            client.client.send(command)
        converse(client, server)

    recipient = smtp.Rcpt(forward_path=USER, original_recipient=smtp.OriginalRecipient("utf-8", "用 户+@例え.テスト"))
    content = "Subject: grüße\r\n\r\ngrüße\r\n".encode()
    say(smtp.Hello(domain="c", lmtp=lmtp))
    say(BEYOND, recipient, smtp.Data())
    say(MessageChunk(data=content), smtp.MessageComplete())
    say(smtp.Vrfy(argument="pelé", smtputf8=True), PLAIN, smtp.Rcpt(forward_path=smtp.Mailbox("a", "b")), smtp.Rset())
    assert [event.reply.code for event in client.of(smtp.ReplyReceived)] == [
        220,
        250,
        250,
        250,
        354,
        250,
        252,
        250,
        250,
        250,
    ]
    assert server.of(smtp.Mail, smtp.Rcpt) == [BEYOND, recipient, PLAIN, smtp.Rcpt(forward_path=smtp.Mailbox("a", "b"))]
    assert server.content == content
    assert server.data.isascii()
