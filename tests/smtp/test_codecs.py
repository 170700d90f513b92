"""Bytes to values and back: every command, path and reply; and the fast path compared with the complete path."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from mailauth import Command, LocalProtocolError, smtp
from mailauth.errors import Malformed
from mailauth.smtp._command_lines import COMMON, from_common, normalize, split_line
from mailauth.smtp._grammar import decode_unitext, decode_xtext, encode_unitext, encode_xtext, is_text, parse_path
from mailauth.smtp.commands import Auth, Bdat, LineCommand
from mailauth.smtp.replies import join_lines, parse_line
from mailauth.smtp.verbs import ROWS
from tests.smtp.drive import exact

printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=70)
stripped = printable.map(str.strip)
domains = st.one_of(
    st.from_regex(r"[a-z0-9]{1,5}(-[a-z0-9]{1,3})?(\.[A-Za-z0-9]{1,60}){0,4}", fullmatch=True),
    st.sampled_from(["[192.0.2.1]", "[IPv6:2001:db8::1]", "[x-tag:a=b]", "d" * 252, "d" * 255]),
)
non_ascii = st.text(st.characters(min_codepoint=0xA0, codec="utf-8"), min_size=1, max_size=9)
u_domains = st.one_of(domains, non_ascii, non_ascii.map(lambda label: f"a-{label}.b"))

locals_ = st.one_of(
    st.from_regex(r"[a-z!#$%&'*+/=?^_`{|}~-]{1,20}(\.[A-Z0-9]{1,9})?", fullmatch=True),
    printable.map(lambda text: text[:64]),
    st.sampled_from(["", '"', "\\", "a@b", "a>b", "a" * 64, '"' * 64, ".", "a..b"]),
    non_ascii,
    st.builds("{}{}".format, non_ascii, printable),
)


@st.composite
def mailboxes(draw: st.DrawFn) -> smtp.Mailbox:
    """Generates the mailboxes that can be built."""
    while True:
        try:
            return smtp.Mailbox(draw(locals_), draw(u_domains))
        except LocalProtocolError:
            continue


recipients = st.one_of(mailboxes(), st.sampled_from([smtp.Mailbox("Postmaster", ""), smtp.Mailbox("POSTMASTER", "")]))
parameters = st.dictionaries(
    st.sampled_from(["X-A", "RETS", "MT-PRIORITY"]),
    st.none() | st.from_regex(r"[!-<>-~]{1,9}", fullmatch=True),
)
u_printable = st.text(st.characters(min_codepoint=0x20, codec="utf-8"), min_size=1, max_size=30).filter(is_text)


def needs_smtputf8(path: smtp.Mailbox | None) -> bool:
    return path is not None and not str(path).isascii()


@st.composite
def mails(draw: st.DrawFn) -> smtp.Mail:
    path = draw(st.none() | mailboxes())
    return draw(
        st.builds(
            smtp.Mail,
            reverse_path=st.just(path),
            size=st.none() | st.integers(0, 10**20 - 1),
            body=st.none() | st.sampled_from(smtp.Body),
            auth=st.none() | printable.filter(bool),
            ret=st.none() | st.sampled_from(smtp.Ret),
            envelope_id=st.none() | printable.filter(bool).map(lambda text: text[:33]),
            require_tls=st.booleans(),
            smtputf8=st.just(True) if needs_smtputf8(path) else st.booleans(),
            parameters=parameters,
        )
    )


commands: st.SearchStrategy[LineCommand] = st.one_of(
    st.builds(smtp.Hello, domain=domains | st.sampled_from(["host_name", "a.b."]), extended=st.booleans()),
    st.builds(smtp.Hello, domain=domains, lmtp=st.just(True)),
    mails(),
    st.builds(
        smtp.Rcpt,
        forward_path=recipients,
        notify=st.none()
        | st.just(frozenset({smtp.Notify.NEVER}))
        | st.frozensets(st.sampled_from([smtp.Notify.SUCCESS, smtp.Notify.FAILURE, smtp.Notify.DELAY]), min_size=1),
        original_recipient=st.none()
        | st.builds(smtp.OriginalRecipient, st.sampled_from(["rfc822", "X-400", "x!"]), printable.filter(bool))
        | st.builds(smtp.OriginalRecipient, st.sampled_from(["utf-8", "UTF-8"]), u_printable),
        parameters=parameters,
    ),
    st.builds(Bdat, size=st.integers(0, 10**20 - 1), last=st.booleans()),
    st.builds(smtp.Noop, argument=stripped),
    st.builds(smtp.Help, argument=stripped),
    st.builds(smtp.Vrfy, argument=stripped.filter(bool), smtputf8=st.booleans()),
    st.builds(smtp.Vrfy, argument=u_printable.map(lambda text: f"{text}é".lstrip(" ")), smtputf8=st.booleans()),
    st.builds(
        Auth,
        mechanism=st.from_regex(r"[A-Z0-9_-]{1,20}", fullmatch=True),
        initial_response=st.none() | st.from_regex(rb"[A-Za-z0-9+/=]{1,20}", fullmatch=True),
    ),
    st.sampled_from([smtp.Data(), smtp.Rset(), smtp.Quit(), smtp.StartTls()]),
)


def read(line: bytes) -> LineCommand:
    verb, argument = split_line(line, smtputf8=True, strict=True)
    command: LineCommand = ROWS[verb].parse(argument)
    return command


@given(commands)
def test_command_round_trips_through_its_line(command: LineCommand) -> None:
    """RFC 5321 section 4.1: parse(to_wire(x)) == x; of non-ASCII only printable text (RFC 6531 section 3.3)."""
    wire = command.to_wire()
    assert wire.endswith(b"\r\n")
    assert is_text(wire[:-2].decode())
    assert exact(read(wire[:-2])) == exact(command)
    verb, argument = split_line(wire[:-2], smtputf8=True)
    assert normalize(verb, argument) == argument  # a tolerant server reads the same


@given(commands)
def test_commands_are_frozen_and_hashed_by_value(command: LineCommand) -> None:
    """architecture.md, A connection: frozen, equal by value, and hashable."""
    twin = read(command.to_wire()[:-2])
    assert twin is not command
    assert {command: 1}[twin] == 1
    with pytest.raises(AttributeError):
        command.__setattr__("verb", "XXXX")


@given(recipients)
def test_mailbox_round_trips_through_its_text(mailbox: smtp.Mailbox) -> None:
    """RFC 5321 section 4.1.2."""
    if mailbox.domain:
        assert exact(smtp.Mailbox.parse(str(mailbox))) == exact(mailbox)
        assert exact(*parse_path(f"<{mailbox}>")) == exact(mailbox, ())


@given(st.text(max_size=8), st.text(max_size=8))
def test_valid_mailbox_serializes_to_one_line(local_part: str, domain: str) -> None:
    """No byte of a mailbox can break a line."""
    try:
        mailbox = smtp.Mailbox(local_part, domain)
    except LocalProtocolError:
        return
    assert is_text(str(mailbox))
    assert len(str(mailbox).encode().splitlines()) == 1


def test_mailbox_too_long_for_a_path_is_rejected() -> None:
    """RFC 5321 section 4.5.3.1.3: quoting counts."""
    assert len(str(smtp.Mailbox("a", "d" * 252))) == 254
    for local_part, domain in (("a", "d" * 253), ("a" * 64, "d" * 200), ('"' * 10, "d" * 234)):
        with pytest.raises(LocalProtocolError):
            smtp.Mailbox(local_part, domain)


@pytest.mark.parametrize("line", [b"NOOP  ", b"HELP x ", b"VRFY x ", b"VRFY ", b"RSET x", b"EHLO x ", b"AUTH PLAIN "])
def test_line_with_invalid_argument_is_malformed(line: bytes) -> None:
    """The error of a constructor never leaves a codec."""
    with pytest.raises(Malformed):
        read(line)


WORDS = (
    "MAIL FROM: mail from:<a@b> RCPT TO: <> @ . , .. < > <c.d@e-f.g> SIZE=1 size=007 BODY=7BIT [192.0.2.1] DATA data"
    " QUIT rSet NOOP x - _ % ! Postmaster"
)
ODDITIES = (" ", "  ", "\t", '"', "\\", "é", "a" * 64, "a" * 65, "d" * 181, " SIZE=", "1" * 20, "1" * 21, "NOOP\r")
BODIES = (" BODY=8BITMIME", " BODY=7BIT", " SIZE=7")
HELLOS = ("EHLO ", "eHlO a_b.", "-.c", "d" * 255, "d" * 256)
STARTS = ("MAIL FROM:<", "@example.test>", "@Example.Test>", "RCPT TO:<", "RCPT TO:<A@B>", "MAIL FROM:<>", "<@r:a@b>")
PARAMETERS = (" X-A=1", " AUTH=<>", " RET=FULL", " ENVID=a", " NOTIFY=NEVER", " ORCPT=rfc822;a", " SMTPUTF8", " SIZE")
fragments = st.sampled_from([*WORDS.split(), *ODDITIES, *BODIES, *STARTS, *HELLOS])


@pytest.mark.parametrize("strict", [False, True])
@given(
    st.binary(max_size=60)
    | st.builds(
        "{}{}".format,
        st.sampled_from([*(f"{verb} " for verb in sorted(ROWS)), "MAIL FROM:<a@b>", "RCPT TO:<a@b>"]),
        st.text(max_size=30) | st.lists(fragments | st.sampled_from(PARAMETERS), max_size=4).map("".join),
    ).map(str.encode)
)
def test_line_of_a_known_verb_parses_or_raises_malformed(strict: bool, line: bytes) -> None:
    """Codecs raise Malformed and nothing else."""
    try:
        verb, argument = split_line(line, smtputf8=True, strict=strict)
        command = ROWS[verb].parse(argument) if verb in ROWS else None
    except Malformed:
        return
    assert command is None or isinstance(command, Command)


@given(st.lists(fragments, max_size=7).map("".join))
def test_fast_path_parses_like_the_complete_path(line: str) -> None:
    """The fast path must give the same result."""
    data = line.encode()
    found = COMMON.match(data + b"\r\n")
    command = None if found is None else from_common(found)
    if found is not None and command is not None:
        assert found.end() == len(data) + 2
        assert exact(read(data)) == exact(command)


@pytest.mark.parametrize(
    "line",
    [
        "MAIL FROM:<>",
        "mail from:<a.b@c.d> size=10",
        "MAIL FROM:<a@b> SIZE=1 BODY=8BITMIME",
        "MAIL FROM:<a@b> BODY=7BIT SIZE=1",
        "MAIL FROM:<> BODY=8BITMIME",
        "RCPT TO:<a@b>",
        "MAIL FROM:<A@Example.Test>",
        "RCPT TO:<A@Example.Test>",
        "EHLO client.example.test",
        "ehlo a_b.c-.",
        "data",
        "QUIT",
        "NOOP",
        "RSET",
    ],
)
def test_common_lines_use_the_fast_path(line: str) -> None:
    """Otherwise the test above would test nothing."""
    found = COMMON.match(line.encode("ascii") + b"\r\n")
    assert found is not None
    assert exact(from_common(found)) == exact(read(line.encode("ascii")))


@pytest.mark.parametrize("name", ["d" * 256, "[192.0.2.1]", " c", "c ", "", "c..d", "a!b", "\xe9"])
def test_other_names_of_clients_use_the_complete_path(name: str) -> None:
    found = COMMON.match(f"EHLO {name}\r\n".encode())
    assert found is None or from_common(found) is None


@given(
    st.integers(200, 559).filter(lambda code: code // 10 % 10 <= 5),
    st.booleans(),
    st.lists(st.text("abc .-\t\"<>", min_size=1, max_size=100), min_size=1, max_size=4),
)  # fmt: skip
def test_reply_round_trips_through_its_lines(code: int, enhanced: bool, lines: list[str]) -> None:
    """RFC 5321 section 4.2, RFC 2034 section 4."""
    status = f"{code // 100}.1.1" if enhanced and code // 100 in (2, 4, 5) else ""
    reply = smtp.Reply(code, status, "\n".join(lines))
    rows = reply.to_wire().split(b"\r\n")
    assert rows.pop() == b""
    read_back = [parse_line(row) for row in rows]
    assert [last for _, last, _ in read_back] == [False] * (len(rows) - 1) + [True]
    assert join_lines(code, [text for _, _, text in read_back]) == reply


@given(st.integers(200, 559).filter(lambda code: code // 10 % 10 <= 5), st.text("a b", max_size=2_000))
def test_reply_lines_have_text_and_at_most_512_bytes(code: int, text: str) -> None:
    """RFC 5321 section 4.5.3.1.5; some clients hang on a code alone."""
    rows = smtp.Reply(code, "", text).to_wire().split(b"\r\n")[:-1]
    assert all(4 < len(row) <= 510 for row in rows)
    assert text in ("", b"".join(row[4:] for row in rows).decode("ascii"))


@pytest.mark.parametrize("code", [0, 199, 600, 666, -250])
def test_invalid_reply_code_is_rejected(code: int) -> None:
    """RFC 5321 section 4.2.1."""
    with pytest.raises(LocalProtocolError):
        smtp.Reply(code)


@pytest.mark.parametrize("status", ["2", "2.0", "3.0.0", "2.0.0.0", "2.0.0 ", "2.1000.0", "a.b.c", "2.0.0\n"])
def test_invalid_enhanced_status_code_is_rejected(status: str) -> None:
    """RFC 3463 section 2."""
    with pytest.raises(LocalProtocolError):
        smtp.Reply(250, status)


def test_text_in_place_of_the_enhanced_status_code_is_an_error_that_says_where_it_belongs() -> None:
    with pytest.raises(LocalProtocolError, match=r"such as 5\.7\.1, or empty; pass the text as text=\.\.\."):
        smtp.Reply(451, "try again")


@pytest.mark.parametrize("text", ["a\rb", "a\0b", "é", "a\x7f", "a\r\nb"])
def test_invalid_reply_text_is_rejected(text: str) -> None:
    """CRLF injection."""
    with pytest.raises(LocalProtocolError):
        smtp.Reply(250, "", text)


@given(u_printable)
def test_utf_8_address_round_trips_through_its_ascii_encoding(text: str) -> None:
    """RFC 6533 section 3."""
    encoded = encode_unitext(text)
    assert decode_unitext(encoded) == text
    assert encoded.isascii()
    assert not set(" +=") & set(encoded)


@given(printable)
def test_printable_text_round_trips_through_xtext(text: str) -> None:
    """RFC 3461 section 4."""
    encoded = encode_xtext(text)
    assert decode_xtext(encoded) == text
    assert " " not in encoded
    assert "=" not in encoded


@pytest.mark.parametrize("text", ["+", "+4", "+4g", "+3d", "a=b", "a b", "+00", "+0D+0A", "é", "+FF"])
def test_invalid_xtext_is_malformed(text: str) -> None:
    """RFC 3461 section 4."""
    with pytest.raises(Malformed):
        decode_xtext(text)
