"""The message and its envelope: what is sent for each kind of message, and what is refused before anything is sent."""

from __future__ import annotations

import email
import email.message
import email.policy
import io
from collections.abc import Iterable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from mailauth import smtp
from mailauth_io import client
from mailauth_io.client import sync
from tests.io.client.peers import Peer, Script, ehlo, smtp_server
from tests.io.server_support import TIMEOUT, run_on_asyncio

ALICE, BOB, CAROL, DAVE = (f"{name}@example.org" for name in ("alice", "bob", "carol", "dave"))
DATA: Script = {"EHLO": ehlo("PIPELINING", "8BITMIME", "SIZE 200000", "SMTPUTF8", "DSN")}
BDAT: Script = {"EHLO": ehlo("PIPELINING", "8BITMIME", "SIZE 200000", "SMTPUTF8", "DSN", "CHUNKING")}
SEVEN_BIT: Script = {"EHLO": ehlo("PIPELINING")}
by_data_and_by_bdat = pytest.mark.parametrize("offered", [DATA, BDAT], ids=["DATA", "BDAT"])


def sent(
    message: client.MessageLike,
    sender: client.Address | None = ALICE,
    recipients: Iterable[client.Address] | None = (BOB,),
    *,
    offered: Script = DATA,
    **options: Any,
) -> Peer:
    """Send *message*, which must be accepted; return what the server has received."""
    with smtp_server(offered) as peer:

        async def main() -> None:
            result = await client.submit(
                message, sender, recipients, host="127.0.0.1", port=peer.port, tls="none", timeout=TIMEOUT, **options
            )
            result.raise_for_rejected()

        run_on_asyncio(main)
    return peer


def refused(
    error: type[Exception],
    text: str,
    message: client.MessageLike,
    sender: client.Address | None = ALICE,
    recipients: Iterable[client.Address] | None = (BOB,),
    *,
    offered: Script = DATA,
    **options: Any,
) -> None:
    """Send *message*, which must be refused without a command; then send another in the same session."""
    with smtp_server(offered) as peer:

        async def main() -> None:
            async with client.smtp_client(host="127.0.0.1", port=peer.port, tls="none", timeout=TIMEOUT) as connected:
                with pytest.raises(error, match=text):
                    await connected.send(message, sender, recipients, **options)
                (await connected.send(b"next\r\n", ALICE, [BOB])).raise_for_rejected()

        run_on_asyncio(main)
    assert peer.messages == [b"next\r\n"]
    assert peer.verbs().count("MAIL") == 1


def test_message_without_content_is_sent_by_data() -> None:
    """RFC 3030 section 2 allows a single chunk of 0 bytes, but some servers reject it."""
    peer = sent(b"", offered=BDAT)
    assert "DATA" in peer.verbs()
    assert "BDAT" not in peer.verbs()
    assert peer.messages == [b""]


def letter(**fields: str) -> EmailMessage:
    """Return a message with these header fields (``resent_to`` is Resent-To)."""
    message = EmailMessage()
    for name, value in fields.items():
        message[name.replace("_", "-").title()] = value
    message.set_content("At six.\n")
    return message


def envelope(peer: Peer) -> list[str]:
    return [line.partition(">")[0] + ">" for line in peer.heard if line.startswith(("MAIL", "RCPT"))]


def test_envelope_is_read_from_the_header() -> None:
    message = EmailMessage()
    message["From"], message["To"] = f"Alice <{ALICE}>", f"Bob <{BOB}>, {CAROL}"
    message["Cc"], message["Bcc"] = f'"Dave, D." <{DAVE}>', BOB
    message.set_content("At six.\n")
    peer = sent(message, None, None)
    assert envelope(peer) == [f"MAIL FROM:<{ALICE}>", *(f"RCPT TO:<{each}>" for each in (BOB, CAROL, DAVE))]


def test_bcc_is_not_sent_and_the_message_is_not_changed() -> None:
    message = letter(To=BOB, Bcc=CAROL, Resent_Bcc=DAVE)
    message["From"] = ALICE
    (content,) = sent(message, None, None).messages
    assert b"bcc" not in content.lower()
    assert (message["Bcc"], message["Resent-Bcc"]) == (CAROL, DAVE)


def test_sender_field_is_preferred_to_several_authors() -> None:
    message = letter(To=BOB, Sender=CAROL)
    message["From"] = f"{ALICE}, {DAVE}"
    assert envelope(sent(message, None, None))[0] == f"MAIL FROM:<{CAROL}>"
    assert envelope(sent(message, BOB, None))[0] == f"MAIL FROM:<{BOB}>"


