"""What a server accepts although the grammar of RFC 5321 does not allow it, and where that ends (docs/tolerance.md)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import LocalProtocolError, sasl, smtp
from mailauth.errors import Malformed
from mailauth.smtp._command_lines import COMMON, check_strict, from_common, normalize, split_line
from mailauth.smtp.commands import LineCommand
from mailauth.smtp.verbs import ROWS
from tests.smtp.drive import IN_CLEAR, Session, exact, ready, serve

TOLERANT: Final = attrs.evolve(IN_CLEAR, chunking=True, smtputf8=True, dsn=True)
STRICT: Final = attrs.evolve(TOLERANT, strict_syntax=True)
PLAIN: Final = sasl.encode_base64(b"\0test\0001234")


def codes(*lines: bytes, settings: smtp.ServerSettings = TOLERANT) -> list[int]:
    return ready(b"".join(line + b"\r\n" for line in lines), settings=settings).codes


# Blanks, and paths without brackets

BLANKS: Final = [
    (b"MAIL FROM: <a@b.test>", b"MAIL FROM:<a@b.test>"),
    (b"MAIL  FROM:<a@b.test>", b"MAIL FROM:<a@b.test>"),
    (b"mail   from:   <a@b.test>   size=3    body=8BITMIME", b"MAIL FROM:<a@b.test> SIZE=3 BODY=8BITMIME"),
    (b"MAIL FROM: <>", b"MAIL FROM:<>"),
    (b"MAIL FROM:<a@b.test> \t \t", b"MAIL FROM:<a@b.test>"),
    (b'MAIL FROM: <"a  b"@c.test>  AUTH=<>', b'MAIL FROM:<"a  b"@c.test> AUTH=<>'),
    (b'MAIL FROM: <"a>  \\" b"@c.test>', b'MAIL FROM:<"a>  \\" b"@c.test>'),
    (b"MAIL FROM: <@r.test,@s.test:a@b.test>", b"MAIL FROM:<@r.test,@s.test:a@b.test>"),
    (b"MAIL FROM: <\xc3\xa9@\xc3\xbc>  SMTPUTF8", b"MAIL FROM:<\xc3\xa9@\xc3\xbc> SMTPUTF8"),
    (b"MAIL FROM:a@b.test", b"MAIL FROM:<a@b.test>"),
    (b"MAIL FROM:  a@b.test  SIZE=3", b"MAIL FROM:<a@b.test> SIZE=3"),
    (b"MAIL FROM:a.b+c@[192.0.2.1]", b"MAIL FROM:<a.b+c@[192.0.2.1]>"),
    (b"AUTH  LOGIN", b"AUTH LOGIN"),
    (b"AUTH PLAIN   " + PLAIN + b" \t", b"AUTH PLAIN " + PLAIN),
    (b"EHLO  client.example ", b"EHLO client.example"),
    (b"VRFY  dinah ", b"VRFY dinah"),
    (b"VRFY  dinah   SMTPUTF8", b"VRFY dinah SMTPUTF8"),
    (b"VRFY   a  b", b"VRFY a  b"),
    (b"NOOP  keep  alive\t", b"NOOP keep  alive"),
    (b"HELP \t", b"HELP"),
    (b"RSET  ", b"RSET"),
    (b"QUIT\t", b"QUIT"),
    (b"STARTTLS ", b"STARTTLS"),
]


@pytest.mark.parametrize(("line", "right"), BLANKS)
def test_blanks_between_words_and_missing_brackets_are_accepted(line: bytes, right: bytes) -> None:
    """RFC 5321 section 4.1.1 recommends to tolerate trailing white space; printers and games send the other forms."""
    session, other = (ready(each + b"\r\n", settings=TOLERANT) for each in (line, right))
    assert (session.events, session.data) == (other.events, other.data)
    assert session.of(smtp.CommandRejected) == []
    strict = ready(line + b"\r\nNOOP\r\n", settings=STRICT)
    assert strict.codes == [500 if b"\t" in line else 501, 250]
    assert strict.of(smtp.CommandRejected)[0].line in (line, b"AUTH")


@pytest.mark.parametrize(
    ("line", "right"),
    [
        (b"RCPT TO: <c@d.test>", b"RCPT TO:<c@d.test>"),
        (b"RCPT  TO:  <c@d>  NOTIFY=NEVER  ORCPT=rfc822;c@d", b"RCPT TO:<c@d> NOTIFY=NEVER ORCPT=rfc822;c@d"),
        (b'RCPT TO: <"a b"@c.test>', b'RCPT TO:<"a b"@c.test>'),
        (b"RCPT TO:c@d.test", b"RCPT TO:<c@d.test>"),
        (b"RCPT TO: postmaster", b"RCPT TO:<postmaster>"),
    ],
)  # fmt: skip
def test_blanks_and_missing_brackets_in_rcpt_are_accepted(line: bytes, right: bytes) -> None:
    begin = b"MAIL FROM:<>\r\n"
    session, other = (ready(begin + each + b"\r\n", settings=TOLERANT) for each in (line, right))
    assert (session.events, session.codes) == (other.events, [250, 250])
    assert ready(begin + line + b"\r\n", settings=STRICT).codes == [250, 501]


def test_blanks_in_bdat_and_data_are_accepted() -> None:
    begin = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"
    session = ready(begin + b"BDAT  3\r\nx\r\nBDAT 1  last \r\ny", settings=TOLERANT)
    assert session.codes == [250] * 4
    assert session.content == b"x\r\ny\r\n"
    assert ready(begin + b"BDAT  3\r\n", settings=STRICT).codes == [250, 250, 501]
    assert ready(begin + b"DATA \t\r\nx\r\n.\r\n", settings=TOLERANT).codes == [250, 250, 354, 250]
    assert ready(begin + b"DATA \r\n.\r\n", settings=STRICT).codes == [250, 250, 501, 500]


def test_rejected_line_is_reported_with_its_blanks() -> None:
    session = ready(b"FOO \t\r\nRCPT  TO: <a@b> \r\n", settings=TOLERANT)
    assert [event.line for event in session.events] == [b"FOO \t", b"RCPT  TO: <a@b> "]
    assert session.codes == [500, 503]


@pytest.mark.parametrize("settings", [TOLERANT, STRICT])
@pytest.mark.parametrize(
    "line",
    [
        b"MAIL FROM",
        b"MAIL FROM <a@b>",
        b"MAIL FROM :<a@b>",
        b"MAIL <a@b>",
        b"MAIL a@b",
        b"MAIL FROM: ",
        b"MAIL TO:<a@b>",
        b"MAIL FROM:< a@b>",
        b"MAIL FROM:<a@b >",
        b"MAIL FROM:<a @b>",
        b"MAIL FROM:<a@b>SIZE=1",
        b"MAIL FROM:<a@b",
        b"MAIL FROM:a@b>",
        b'MAIL FROM:<"a@b> SIZE=1',
        b'MAIL FROM:"a b"@c',
        b'MAIL FROM:"a"@c',
        b"MAIL FROM:a\\@b",
        b"MAIL FROM:<a@b>\\",
        b"MAIL FROM:a@b,c@d",
        b"MAIL FROM:@r:a@b",
        b"MAIL FROM:a@[IPv6:::1]",
        b"MAIL FROM:a<b@c>",
        b"MAIL FROM:Alice <a@b>",
        b"MAIL FROM:a b@c",
        b"MAIL FROM:a",
        b"MAIL FROM:SIZE=1",
        b"MAIL FROM:postmaster",
        b"MAIL FROM:(x)a@b",
        b"MAIL FROM:<a@b> SIZE= 1",
        b"MAIL FROM:<a@b> SIZE =1",
        b"MAIL FROM:<a@b> AUTH=<a b>",
        b'MAIL FROM:<a@b> X="a b"',
        b"AUTH PLAIN AHRlc3QA MTIzNA==",
        b"AUTH PLAIN\xc2\xa0AHRlc3QAMTIzNA==",
        b"BDAT 1 1",
        b"BDAT 1LAST",
        b"MAIL\tFROM:<a@b>",
        b"MAIL FROM:\t<a@b>",
        b"MAIL FROM:<a@b>\tSIZE=1",
        b"MAIL FROM:\xc2\xa0<a@b>",
        b"MAIL FROM:<a@b>\xe2\x80\x83SIZE=1",
        b"MAIL FROM:<a@b>\xe3\x80\x80",
        b"MAIL FROM:<a@b> SIZE=1\xe2\x80\x83BODY=7BIT",
        b"MAIL FROM:<a@b> SIZE=1\xc2\xa0",
        b" MAIL FROM:<a@b>",
        b"MAILFROM:<a@b>",
        b"MAIL FROM:<a@b>\r\r\n"[:-2],
        b"MAIL FROM:<a@b> \n",
        b"MAIL FROM:<a@b>\0",
        b"\x0bRSET",
        b"RSET \x0c",
    ],
)
def test_other_deviations_are_errors_in_both_modes(line: bytes, settings: smtp.ServerSettings) -> None:
    """Nothing that could name two senders, or hide a line end, and no other white space than SP and HTAB."""
    session = ready(line + b"\r\n", settings=settings)
    assert session.codes[0] in (500, 501)
    assert session.of(smtp.Mail) == []


@pytest.mark.parametrize("settings", [TOLERANT, STRICT])
@pytest.mark.parametrize(
    "path", [b"", b" ", b"<>", b"< c@d>", b"<c@d>,<e@f>", b"c@d,e@f", b"c@d> <e@f", b"<c@d", b'"c"@d', b"c d@e"]
)
def test_unclear_recipients_are_errors_in_both_modes(path: bytes, settings: smtp.ServerSettings) -> None:
    session = ready(b"MAIL FROM:<>\r\nRCPT TO:" + path + b"\r\nDATA\r\n", settings=settings)
    assert session.codes == [250, 501, 503]


@pytest.mark.parametrize("blanks", [b" ", b"\t", b" \t  "])
def test_blanks_at_the_end_of_a_response_are_accepted(blanks: bytes) -> None:
    """The challenge is answered as without them; "*" cancels."""
    name, password = sasl.encode_base64(b"test"), sasl.encode_base64(b"1234")
    for lines, last in (
        ((b"AUTH LOGIN", name, password), 235),
        ((b"AUTH LOGIN " + name, password), 235),
        ((b"AUTH PLAIN", PLAIN), 235),
        ((b"AUTH PLAIN", b"*"), 501),
    ):
        data = b"".join(line + blanks + b"\r\n" for line in lines)
        assert ready(data, settings=TOLERANT).codes[-1] == last
        without = ready(b"".join(line + b"\r\n" for line in lines), settings=TOLERANT)
        assert ready(data, settings=TOLERANT).data == without.data
        first = lines[0] + b"\r\n" + b"".join(line + blanks + b"\r\n" for line in lines[1:])
        assert "501 5.5.2 invalid base64 in response" in ready(first, settings=STRICT).lines


@pytest.mark.parametrize("line", [b" " + PLAIN, PLAIN[:4] + b" " + PLAIN[4:], PLAIN + b"\x0b", PLAIN + b"\xa0"])
@pytest.mark.parametrize("settings", [TOLERANT, STRICT])
def test_other_blanks_in_a_response_are_invalid_base64(line: bytes, settings: smtp.ServerSettings) -> None:
    session = ready(b"AUTH PLAIN\r\n" + line + b"\r\n", settings=settings)
    assert session.lines[-1] == "501 5.5.2 invalid base64 in response"
    assert session.of(sasl.CheckPassword) == []


# Mailboxes


@pytest.mark.parametrize("size", [64, 65, 100, 247])
def test_local_part_may_be_as_long_as_the_path_allows(size: int) -> None:
    """RFC 5321 section 4.5.3.1: its limits are minimums.  VERP and SRS build long local parts."""
    local_part = "a" * size
    lines = f"MAIL FROM:<{local_part}@b.test>\r\nRCPT TO:<{local_part}@b.test>\r\n".encode()
    session = ready(lines, settings=TOLERANT)
    mailbox = smtp.Mailbox(local_part, "b.test")
    assert session.events == [smtp.Mail(reverse_path=mailbox), smtp.Rcpt(forward_path=mailbox)]
    assert ready(lines, settings=STRICT).codes == ([250, 250] if size == 64 else [501, 501])


@pytest.mark.parametrize("settings", [TOLERANT, STRICT])
def test_path_over_256_bytes_is_501_in_both_modes(settings: smtp.ServerSettings) -> None:
    assert codes(b"MAIL FROM:<%b@b.test>" % (b"a" * 248), settings=settings) == [501]
    assert codes(b"MAIL FROM:<%b@b.test>" % (b"\xc3\xa9" * 124 + b"a"), settings=settings) == [501]
    with pytest.raises(LocalProtocolError, match="path is longer than 256 bytes"):
        smtp.Mailbox("a" * 248, "b.test")


def test_unquoted_dots_need_a_path_that_also_fits_with_quotes() -> None:
    """Otherwise str() would return a mailbox that is not accepted."""
    fits, too_long = (smtp.Mailbox, Malformed)
    for size, result in ((245, fits), (246, too_long)):
        text = f"{'a' * (size - 1)}.@b.test"
        if result is fits:
            assert smtp.Mailbox.parse(str(smtp.Mailbox.parse(text))) == smtp.Mailbox.parse(text)
        else:
            with pytest.raises(Malformed):
                smtp.Mailbox.parse(text)


ODD: Final = [
    "a..b@c.test",
    "ab.@c.test",
    ".ab@c.test",
    "...@c.test",
    ".@c.test",
    "a...b.c.@mail_1.test",
    "\xe9..@\xfc",
]


@pytest.mark.parametrize("text", ODD)
def test_dots_anywhere_in_the_local_part_are_accepted_and_sent_as_received(text: str) -> None:
    """Japanese carriers gave out such addresses, and do not accept them with quotes."""
    mailbox = smtp.Mailbox.parse(text)
    local_part, _, domain = text.partition("@")
    quoted = f'"{local_part}"@{domain}'
    assert mailbox == smtp.Mailbox(local_part, domain) == smtp.Mailbox.parse(quoted)
    assert len({mailbox, smtp.Mailbox(local_part, domain), smtp.Mailbox.parse(quoted)}) == 1
    assert (str(mailbox), mailbox.spelling) == (quoted, text)
    assert smtp.Mailbox(local_part, domain).spelling == smtp.Mailbox.parse(quoted).spelling == quoted
    utf8 = "" if text.isascii() else " SMTPUTF8"
    lines = f"MAIL FROM:<{text}>{utf8}\r\nRCPT TO:<{text}>\r\n".encode()
    session = ready(lines, settings=TOLERANT)
    assert session.codes == [250, 250]
    assert b"".join(event.to_wire() for event in session.events) == lines
    assert ready(lines, settings=STRICT).codes == [501, 501]


@pytest.mark.parametrize(
    ("text", "equal", "different"),
    [
        ("dinah@example.org", "dinah@Example.ORG", "Dinah@example.org"),
        ("a@[IPv6:2001:db8::1]", "a@[ipv6:2001:DB8::1]", "a@[IPv6:2001:db8::2]"),
        ("a@b\xfccher.example", "a@B\xfccher.EXAMPLE", "a@B\xdccher.example"),  # only ASCII letters are converted
        ("postmaster@c.test", "PostMaster@C.TEST", "postmaster@d.test"),
        ("postmasters@c.test", "postmasters@C.test", "Postmasters@c.test"),
        ('"A..b"@c.test', "A..b@C.test", "a..b@c.test"),
    ],
)
def test_mailboxes_are_compared_by_rfc_5321(text: str, equal: str, different: str) -> None:
    """Sections 2.4 and 4.5.1; the spelling is kept."""
    mailbox, same, other = map(smtp.Mailbox.parse, (text, equal, different))
    assert mailbox == same
    assert mailbox != other
    assert [each in {mailbox} for each in (same, other)] == [True, False]
    assert smtp.Rcpt(forward_path=mailbox) == smtp.Rcpt(forward_path=same)
    assert [same.spelling, other.spelling] == [equal, different]


def test_bare_postmaster_is_equal_in_any_case() -> None:
    """RFC 5321 section 4.5.1."""
    assert smtp.Mailbox("Postmaster", "") == smtp.Mailbox("postmaster", "") != smtp.Mailbox("postmaster", "c.test")


def test_mailboxes_with_other_dots_are_different() -> None:
    assert len({smtp.Mailbox.parse(text) for text in ("a..b@c", "a.b@c", "ab@c", ".a.b@c", "a.b.@c", "a...b@c")}) == 6


def test_changed_mailbox_is_sent_with_quotes() -> None:
    """The spelling belongs to the text that was parsed."""
    mailbox = attrs.evolve(smtp.Mailbox.parse("a..b@c.test"), domain="d.test")
    assert mailbox.spelling == '"a..b"@d.test'


@pytest.mark.parametrize(
    ("text", "spelling"),
    [('"alice"@c', "alice@c"), ('"a\\b"@c', "ab@c"), ('"a  b"@c', '"a  b"@c'), ("alice@C.Test", "alice@C.Test")],
)
def test_needless_quotes_are_removed_as_before(text: str, spelling: str) -> None:
    """RFC 5321 section 4.1.2: a sender should use the form without quotes."""
    assert smtp.Mailbox.parse(text).spelling == spelling


@pytest.mark.parametrize("domain", ["mail_1.example.net", "_dmarc.example", "a_", "_", "a_b-c.d__e", "x-_y"])
def test_underscores_in_a_domain_are_accepted(domain: str) -> None:
    line = f"MAIL FROM:<bounce@{domain}>\r\n".encode()
    session = ready(line, settings=TOLERANT)
    assert session.events == [smtp.Mail(reverse_path=smtp.Mailbox("bounce", domain))]
    assert session.events[0].to_wire() == line
    assert ready(line, settings=STRICT).codes == [501]
    route = f"MAIL FROM:<@{domain}:a@b>\r\n".encode()
    assert ready(route, settings=TOLERANT).codes == [250]
    assert ready(route, settings=STRICT).codes == [501]


@pytest.mark.parametrize("settings", [TOLERANT, STRICT])
@pytest.mark.parametrize(
    "path",
    [
        *("@b", "a@", "a@b.", "a@.b", "a@b..c", "a@-b", "a@b-", "a@b.-c", "a@b-.c", "a@b c", "a@b@c", "a..@", "..", ""),
        *("a@_-", "a@-_", "a@b!c", "a@b/c", "a@[_]", "a@[192.0.2.1", "a,b@c", "a:b@c", "a(b@c", "a;b@c", "a b@c"),
        *("a\u3002b@c.", "a@b\u3002c", "a@b\uff0e"),
    ],
)
def test_invalid_mailboxes_are_501_in_both_modes(path: str, settings: smtp.ServerSettings) -> None:
    """Empty labels, a dot at the end of a domain, and labels that begin or end with a hyphen."""
    lines = b"MAIL FROM:<> SMTPUTF8\r\n" + f"RCPT TO:<{path}>\r\n".encode()
    assert ready(lines, settings=settings).codes == [250, 501]
    with pytest.raises(Malformed):
        smtp.Mailbox.parse(path)


# The name in EHLO

NAMES: Final = [
    *(b"[::1]", b"(none)", b"[1.2.3]", b"[IPv6:1.2.3.4]", b"[IPv6:fe80::1%eth0]", b"[192.0.2.1", b"192.0.2.1]"),
    *(b"John's PC", b"UPS #2", b"a,b", b"a..b", b"*", b"<script>", b'"', b"\\", b"a)b", b"camera@10.0.0.5"),
    *("büro-pc".encode(), "büro-pc".encode("cp1252"), b"\x93PC\x94", b"\xff\xfe", "名前".encode(), b"x" * 255),
    *("é" * 127).encode().split(),
]


@pytest.mark.parametrize("verb", [b"EHLO", b"HELO", b"ehlo"])
@pytest.mark.parametrize("name", NAMES)
def test_ehlo_name_that_is_not_a_domain_is_accepted(name: bytes, verb: bytes) -> None:
    """Windows, cameras and UPSes send such names; Postfix and Exim accept most of them."""
    line = verb + b" " + name + b"\r\n"
    for settings in (TOLERANT, attrs.evolve(TOLERANT, smtputf8=False)):
        session = serve(line, settings=settings)
        (hello,) = session.events[1:]
        assert hello.domain.encode("utf-8", "surrogateescape") == name
        assert hello.extended is (verb != b"HELO")
        assert hello.valid is (name == b"x" * 255)
        right = serve(verb + b" client.example\r\n", settings=settings)
        assert session.data == right.data
    strict = serve(line, settings=STRICT)
    assert strict.codes[1:] == [250 if name == b"x" * 255 else 501 if name.isascii() else 500]


@pytest.mark.parametrize("name", ["client.example", "[192.0.2.1]", "[IPv6:2001:db8::1]", "under_score", "a.b.", "x"])
def test_valid_ehlo_name_is_marked_as_valid(name: str) -> None:
    for settings in (TOLERANT, STRICT):
        (hello,) = serve(f"EHLO {name}\r\n".encode(), settings=settings).events[1:]
        assert hello == smtp.Hello(domain=name)
        assert hello.valid


@pytest.mark.parametrize("settings", [TOLERANT, STRICT])
@pytest.mark.parametrize(
    "name",
    [
        *("", " ", "  ", "a\tb", "a\0b", "a\rb", "a\nb", "a\x1b[31m", "a\x7f", "a\x85b", "a\x9f", "a\u2028b", "\u2029"),
        *("a\u061cb", "\u200e", "\u200f", *(chr(code) for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A)))),
        *("x" * 256, "é" * 128),
    ],
)
def test_ehlo_without_a_name_or_with_control_characters_is_rejected(name: str, settings: smtp.ServerSettings) -> None:
    session = serve(f"EHLO {name}\r\nNOOP\r\nMAIL FROM:<>\r\n".encode(), settings=settings)
    assert session.codes[1:] in ([500, 250, 503], [501, 250, 503])
    with pytest.raises(Malformed):
        smtp.Hello.parse(name)


def test_ehlo_name_is_in_no_reply() -> None:
    session = serve(b"EHLO (secret)\r\nHELP\r\nMAIL FROM:<a@b>\r\nRSET\r\nHELO (secret)\r\nQUIT\r\n", settings=TOLERANT)
    assert session.codes == [220, 250, 214, 250, 250, 250, 221]
    assert b"secret" not in session.data


@pytest.mark.parametrize("name", [b"(none)", b"a b", b"\xe9", "\xe9".encode()])
def test_client_sends_valid_names_only(name: bytes) -> None:
    (hello,) = serve(b"EHLO " + name + b"\r\n", settings=TOLERANT).events[1:]
    with pytest.raises(LocalProtocolError, match="domain"):
        smtp.Hello(domain=hello.domain)
    client = Session(smtp.ClientConnection()).pull().receive(b"220 hi\r\n")
    with pytest.raises(LocalProtocolError, match="domain"):
        client.client.send(hello)
    assert client.send(smtp.Hello(domain="c")).data == b"EHLO c\r\n"


@given(st.text(max_size=300) | st.binary(max_size=300).map(lambda data: data.decode("utf-8", "surrogateescape")))
def test_parsed_ehlo_name_has_no_control_character_and_at_most_255_bytes(text: str) -> None:
    try:
        hello = smtp.Hello.parse(text)
    except Malformed:
        return
    assert hello.domain == text
    assert 0 < len(text.encode("utf-8", "surrogateescape")) <= 255
    assert not re.search("[\0-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]", text)
    assert not any("\ud800" <= character < "\udc80" or "\udcff" < character < "\ue000" for character in text)


# Public reports about other servers

REPORTED: Final = [
    b"MAIL FROM: craig@example.com",  # telnet, after a tutorial
    b"MAIL FROM: <no-reply@airline.example>",
    b"MAIL From: me@mydomain.test",  # a business application
    b"MAIL FROM:alarm@raid.example",  # the driver of a disk controller
    b"MAIL FROM:<list-confirm+0123456789012345678901234567890123456789abcdefghijklm@example.com>",  # a list manager
    b"MAIL FROM:<SRS0=fGv9=BC=a.ccdefghijklmn.com=bounce-4IDNASXYtY_FG21s4IoV1XzCfCtHkb2RZY_qdGZ8Q-6A@email.example>",
    b"MAIL FROM:<bounce+aaaaaaaaaaaaaaaaaa==a==rrrrrrrrrrrrrrrrrrrrrrrrrrr==ddddd-divers==5288513@ddddd.example>",
    b"MAIL FROM:<try..this..0511@carrier.example>",
    b"MAIL FROM:<xxx.yyy.@carrier.example>",
    b"MAIL FROM:<user@internal_exchange>",
    b"MAIL FROM:<a@b> AUTH=a@b",
    b"EHLO [Windows.Networking.Connectivity.IPInformation]",
    b"EHLO \xc4\xec\xe8\xf2\xf0\xe8\xe9-\xcf\xca",  # a name in CP1251
    b"EHLO 7kO2OrE",
    b"HELO \xe6\xeb\xee\xf0\xe6\xeb-\xcf\xca",
    b"EHLO [2001:db8::1]",
    b"VRFY user ",
    b"NOOP  ",
]


@pytest.mark.parametrize("line", REPORTED)
def test_input_of_public_reports_is_accepted(line: bytes) -> None:
    session = ready(line + b"\r\n", settings=TOLERANT)
    assert session.codes in ([250], [252])


def test_helo_of_a_ups_without_a_name_is_501() -> None:
    """Nothing is there that could be taken for a name."""
    assert serve(b"HELO \r\n", settings=TOLERANT).codes == [220, 501]


# Both modes on the same input

PIECES: Final = (
    *(b"MAIL", b"RCPT", b"EHLO", b"HELO", b"AUTH", b"BDAT", b"VRFY", b"NOOP", b"HELP", b"RSET", b"DATA", b"QUIT"),
    *(b" ", b" ", b" ", b"  ", b"\t", b"FROM:", b"TO:", b"from:", b":", b"<", b">", b"<>", b"<a@b>", b"a@b", b"@"),
    *(b".", b'"', b"\\", b",", b";", b"=", b"-", b"_", b"SIZE=1", b"BODY=7BIT", b"AUTH=<>", b"NOTIFY=NEVER"),
    *(b"X", b"SMTPUTF8", b"<A@B.c>"),
    *(b'<"a b"@c>', b"<a..b@c>", b"<a.@_b>", b"<@r_1:a@b>", b"<@r:a@b>", b"[192.0.2.1]", b"[::1]", b"(none)", b"LAST"),
    *(b"PLAIN", b"LOGIN", PLAIN, b"*", b"1", b"\xc3\xa9", b"\xe9", b"\xc2\xa0", b"\0", b"\r", b"\n", b"a" * 65, b"b.c"),
)  # fmt: skip
BEGINNINGS: Final = (b"", b"", b"MAIL FROM:", b"RCPT TO:", b"MAIL FROM:<", b"RCPT TO:<a@", b"EHLO ", b"AUTH PLAIN ")
odd_lines = st.builds(
    lambda start, rest: start + b"".join(rest),
    st.sampled_from(BEGINNINGS),
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=2), max_size=6),
)


def is_refused(session: Session) -> bool:
    return bool(session.of(smtp.CommandRejected, sasl.AuthenticationFailed))


@given(odd_lines, st.booleans())
def test_tolerant_parser_agrees_with_the_strict_one_where_that_accepts(line: bytes, in_transaction: bool) -> None:
    """No line means one thing to a strict reader and another to a tolerant one."""
    begin = b"MAIL FROM:<x@y> SMTPUTF8\r\n" if in_transaction else b""
    tolerant, strict = (ready(begin, line + b"\r\n", settings=settings) for settings in (TOLERANT, STRICT))
    if not is_refused(strict):
        assert (exact(*tolerant.events), tolerant.data) == (exact(*strict.events), strict.data)
    if is_refused(tolerant):
        assert is_refused(strict)


ATOM: Final = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
LABEL: Final = "[A-Za-z0-9]+(?:-+[A-Za-z0-9]+)*"
DOMAIN: Final = rf"(?:{LABEL}(?:\.{LABEL})*|\[192\.0\.2\.1\])"
QUOTED: Final = r'"(?:[ !#-\[\]-~]|\\[ -~])*"'
STRICT_PATH: Final = re.compile(
    rf"(?:@{DOMAIN}(?:,@{DOMAIN})*:)?(?P<local>{ATOM}(?:\.{ATOM})*|{QUOTED})@{DOMAIN}|(?i:postmaster)"
)
"""Path of RFC 5321 section 4.1.2, written down a second time."""

paths = st.lists(
    st.sampled_from(['"', "\\", "@", ".", "..", "a", "B-1", "_", "-", ",", ":", " ", "[192.0.2.1]", "a" * 63, "@c.d"]),
    max_size=8,
).map("".join)


@given(paths | paths.map(lambda text: f"{text}@b.test") | paths.map(lambda text: f'"{text}"@b.test'))
def test_strict_server_accepts_exactly_the_paths_of_the_grammar(text: str) -> None:
    found = STRICT_PATH.fullmatch(text)
    local_part = found["local"] if found is not None else None
    if local_part is not None and local_part.startswith('"'):
        local_part = re.sub(r"\\(.)", r"\1", local_part[1:-1])
    valid = found is not None and len(local_part or "") <= 64 and len(text) <= 254
    session = ready(f"MAIL FROM:<>\r\nRCPT TO:<{text}>\r\n".encode(), settings=STRICT)
    assert session.codes == [250, 250 if valid else 501]


@given(odd_lines)
def test_normalized_line_is_not_changed_again(line: bytes) -> None:
    """The blanks that normalize() removes are not significant, so it must find all of them at once."""
    try:
        verb, argument = split_line(line.rstrip(b" \t"), smtputf8=True)
        once = normalize(verb, argument)
    except Malformed:
        return
    assert normalize(verb, once) == once


@given(odd_lines)
def test_common_lines_are_valid_in_both_modes(line: bytes) -> None:
    """The expression for common lines is used in both modes: it may match strict syntax only."""
    found = COMMON.match(line + b"\r\n")
    common = None if found is None else from_common(found)
    if common is not None:
        verb, argument = split_line(line, strict=True)
        assert normalize(verb, argument) == argument
        command: LineCommand = ROWS[verb].parse(argument)
        check_strict(command)
        assert command == common


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> Sequence[bytes]:
    places = draw(st.lists(st.integers(0, len(data)), max_size=6))
    return [data[a:b] for a, b in pairwise(sorted({0, len(data), *places})) if a < b]


@given(st.lists(odd_lines, max_size=6), st.sampled_from([TOLERANT, STRICT]), st.data())
def test_odd_lines_are_answered_once_each_however_they_are_split(
    lines: list[bytes], settings: smtp.ServerSettings, choices: st.DataObject
) -> None:
    data = b"".join(line + b"\r\n" for line in lines)
    whole, cut = ready(data, b"", settings=settings), ready(*choices.draw(cuts(data)), b"", settings=settings)
    assert (whole.events, whole.data, whole.last) == (cut.events, cut.data, cut.last)


def rows(verb: str) -> tuple[Any, ...]:
    return (verb, f"{verb} ", f"{verb}  x", f"{verb} x  y ")


@pytest.mark.parametrize("line", [line for verb in ("XTURN", "XTEXT") for line in rows(verb)])
def test_added_verb_gets_the_text_between_the_outer_blanks(line: str) -> None:
    """Inside the text, blanks may be data."""
    got: list[str] = []

    def parse(argument: str) -> smtp.Noop:
        got.append(argument)
        return smtp.Noop()

    name, _, text = line.partition(" ")
    state = smtp.State.READY
    row = smtp.Verb(
        name, kind=smtp.Noop, parse=parse, states={state: state}, accepted=smtp.Reply(250, "2.0.0", "ok"), asks=False
    )
    session = ready(f"{line}\r\n".encode(), settings=smtp.ServerSettings(verbs=(row,)))
    assert session.codes == [250]
    assert got == [text.strip(" ")]