def test_resent_message_goes_to_its_resent_recipients() -> None:
    message = letter(To=BOB, Cc=CAROL, Resent_Date="Sat, 28 Nov 2026 10:00:00 +0000", Resent_From=BOB, Resent_To=DAVE)
    message["From"] = ALICE
    assert envelope(sent(message, None, None)) == [f"MAIL FROM:<{BOB}>", f"RCPT TO:<{DAVE}>"]


def test_message_that_was_resent_twice_needs_an_envelope() -> None:
    """The recipients of the first Resent block have received it already."""
    block = f"Resent-Date: Sat, 28 Nov 2026 10:00:00 +0000\r\nResent-From: {ALICE}\r\nResent-To: {BOB}\r\n"
    twice = f"{block}{block.replace(BOB, CAROL)}From: {ALICE}\r\nTo: {DAVE}\r\n\r\nAt six.\r\n"
    message = email.message_from_string(twice)
    refused(ValueError, "resent more than once; pass sender and recipients", message, None, None)
    assert envelope(sent(message, ALICE, [BOB])) == [f"MAIL FROM:<{ALICE}>", f"RCPT TO:<{BOB}>"]


def test_null_reverse_path() -> None:
    assert "MAIL FROM:<> SIZE=3" in sent(b"x\r\n", "").heard


def test_mailbox_values_are_accepted() -> None:
    peer = sent(b"x\r\n", smtp.Mailbox("alice", "example.org"), [smtp.Mailbox("a b", "example.org")])
    assert envelope(peer) == [f"MAIL FROM:<{ALICE}>", 'RCPT TO:<"a b"@example.org>']


@pytest.mark.parametrize(
    ("message", "sender", "recipients", "error", "text"),
    [
        (b"x", None, [BOB], ValueError, "pass sender and recipients; they are only read from the header of an Email"),
        (b"x", ALICE, None, ValueError, "pass sender and recipients"),
        (b"x", ALICE, BOB, TypeError, r"recipients must be a list of addresses, such as \['bob@example.org'\]"),
        (b"x", ALICE, smtp.Mailbox("bob", "example.org"), TypeError, r"such as \['bob@example.org'\]"),
        (b"x", ALICE, [], ValueError, "there are no recipients; pass at least one"),
        (b"x", ALICE, ["bob"], ValueError, "recipient 'bob' is not an address such as alice@example.org"),
        (b"x", ALICE, [BOB + ">\r\nDATA"], ValueError, "recipient 'bob@example.org>"),
        (b"x", ALICE, [b"bob@example.org"], TypeError, "recipient must be a string such as 'alice@example.org'"),
        (b"x", ALICE, [None], TypeError, "recipient must be a string"),
        (b"x", "alice", [BOB], ValueError, "sender 'alice' is not an address"),
        (b"x", 5, [BOB], TypeError, "sender must be a string"),
        ("x", ALICE, [BOB], TypeError, "message must be an EmailMessage, bytes or a binary file, not str"),
        (None, ALICE, [BOB], TypeError, "message must be an EmailMessage, bytes or a binary file, not NoneType"),
        (io.StringIO("x"), ALICE, [BOB], TypeError, r"must be opened in binary mode: open\(path, 'rb'\)"),
        (EmailMessage(), None, [BOB], ValueError, "the message has no From; add one, or pass sender"),
        (EmailMessage(), ALICE, None, ValueError, "there are no recipients; pass at least one"),
    ],
)
def test_invalid_arguments_are_refused_before_anything_is_sent(
    message: Any, sender: Any, recipients: Any, error: type[Exception], text: str
) -> None:
    refused(error, text, message, sender, recipients)


def test_address_in_the_header_that_cannot_be_read_is_refused() -> None:
    message = email.message_from_string(f"From: {ALICE}\r\nTo: {BOB}\r\nCc: Carol {CAROL}\r\n\r\nAt six.\r\n")
    refused(ValueError, "Cc of the message .* pass recipients", message, None, None)


def test_address_in_the_header_that_is_not_utf8_is_refused() -> None:
    """The parser of the email package replaces the byte, which makes another address of it."""
    raw = b"From: alice@example.org\r\nTo: j\xf6rg@example.org\r\n\r\nAt six.\r\n"
    for policy in (email.policy.compat32, email.policy.default):
        message: Any = email.message_from_bytes(raw, policy=policy)
        refused(ValueError, "To of the message is not a list of addresses", message, None, None)


def test_empty_group_in_the_header_has_no_address() -> None:
    message = letter(To="undisclosed-recipients:;", Bcc=BOB)
    message["From"] = ALICE
    assert envelope(sent(message, None, None))[1:] == [f"RCPT TO:<{BOB}>"]


BAD = [b"a\rb\r\n", b"a\0b\r\n", b"a\r\r\n", b"a\r", b"x" * 65_535 + b"\ry\r\n", b"a\r" + b"x" * 70_000]


class _Pipe(io.BytesIO):
    """A file that cannot be read twice."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_: object) -> int:
        raise io.UnsupportedOperation

    tell = seek


@by_data_and_by_bdat
@pytest.mark.parametrize("content", BAD, ids=range(len(BAD)))
@pytest.mark.parametrize("kind", [bytes, io.BytesIO, _Pipe])
def test_bare_cr_and_nul_are_refused_before_anything_is_sent(offered: Script, content: bytes, kind: Any) -> None:
    refused(ValueError, "bare CR", kind(content), offered=offered)


def undotted(content: bytes) -> bytes:
    return content.replace(b"\r\n.", b"\r\n")


CONTENTS = [
    (b"Subject: x\n\nline\n", b"Subject: x\r\n\r\nline\r\n"),
    (b"mixed\r\nline\nends", b"mixed\r\nline\r\nends\r\n"),
    (b"\r\n.\r\n..\r\n.x\r\nQUIT\r\n", b"\r\n.\r\n..\r\n.x\r\nQUIT\r\n"),
    (b"x" * 65_535 + b"\r\n.\r\n", b"x" * 65_535 + b"\r\n.\r\n"),
    (b"x" * 65_535 + b"\n.\n" + b"y" * 70_000, b"x" * 65_535 + b"\r\n.\r\n" + b"y" * 70_000 + b"\r\n"),
    (b"", b""),
]


@by_data_and_by_bdat
@pytest.mark.parametrize(("content", "expected"), CONTENTS, ids=range(len(CONTENTS)))
@pytest.mark.parametrize("kind", [bytes, io.BytesIO, _Pipe])
def test_content_arrives_with_crlf_line_ends(offered: Script, content: bytes, expected: bytes, kind: Any) -> None:
    peer = sent(kind(content), offered=offered)
    (received,) = peer.messages
    assert (received if offered is BDAT else undotted(received)) == expected
    assert f"MAIL FROM:<{ALICE}> SIZE={len(expected)}" in peer.heard


def test_file_is_sent_from_its_position(tmp_path: Path) -> None:
    path = tmp_path / "message"
    path.write_bytes(b"skipped\nsent\n")
    with path.open("rb") as file:
        file.readline()
        assert sent(file).messages == [b"sent\r\n"]


def test_size_over_the_limit_is_not_sent() -> None:
    refused(client.NotSupported, "the message has 200001 bytes, .* at most 200000", b"x" * 199_999)
    assert sent(b"x" * 199_998).messages
    assert sent(b"x" * 5_000, offered={"EHLO": ehlo("SIZE")}).messages
    assert sent(b"x" * 5_000, offered={"EHLO": ehlo("SIZE 0")}).messages


EIGHT_BIT = "Subject: x\r\n\r\ncaf\u00e9\r\n".encode()


def test_eight_bit_bytes_need_8bitmime() -> None:
    for message in (EIGHT_BIT, io.BytesIO(EIGHT_BIT), _Pipe(EIGHT_BIT)):
        refused(client.NotSupported, "bytes above 127, which need 8BITMIME", message, offered=SEVEN_BIT)
    peer = sent(EIGHT_BIT)
    assert peer.messages == [EIGHT_BIT]
    assert "BODY=8BITMIME" in peer.heard[1]


def test_email_message_is_encoded_for_the_server() -> None:
    message = letter(From=ALICE, To=BOB, Subject="caf\u00e9")
    message.set_content("caf\u00e9\n", cte="8bit")
    (content,) = sent(message, None, None).messages
    assert "caf\u00e9\r\n".encode() in content
    (content,) = sent(message, None, None, offered=SEVEN_BIT).messages
    assert content.isascii()
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    assert (parsed["Subject"], parsed.get_content()) == ("caf\u00e9", "caf\u00e9\n")


@pytest.mark.parametrize("policy", [email.policy.compat32, email.policy.default], ids=["compat32", "default"])
def test_line_that_begins_with_from_is_not_changed(policy: Any) -> None:
    """A ``>`` would break a signature; only mbox files need it."""
    message = email.message_from_string("Subject: x\n\nFrom here on\n", policy=policy)
    assert sent(message).messages == [b"Subject: x\r\n\r\nFrom here on\r\n"]


JOERG = "j\u00f6rg@example.org"


def test_international_address_needs_smtputf8() -> None:
    message = letter(From=ALICE, To=JOERG, Subject="caf\u00e9")
    refused(client.NotSupported, f"the address {JOERG} needs SMTPUTF8", message, None, None, offered=SEVEN_BIT)
    refused(client.NotSupported, "needs SMTPUTF8", b"x", JOERG, [BOB], offered=SEVEN_BIT)
    peer = sent(message, None, None)
    assert f"RCPT TO:<{JOERG}>" in peer.heard
    assert " SMTPUTF8" in peer.heard[1]
    assert "Subject: caf\u00e9\r\n".encode() in peer.messages[0]


def test_dsn_parameters_are_sent() -> None:
    dsn = client.Dsn(notify=("SUCCESS", "FAILURE"), ret="HDRS", envelope_id="order 42")
    peer = sent(b"x\r\n", recipients=[BOB, CAROL], dsn=dsn)
    (mail,) = [line for line in peer.heard if line.startswith("MAIL")]
    assert " RET=HDRS" in mail
    assert " ENVID=order+2042" in mail
    rcpts = [line for line in peer.heard if line.startswith("RCPT")]
    assert [sorted(line.partition("NOTIFY=")[2].split(",")) for line in rcpts] == [["FAILURE", "SUCCESS"]] * 2
    assert "NOTIFY=NEVER" in sent(b"x\r\n", dsn=client.Dsn(notify=("NEVER",))).heard[2]


def test_dsn_needs_the_extension() -> None:
    refused(client.NotSupported, "does not offer DSN; leave out dsn", b"x", offered=SEVEN_BIT, dsn=client.Dsn())
    refused(TypeError, "dsn must be a Dsn or None, not str", b"x", dsn="SUCCESS")


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"notify": "SUCCESS"}, TypeError, r"notify must be a tuple of events, such as \('SUCCESS',\)"),
        ({"notify": ("sometimes",)}, ValueError, "notify must have SUCCESS, FAILURE and DELAY, or only NEVER"),
        ({"notify": ("NEVER", "DELAY")}, ValueError, "NEVER"),
        ({"notify": ()}, ValueError, "notify"),
        ({"notify": 5}, TypeError, "notify must be a tuple"),
        ({"ret": "ALL"}, ValueError, "ret must be FULL or HDRS, not 'ALL'"),
        ({"envelope_id": "caf\u00e9"}, ValueError, "envelope_id"),
        ({"envelope_id": "x\r\nDATA"}, ValueError, "envelope_id"),
        ({"envelope_id": 5}, (ValueError, TypeError), "envelope_id"),
    ],
)
def test_invalid_dsn(fields: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        client.Dsn(**fields)


@pytest.mark.parametrize(
    "field", ["", "Content-Type: text/plain; charset=bogus\r\nContent-Transfer-Encoding: 8bit\r\n"]
)
def test_parsed_message_that_cannot_be_encoded_for_7_bits_needs_8bitmime(field: str) -> None:
    """A collected message that is forwarded, with 8-bit data and no charset, or an unknown one."""
    raw = f"From: {ALICE}\r\nTo: {BOB}\r\n{field}\r\n".encode() + b"caf\xe9\r\n"
    message = email.message_from_bytes(raw, policy=email.policy.default)
    with smtp_server({}) as peer, pytest.raises(client.NotSupported, match="does not offer 8BITMIME"):
        sync.submit(message, host="127.0.0.1", port=peer.port, tls="none")
    with smtp_server({"EHLO": ehlo("8BITMIME")}) as peer:
        assert sync.submit(message, host="127.0.0.1", port=peer.port, tls="none").complete
    assert b"caf\xe9\r\n" in peer.messages[0]


@pytest.mark.parametrize("offered", [("8BITMIME",), ("8BITMIME", "SMTPUTF8")])
def test_header_is_utf8_only_with_the_parameter_smtputf8(offered: tuple[str, ...]) -> None:
    """RFC 6531 section 3.4, also for a message whose policy is SMTPUTF8."""
    message = EmailMessage(policy=email.policy.SMTPUTF8)
    message["From"], message["To"], message["Subject"] = ALICE, BOB, "Gr\u00fc\u00dfe"
    message.set_content("At six.\n")
    with smtp_server({"EHLO": ehlo(*offered)}) as peer:
        sync.submit(message, host="127.0.0.1", port=peer.port, tls="none")
    assert peer.messages[0].partition(b"\r\n\r\n")[0].isascii()
    assert not any("SMTPUTF8" in line for line in peer.heard)
